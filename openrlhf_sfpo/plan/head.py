"""The output layer (megatron/model/log_probs.py): logits of one chunk of tokens, and the gradient of its weight."""

import math

from openrlhf_sfpo.plan.setup import Setup


def rows(setup: Setup) -> int:
    """Rows of the output layer on each tensor-parallel rank."""
    return math.ceil(setup.model.vocab_size / setup.layout.tp)


def forward(setup: Setup) -> int:
    """Three fp32 tensors of chunk x vocabulary / TP at a time: logits, exp(logits) and their product. On CPUs with
    16-bit parameters also an fp32 copy of the weight."""
    return 3 * _logits(setup) + _operand(setup)


def backward(setup: Setup) -> int:
    """The weight's gradient, in fp32 until it is complete, and that of the hidden states. In addition either four fp32
    tensors of chunk x vocabulary / TP (log-probabilities, probabilities, and two intermediate results), or, with 16-bit
    parameters, the chunk's share of the weight's gradient in their dtype and the logits' gradient in both dtypes."""
    weight = rows(setup) * setup.model.hidden_size
    hidden = setup.element * setup.local_tokens * setup.model.hidden_size
    share = setup.element * weight + _logits(setup) * 3 // 2 if setup.element < 4 else 0
    return 4 * weight + hidden + max(4 * _logits(setup), share) + _operand(setup)


def _logits(setup: Setup) -> int:
    return 4 * min(setup.log_prob_chunk_size, setup.local_tokens) * rows(setup)


def _operand(setup: Setup) -> int:
    return 4 * rows(setup) * setup.model.hidden_size if setup.element < 4 and not setup.cuda else 0
