"""The Megatron actor's settings, from the flags of a run."""

import math

from openrlhf_sfpo.config.flag_table import settings
from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.megatron.settings import ActorSettings
from openrlhf_sfpo.orchestration.algorithm import needs_every_sample
from openrlhf_sfpo.system.cpus import usable_cpus


def actor_settings(args: NestedFlags, max_steps: int | None) -> ActorSettings:
    """The Megatron actor's settings from the flags, which the launcher has resolved for the device."""
    assert args.megatron.device != "auto", "the launcher decides before any actor starts"
    on_cpu = args.megatron.device == "cpu"
    return ActorSettings.of(
        settings(args) | {"total_steps": _schedule_steps(args, max_steps or 0)},
        # Longer than the watchdog's timeout, because its report says more about a hang.
        timeout=2 * args.train.timeout + 60,
        skip_zero_advantages=args.train.skip_zero_advantage == "auto" and needs_every_sample(args) is None,
        num_threads=max(1, usable_cpus() // args.actor.num_gpus_per_node) if on_cpu else None,
    )


def _schedule_steps(args: NestedFlags, max_steps: int) -> int:
    """Optimizer steps of the whole run. OpenRLHF's `max_steps` counts full train batches; each rollout batch here may
    end with a smaller one, and makes at least one step."""
    samples = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    steps = math.ceil(samples / args.train.batch_size)
    return max(1, math.ceil(max_steps * args.train.batch_size * steps / samples))
