"""OpenRLHF's own losses as the loss function of the Megatron actor."""

import torch
from openrlhf.models import PolicyLoss, aggregate_loss
from openrlhf.models.utils import compute_approx_kl

from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.megatron.data.batching import MicroBatch, PerPosition
from openrlhf_sfpo.megatron.data.loss_types import LossAndMetrics, LossNorm
from openrlhf_sfpo.orchestration.engine_gap import EngineGap


class OpenRLHFLoss:
    """Policy loss, KL loss and entropy bonus, combined as in OpenRLHF's actor with the same flags.

    OpenRLHF multiplies losses by the numbers of data-parallel ranks and of accumulation steps, because DeepSpeed
    averages gradients over both. Here gradients are summed, so neither factor applies.

    Args:
        args: OpenRLHF's nested arguments.
        kl_coef: weight of the KL loss.
        entropy_coef: weight of the entropy bonus.

    Attributes:
        engine_gap: the distances between the engine's and the old log-probabilities, over all calls so far.
    """

    def __init__(self, args: NestedFlags, kl_coef: float, entropy_coef: float) -> None:
        advantage = args.algo.advantage
        self._args = args
        self._kl_coef, self._entropy_coef = kl_coef, entropy_coef
        self.engine_gap = EngineGap()
        self._policy_loss = PolicyLoss(
            clip_eps_low=args.actor.eps_clip_low_high[0],
            clip_eps_high=args.actor.eps_clip_low_high[1],
            dual_clip=args.actor.dual_clip,
            token_level_loss=args.actor.loss_agg_mode == "token-mean",
            policy_loss_type=args.actor.policy_loss_type,
            is_correction_level=advantage.is_correction_level,
            is_correction_mode=advantage.is_correction_mode,
            is_correction_gating=advantage.is_correction_gating,
            is_correction_threshold=advantage.is_correction_threshold,
        )

    def __call__(
        self, log_probs: PerPosition, entropy: PerPosition, batch: MicroBatch, norm: LossNorm
    ) -> LossAndMetrics:
        """See `openrlhf_sfpo.megatron.data.loss_types.LossFunction`."""
        mask, old = batch.action_mask, batch.floats["old_log_probs"]
        rollout = batch.floats.get("rollout_log_probs")
        totals = {"batch_num_tokens": norm.num_tokens, "global_batch_size": norm.num_sequences}
        loss, clip_ratio, ppo_kl, vllm_kl, filtered = self._policy_loss(
            log_probs, old, batch.floats["advantages"], action_mask=mask, rollout_log_probs=rollout, **totals
        )
        count = mask.sum()
        ratio = (log_probs.detach() - old).exp() * mask
        moments = {"ratio": ratio.sum() / count, "ratio_square": ratio.square().sum() / count}
        metrics = {"clip_ratio": clip_ratio, "ppo_kl": ppo_kl, **moments}
        if vllm_kl is not None:
            metrics.update(vllm_kl=vllm_kl, is_filter_ratio=filtered)
        if rollout is not None:
            metrics["rollout_log_prob_abs_diff"] = ((old - rollout).abs() * mask).sum() / count
            self.engine_gap.add(old, rollout, mask)
        if self._args.algo.kl.use_loss and self._args.algo.kl.init_coef > 0:
            kl, metrics["logprobs_diff"] = self._kl(log_probs, batch)
            loss = loss + self._kl_coef * aggregate_loss(kl, mask, **totals)
            metrics["kl"] = (kl * mask).sum() / count
        if self._entropy_coef:
            loss = loss - self._entropy_coef * aggregate_loss(entropy, mask, **totals)
        return loss, metrics

    def _kl(self, log_probs: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Per-token KL estimate [B, A] against the reference model, and the mean log-ratio to it."""
        base, mask = batch.floats["base_log_probs"], batch.action_mask
        kl = compute_approx_kl(
            log_probs,
            base,
            log_probs_old=batch.floats["old_log_probs"],
            kl_estimator=self._args.algo.kl.estimator,
            unbiased_gradient=self._args.algo.kl.unbiased_gradient,
        )
        return kl, ((log_probs.detach() - base) * mask).sum() / mask.sum()
