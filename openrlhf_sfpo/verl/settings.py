"""The settings under `actor_rollout_ref.sfpo` in verl's config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from openrlhf_sfpo.config.flag_table import ranges
from openrlhf_sfpo.config.flags import SFPOConfig

NAME = "actor_rollout_ref.sfpo"
# What cannot be had in verl, and why.
REFUSED: dict[str, tuple[Any, str]] = {
    "fast_fraction": (1.0, "a pass is verl's own traversal, which takes every sample"),
    "prepo_per": ("pass", "a pass is verl's own traversal of all mini-batches"),
    "prepo_max_zero_rewards": (None, "the actor's workers do not know the rewards"),
    "min_fast_ess": (None, "verl's losses do not report an effective sample size"),
    "outer_momentum": (0.0, "verl's checkpoints would not include it"),
    "outer_lr": (1.0, "it is part of the outer momentum, which verl's checkpoints would not include"),
    "gate_entropy": ("slow_pass", "the actor's workers do not know the entropy at theta_0"),
}


def settings_of(config: Mapping[str, Any]) -> SFPOConfig | None:
    """The settings in the config of a worker (`actor_rollout_ref`); None if there are none, or SFPO is off.

    Raises:
        ValueError: an unknown or refused setting, or a value out of range.
    """
    given = config.get("sfpo")
    if given is None:
        return None
    values = {str(name): value for name, value in given.items()}
    known = sorted(field.name for field in dataclasses.fields(SFPOConfig))
    limits = ranges()
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{NAME}.{name}: there is no such setting. There are {', '.join(known)}.")
        allowed = limits.get(f"sfpo.{name}")
        if allowed is not None and value is not None and value not in allowed:
            raise ValueError(f"{NAME}.{name}: is {value}. {allowed.fix}")
        if name in REFUSED and value != REFUSED[name][0]:
            raise ValueError(f"{NAME}.{name}: is {value}, which SFPO in verl does not support: {REFUSED[name][1]}.")
    found = SFPOConfig(**values)
    return found if found.enable else None
