"""The update that the --sfpo.* flags ask for."""

from collections.abc import Callable

from openrlhf_sfpo.config.effective_update import fast_part
from openrlhf_sfpo.config.flags import SFPOConfig
from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.sfpo import (
    FastLimits,
    FastPart,
    Gate,
    OuterMomentum,
    OwnedWeights,
    PredictiveSettings,
    SlowCopy,
    SlowFastUpdate,
)


def needs_old_log_probs(args: NestedFlags, samples: int) -> bool:
    """Whether the log-probabilities at theta_0 must be computed before the update; otherwise its first forward pass
    gives them.

    Args:
        args: OpenRLHF's nested arguments and ours.
        samples: the number of samples in the rollout batch.
    """
    kl_in_reward = args.algo.kl.init_coef > 0 and not args.algo.kl.use_loss
    return (
        args.megatron.old_log_probs == "separate"
        or fast_part(args.sfpo) > 0  # the first pass does not see all samples
        or samples > args.train.batch_size
        or args.algo.advantage.is_correction_level != "off"
        or kl_in_reward
        or args.algo.adaptive_entropy.enable  # its weight must be known before the first pass
    )


def needs_every_sample(args: NestedFlags) -> str | None:
    """The flag whose loss term has a gradient for samples without an advantage, if any."""
    if args.actor.entropy_coef:
        return "--actor.entropy_coef"
    if args.algo.adaptive_entropy.enable:
        return "--algo.adaptive_entropy.enable"
    if args.algo.kl.use_loss and args.algo.kl.init_coef > 0:
        return "--algo.kl.use_loss"
    return None


def why_every_sample_is_trained_on(args: NestedFlags) -> str | None:
    """What to tell the user where samples without an advantage could have been left out, but for a flag."""
    flag = needs_every_sample(args)
    if flag is None or args.train.skip_zero_advantage == "off":
        return None
    return (
        f"samples without an advantage are trained on as well, because {flag} has a gradient for them "
        "(--train.skip_zero_advantage off: no such notice)"
    )


def build_update(config: SFPOConfig, weights: OwnedWeights, on_stage: Callable[[str], None]) -> SlowFastUpdate:
    """Build the algorithm over the weights of any backend.

    Args:
        config: the flags; without `enable` the update is GRPO.
        weights: the weights that the optimizer owns on this rank.
        on_stage: called with each stage's name when it begins.
    """
    gate = Gate(
        config.gate,
        config.gate_window,
        config.gate_threshold,
        config.stop_step,
        warmup=config.gate_warmup,
        patience=config.gate_patience,
        after=config.gate_after,
        decay_steps=config.gate_decay_steps,
    )
    return SlowFastUpdate(
        weights,
        config.k,
        config.alpha,
        gate,
        slow_copy=SlowCopy(weights, config.optimizer_state, config.snapshot_device),
        preset=config.preset if config.enable else "grpo",
        part=FastPart(config.fast_fraction, config.fast_selection, config.fast_rescale),
        predictive=PredictiveSettings(
            config.prepo_retention, config.prepo_corrective, config.prepo_per, config.prepo_max_zero_rewards
        ),
        outer=OuterMomentum(config.outer_momentum, config.outer_lr) if config.enable else None,
        limits=FastLimits(config.max_fast_kl, config.max_fast_clip_ratio, config.min_fast_ess),
        entropy_source=config.gate_entropy,
        on_stage=on_stage,
    )
