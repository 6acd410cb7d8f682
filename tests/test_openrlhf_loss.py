"""OpenRLHF's losses on packed micro-batches, against their formulas on whole train batches."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ranks import RankPool
from tiny_models import make_samples

CASES: dict[str, list[str]] = {
    "clip": [],
    "uneven clip": ["--actor.eps_clip_low_high", "0.05", "0.3"],
    "dual clip": ["--actor.dual_clip", "1.5"],
    "entropy bonus": ["--actor.entropy_coef", "0.01"],
    "sequence mean": ["--actor.loss_agg_mode", "seq-mean-token-mean"],
    "KL loss": ["--algo.kl.init_coef", "0.05", "--algo.kl.use_loss", "--algo.kl.estimator", "k3"],
}


@pytest.fixture(scope="module")
def openrlhf_process() -> Iterator[RankPool]:
    """A process of its own: OpenRLHF brings vLLM and DeepSpeed, and a stand-in for flash-attn."""
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
    from openrlhf_sfpo.megatron.train.pipeline import LossNorm
    from openrlhf_sfpo.orchestration.loss import OpenRLHFLoss

    function = OpenRLHFLoss(args, args.algo.kl.init_coef)
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
    by_sequence = args.actor.loss_agg_mode.startswith("seq")
    tokens = sum(int(sample.action_mask.sum()) for sample in samples)

    def loss_of(leaves: list[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(())
        for sample, (log_probs, entropy) in zip(samples, leaves, strict=True):
            mask = sample.action_mask
            ratio = (log_probs - sample.old_log_probs).exp()
            gain = torch.minimum(ratio * sample.advantages, ratio.clamp(1 - low, 1 + high) * sample.advantages)
            if args.actor.dual_clip:
                floor = torch.maximum(gain, args.actor.dual_clip * sample.advantages)
                gain = torch.where(sample.advantages < 0, floor, gain)
            weight = 1 / (mask.sum() * len(samples)) if by_sequence else 1 / tokens
            total = total - (gain * mask).sum() * weight
            if args.actor.entropy_coef:
                total = total - args.actor.entropy_coef * (entropy * mask).sum() / tokens
            if args.algo.kl.use_loss:
                against = sample.base_log_probs - log_probs
                total = total + args.algo.kl.init_coef * ((against.exp() - 1 - against) * mask).sum() / tokens
        return total

    return gradient(values, loss_of)
