"""The clipped policy-gradient loss of PPO and GRPO, for use where OpenRLHF is not installed."""

from dataclasses import dataclass

import torch

from openrlhf_sfpo.megatron.data.batching import MicroBatch, PerPosition
from openrlhf_sfpo.megatron.data.loss_types import LossAndMetrics, LossNorm


@dataclass(frozen=True)
class PPOClipLoss:
    """L = mean over tokens of -min(r A, clip(r, 1 - low, 1 + high) A) - entropy_coef * H, with r = exp(lp - lp_old).

    Source of the formula: PPO, arXiv 1707.06347, equation 7; token mean over the train batch as in DAPO,
    arXiv 2503.14476.

    Attributes:
        clip_low, clip_high: the ratio's clipping distance below and above 1.
        entropy_coef: weight of the entropy bonus.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    entropy_coef: float = 0.0

    def __call__(
        self, log_probs: PerPosition, entropy: PerPosition, batch: MicroBatch, norm: LossNorm
    ) -> LossAndMetrics:
        """See `loss_types.LossFunction`."""
        mask = batch.action_mask
        log_ratio = log_probs - batch.floats["old_log_probs"]
        advantages = batch.floats["advantages"]
        ratio = log_ratio.exp()
        unclipped = ratio * advantages
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * advantages
        per_token = -torch.minimum(unclipped, clipped) - self.entropy_coef * entropy
        loss = (per_token * mask).sum() / norm.num_tokens
        count = mask.sum()
        metrics = {
            "ppo_kl": (-log_ratio * mask).sum() / count,
            "clip_ratio": ((clipped < unclipped) * mask).sum() / count,
            "ratio": (ratio * mask).sum() / count,
            "ratio_square": (ratio.square() * mask).sum() / count,
        }
        return loss, metrics
