"""Log-probabilities and entropies of chosen tokens from a vocabulary-parallel output layer, in chunks.

Logits exist for one chunk of rows at a time, in the forward pass and again in the backward pass, which recomputes them.
"""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.distributed as dist


class _LogProbsAndEntropy(torch.autograd.Function):
    """log p(label) and entropy H of softmax(hidden @ weight.T / temperature).

    With x the scaled logits, p = softmax(x) and L = logsumexp(x):
        log p_y = x_y - L,                d log p_y / dx_j = [j = y] - p_j
        H = L - sum_j p_j x_j,            d H / dx_j = -p_j (x_j - L + H)
    Sums over j run over the vocabulary shards of the tensor-parallel group.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        vocab_size: int,
        temperature: float,
        chunk_size: int,
        group: dist.ProcessGroup,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = group.rank() * weight.shape[0]
        valid = min(weight.shape[0], vocab_size - first)  # rows beyond the vocabulary are padding
        rows = hidden.shape[0]
        log_probs = hidden.new_empty(rows, dtype=torch.float32)
        entropy = torch.empty_like(log_probs)
        lse = torch.empty_like(log_probs)
        operand = _operand(weight)
        for start in range(0, rows, chunk_size):
            part = slice(start, min(start + chunk_size, rows))
            logits = _logits(hidden[part], operand, valid, temperature)
            local = labels[part] - first
            mine = (local >= 0) & (local < valid)
            peak = logits.amax(dim=-1)
            _all_reduce(peak, dist.ReduceOp.MAX, group)
            label_logit = logits.gather(1, local.clamp(0, valid - 1).unsqueeze(1)).squeeze(1) - peak
            logits.sub_(peak.unsqueeze(1))
            exp = logits.exp()
            sums = torch.stack([exp.sum(dim=-1), (exp * logits).sum(dim=-1), torch.where(mine, label_logit, 0.0)])
            _all_reduce(sums, dist.ReduceOp.SUM, group)
            total, weighted, label_logit = sums
            log_probs[part] = label_logit - total.log()
            entropy[part] = total.log() - weighted / total
            lse[part] = peak + total.log()
        ctx.save_for_backward(hidden, weight, labels, lse, entropy)
        ctx.settings = (first, valid, temperature, chunk_size, group)
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, grad_log_probs: torch.Tensor, grad_entropy: torch.Tensor) -> tuple[Any, ...]:
        hidden, weight, labels, lse, entropy = ctx.saved_tensors
        first, valid, temperature, chunk_size, group = ctx.settings
        grad_hidden = torch.zeros_like(hidden)
        # fp32 even for bf16 weights: rounding errors of many chunks would accumulate.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        operand = _operand(weight)
        for start in range(0, hidden.shape[0], chunk_size):
            part = slice(start, min(start + chunk_size, hidden.shape[0]))
            logits = _logits(hidden[part], operand, valid, temperature)
            log_p = logits.sub_(lse[part].unsqueeze(1))
            grad_label, grad_h = grad_log_probs[part].unsqueeze(1), grad_entropy[part].unsqueeze(1)
            grad_logits = log_p.exp()
            grad_logits.mul_(-(grad_label + grad_h * (log_p + entropy[part].unsqueeze(1))))
            local = labels[part] - first
            mine = ((local >= 0) & (local < valid)).nonzero().squeeze(1)
            grad_logits[mine, local[mine]] += grad_log_probs[part][mine]
            grad_logits = (grad_logits / temperature).to(hidden.dtype)
            grad_hidden[part] = grad_logits @ weight[:valid]
            if grad_weight.dtype == hidden.dtype:
                grad_weight[:valid].addmm_(grad_logits.t(), hidden[part])
            else:
                grad_weight[:valid] += grad_logits.t() @ hidden[part]
        _all_reduce(grad_hidden, dist.ReduceOp.SUM, group)
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None, None


def log_probs_and_entropy(
    hidden: Annotated[torch.Tensor, "float rows hidden_size"],
    weight: Annotated[torch.Tensor, "float vocabulary hidden_size"],
    labels: Annotated[torch.Tensor, "int64 rows"],
    *,
    vocab_size: int,
    temperature: float,
    chunk_size: int,
    group: dist.ProcessGroup,
) -> tuple[Annotated[torch.Tensor, "float32 rows"], Annotated[torch.Tensor, "float32 rows"]]:
    """Log-probability of each label and entropy of each distribution, differentiable in `hidden` and `weight`.

    The matrix product returns fp32 logits, even for bf16 operands: rounded to bf16, logits of magnitude 16 would be off
    by up to 0.06. They are then divided by the temperature, as in OpenRLHF.

    Args:
        hidden: [rows, hidden_size], the same on every rank of `group`.
        weight: [vocabulary / group size, hidden_size], this rank's rows of the output layer.
        labels: int64 [rows], token ids below `vocab_size`.
        vocab_size: rows of the full output layer that are real tokens; the rest is padding with no probability.
        temperature: the softmax's temperature.
        chunk_size: rows whose logits exist at the same time.
        group: the tensor-parallel group.

    Returns:
        log_probs and entropy (nats), fp32 [rows] each, identical on every rank of `group`.
    """
    return _LogProbsAndEntropy.apply(hidden, weight, labels, vocab_size, temperature, chunk_size, group)


def _operand(weight: torch.Tensor) -> torch.Tensor:
    """The output layer in the form for `_logits`, prepared once for all chunks."""
    return weight.float() if weight.device.type == "cpu" else weight


def _logits(hidden: torch.Tensor, weight: torch.Tensor, valid: int, temperature: float) -> torch.Tensor:
    """fp32 [rows, valid]: scaled logits of this rank's part of the vocabulary."""
    operand = weight[:valid].t()
    if hidden.dtype == weight.dtype == torch.float32:
        logits = hidden @ operand
    elif hidden.device.type == "cuda":
        logits = torch.mm(hidden, operand, out_dtype=torch.float32)
    else:
        # bf16 products with fp32 sums: exact for operands that came from bf16, at twice the speed of fp32.
        with _bf16_products():
            logits = hidden.float() @ operand
    return logits if temperature == 1.0 else logits.div_(temperature)


@contextlib.contextmanager
def _bf16_products() -> Iterator[None]:
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # of the object that replaces the module
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _all_reduce(tensor: torch.Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup) -> None:
    if group.size() > 1:
        dist.all_reduce(tensor, op=op, group=group)
