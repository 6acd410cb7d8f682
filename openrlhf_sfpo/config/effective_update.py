"""The flags that affect a run's update."""

from typing import Any

from openrlhf_sfpo.config.flags import SFPOConfig
from openrlhf_sfpo.config.namespaces import NestedFlags


def effective_update(values: dict[str, Any]) -> dict[str, Any]:
    """Those sfpo.* settings of a run, by dotted name, that affect its update: plain GRPO, for example, has no K."""
    found = {name: value for name, value in values.items() if name.startswith("sfpo.")}
    preset = found["sfpo.preset"]
    outer: dict[str, Any] = {n: found[n] for n in ("sfpo.outer_momentum", "sfpo.outer_lr") if n in found}
    if tuple(outer.values()) == (0.0, 1.0) or not found["sfpo.enable"]:
        outer = {}
    if not found["sfpo.enable"] or found["sfpo.k"] == 0 or preset == "grpo":
        # The gate ends an outer momentum as well.
        gate = {name for name in found if name.startswith(("sfpo.gate", "sfpo.stop_step"))} - _unused_gate_flags(found)
        return {"sfpo.preset": "grpo", **outer, **({name: found[name] for name in sorted(gate)} if outer else {})}
    unused = {"sfpo.enable", "sfpo.snapshot_device"} | _unused_gate_flags(found)
    # None means no limit.
    unused |= {name for name, value in found.items() if value is None}
    if found.get("sfpo.fast_fraction") == 1:
        unused.add("sfpo.fast_fraction")
    if preset in ("grpo_k_passes", "extragradient"):
        unused.add("sfpo.alpha")
    if preset in ("grpo_k_passes", "grpo_scaled_lr"):
        unused.add("sfpo.optimizer_state")
    if preset == "grpo_scaled_lr":
        unused |= {"sfpo.max_fast_kl", "sfpo.max_fast_clip_ratio", "sfpo.min_fast_ess", "sfpo.fast_fraction"}
    if preset == "grpo_scaled_lr" or found.get("sfpo.fast_fraction", 1.0) == 1:
        unused |= {"sfpo.fast_selection", "sfpo.fast_rescale"}
    if preset == "prepo":
        unused |= {"sfpo.max_fast_kl", "sfpo.max_fast_clip_ratio", "sfpo.min_fast_ess"}
    else:
        unused |= {name for name in found if name.startswith("sfpo.prepo_")}
    if not outer:
        unused |= {"sfpo.outer_momentum", "sfpo.outer_lr"}
    return {name: value for name, value in found.items() if name not in unused}


def _unused_gate_flags(found: dict[str, Any]) -> set[str]:
    """The flags of the gate that have no effect."""
    unused: set[str] = set()
    if found["sfpo.gate"] == "off":
        unused |= {name for name in found if name.startswith("sfpo.gate_")}
        if found["sfpo.stop_step"] is not None:
            unused -= {"sfpo.gate_after", "sfpo.gate_decay_steps"}
    if found["sfpo.gate_after"] != "decay":
        unused.add("sfpo.gate_decay_steps")
    if found["sfpo.gate"] in ("grad_norm", "cosine"):
        unused.add("sfpo.gate_entropy")
    if found["sfpo.gate"] == "cosine":
        unused.add("sfpo.gate_window")
    return unused


def has_outer_momentum(sfpo: NestedFlags | SFPOConfig) -> bool:
    """Whether an update has an outer momentum or an outer learning rate.

    Args:
        sfpo: the --sfpo.* flags.
    """
    return sfpo.enable and (sfpo.outer_momentum, sfpo.outer_lr) != (0.0, 1.0)


def fast_part(sfpo: NestedFlags) -> float:
    """The part of each train batch that fast passes train on, if they do not train on all of it; otherwise, and without
    fast passes, 0.

    Args:
        sfpo: the --sfpo.* flags, nested.
    """
    active = sfpo.enable and sfpo.k > 0 and sfpo.preset not in ("grpo", "grpo_scaled_lr")
    return sfpo.fast_fraction if active and sfpo.fast_fraction < 1 else 0.0
