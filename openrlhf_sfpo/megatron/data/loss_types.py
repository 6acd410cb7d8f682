"""The interface of loss functions."""

from dataclasses import dataclass
from typing import Annotated, Protocol, TypeAlias

import torch

from openrlhf_sfpo.megatron.data.batching import MicroBatch, PerPosition

LossAndMetrics: TypeAlias = tuple[Annotated[torch.Tensor, "float32"], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class LossNorm:
    """The divisors of the losses of one train batch, totals over all micro-batches and ranks.

    Attributes:
        num_tokens: scored tokens.
        num_sequences: sequences with at least one scored token.
    """

    num_tokens: float
    num_sequences: float


class LossFunction(Protocol):
    """Loss of one micro-batch."""

    def __call__(
        self, log_probs: PerPosition, entropy: PerPosition, batch: MicroBatch, norm: LossNorm
    ) -> LossAndMetrics:
        """Compute the loss.

        Args:
            log_probs: fp32 [B, A], current log-probabilities, zero where `batch.action_mask` is.
            entropy: fp32 [B, A], likewise.
            batch: masks and per-position fields; at least one position is scored.
            norm: totals of the train batch.

        Returns:
            This micro-batch's share of the train batch's loss (the shares of all micro-batches on all data-parallel
            ranks add up to the loss), and metrics: 0-dim tensors, each a mean over this micro-batch's scored tokens,
            which the actor averages by token. `ppo_kl` and `clip_ratio` are required. `ratio` and
            `ratio_square`, of the probabilities now and before the update, give the effective sample size.
        """
