"""OpenRLHF's losses on packed micro-batches, against their formulas on whole train batches."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ranks import RankPool
from tiny_models import make_samples


def correction(level: str, mode: str, *threshold: float, gating: str = "ratio") -> list[str]:
    """The flags of an importance-sampling correction between engine and actor."""
    flags = {"level": [level], "mode": [mode], "gating": [gating], "threshold": [str(one) for one in threshold]}
    return [word for name, values in flags.items() for word in (f"--algo.advantage.is_correction_{name}", *values)]


CASES: dict[str, list[str]] = {
    "clip": [],
    "uneven clip": ["--actor.eps_clip_low_high", "0.05", "0.3"],
    "dual clip": ["--actor.dual_clip", "1.5"],
    "entropy bonus": ["--actor.entropy_coef", "0.01"],
    "sequence mean": ["--actor.loss_agg_mode", "seq-mean-token-mean"],
    "GSPO": ["--actor.policy_loss_type", "gspo", "--actor.eps_clip_low_high", "0.02", "0.03"],
    "GSPO against the engine": ["--actor.policy_loss_type", "gspo", *correction("token", "mask", 0.5, 5.0)],
    "truncated importance sampling": correction("token", "clip", 0.0, 1.2),
    "IcePop": correction("token", "mask", 0.7, 1.3),
    "sequences in a band": correction("seq", "mask", 0.9, 1.1),
    "tokens by binary KL": correction("token", "mask", 0.0, 0.05, gating="binary_kl"),
    "sequences by total variation": correction("seq", "mask", 0.0, 0.12, gating="tv"),
    "KL loss": ["--algo.kl.init_coef", "0.05", "--algo.kl.use_loss", "--algo.kl.estimator", "k3"],
}


@pytest.fixture(scope="module")
def openrlhf_process() -> Iterator[RankPool]:
    """A separate process: OpenRLHF imports vLLM and DeepSpeed, and needs a stub of flash-attn."""
    pool = RankPool()
    yield pool
    pool.close()


@pytest.mark.parametrize("case", CASES)
def test_openrlhfs_losses_equal_their_formulas(openrlhf_process: RankPool, case: str) -> None:
    """Two micro-batches of unequal length must add up to the loss and the gradient of the whole train batch."""
    ((ours, plain),) = openrlhf_process.run(1, both, CASES[case], make_samples(7, seed=4))
    assert ours[0] == pytest.approx(plain[0], rel=1e-5, abs=1e-7)
    torch.testing.assert_close(ours[1], plain[1], rtol=1e-4, atol=1e-7)
    assert plain[1].abs().max() > 0


def both(words: list[str], samples: list[Any]) -> tuple[tuple[float, torch.Tensor], tuple[float, torch.Tensor]]:
    from openrlhf_sfpo.cli.flags import build_parser
    from openrlhf_sfpo.config.namespaces import nested
    from openrlhf_sfpo.system.flash_attn_stub import install_if_missing

    install_if_missing()
    args = nested(build_parser().parse_args(words))
    if args.actor.eps_clip_low_high is None:
        args.actor.eps_clip_low_high = (args.actor.eps_clip, args.actor.eps_clip)
    generator = torch.Generator().manual_seed(1)
    for sample in samples:
        size = (len(sample.action_mask),)
        sample.old_log_probs = -torch.rand(size, generator=generator)
        sample.base_log_probs = -torch.rand(size, generator=generator)
        apart = 0.8 * torch.rand(size, generator=generator) - 0.4
        sample.rollout_log_probs = (sample.old_log_probs + apart).clamp(max=-0.01)
    values = [torch.stack([-torch.rand(len(s.action_mask)), torch.rand(len(s.action_mask))]) for s in samples]
    return packed(args, samples, values), formula(args, samples, values)


def gradient(
    values: list[torch.Tensor], loss_of: Callable[[list[torch.Tensor]], torch.Tensor]
) -> tuple[float, torch.Tensor]:
    leaves = [value.clone().requires_grad_() for value in values]
    loss = loss_of(leaves)
    loss.backward()
    return loss.item(), torch.cat([leaf.grad.flatten() for leaf in leaves])


def packed(args: Any, samples: list[Any], values: list[torch.Tensor]) -> tuple[float, torch.Tensor]:
    from openrlhf_sfpo.megatron.data.batching import pack
    from openrlhf_sfpo.megatron.data.loss_types import LossNorm
    from openrlhf_sfpo.orchestration.loss import OpenRLHFLoss

    function = OpenRLHFLoss(args, args.algo.kl.init_coef, args.actor.entropy_coef or 0.0)
    norm = LossNorm(num_tokens=sum(int(s.action_mask.sum()) for s in samples), num_sequences=len(samples))

    def loss_of(leaves: list[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(())
        for part in (slice(0, 3), slice(3, None)):
            batch = pack(samples[part], "cpu")
            flat = torch.cat(leaves[part], dim=1)[:, batch.selected]
            total = total + function(batch.padded(flat[0]), batch.padded(flat[1]), batch, norm)[0]
        return total

    return gradient(values, loss_of)


def formula(args: Any, samples: list[Any], values: list[torch.Tensor]) -> tuple[float, torch.Tensor]:
    low, high = args.actor.eps_clip_low_high
    is_gspo = args.actor.policy_loss_type == "gspo"
    by_sequence = args.actor.loss_agg_mode.startswith("seq") or is_gspo
    tokens = sum(int(sample.action_mask.sum()) for sample in samples)

    def loss_of(leaves: list[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(())
        for sample, (log_probs, entropy) in zip(samples, leaves, strict=True):
            mask = sample.action_mask
            ratio = gspo_ratio(args, sample, log_probs) if is_gspo else (log_probs - sample.old_log_probs).exp()
            gain = torch.minimum(ratio * sample.advantages, ratio.clamp(1 - low, 1 + high) * sample.advantages)
            if args.actor.dual_clip:
                floor = torch.maximum(gain, args.actor.dual_clip * sample.advantages)
                gain = torch.where(sample.advantages < 0, floor, gain)
            if not is_gspo:
                gain = gain * importance(args.algo.advantage, sample)
            weight = 1 / (mask.sum() * len(samples)) if by_sequence else 1 / tokens
            total = total - (gain * mask).sum() * weight
            if args.actor.entropy_coef:
                total = total - args.actor.entropy_coef * (entropy * mask).sum() / tokens
            if args.algo.kl.use_loss:
                against = sample.base_log_probs - log_probs
                total = total + args.algo.kl.init_coef * ((against.exp() - 1 - against) * mask).sum() / tokens
        return total

    return gradient(values, loss_of)


def gspo_ratio(args: Any, sample: Any, log_probs: torch.Tensor) -> torch.Tensor:
    """The sequence's likelihood ratio to the power of one over its length (GSPO, arXiv 2507.18071, equation 7),
    relative to the engine's likelihood if a correction is on."""
    corrected = args.algo.advantage.is_correction_level != "off"
    before = sample.rollout_log_probs if corrected else sample.old_log_probs
    mask = sample.action_mask
    return (log_probs[mask].sum() - before[mask].sum()).div(mask.sum()).exp()


def importance(advantage: Any, sample: Any) -> torch.Tensor | float:
    """The weight of each token: actor's over engine's probability, clipped, or 0 where the token or the sequence is
    outside the band."""
    if advantage.is_correction_level == "off":
        return 1.0
    low, high = advantage.is_correction_threshold
    actor, engine, mask = sample.old_log_probs.exp(), sample.rollout_log_probs.exp(), sample.action_mask
    if advantage.is_correction_mode == "clip":
        return (actor / engine).clamp(low, high)
    if advantage.is_correction_gating == "ratio":
        distance = actor / engine
    elif advantage.is_correction_gating == "tv":
        distance = (engine - actor).abs()
    else:
        distance = engine * (engine / actor).log() + (1 - engine) * ((1 - engine) / (1 - actor)).log()
    if advantage.is_correction_level == "seq":
        is_ratio = advantage.is_correction_gating == "ratio"
        of_tokens = distance[mask].log() if is_ratio else distance[mask]
        distance = of_tokens.mean().exp() if is_ratio else of_tokens.mean()
    keep = (low <= distance) & (distance <= high)
    return keep * actor / engine
