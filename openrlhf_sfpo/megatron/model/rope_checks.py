"""Refuses RoPE settings of a config.json that vLLM and transformers, which have separate code for RoPE, compute
differently."""

import math
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.checkpoints.hf_config import MODEL_SETTING
from openrlhf_sfpo.megatron.model.refusals import is_number, is_one_of, refused
from openrlhf_sfpo.system.errors import UsageError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
# Settings and the types of RoPE that have them.
ROPE_SETTINGS: dict[str, tuple[str, ...]] = {
    "rope_type": ROPE_TYPES,
    "type": ROPE_TYPES,
    "rope_theta": ROPE_TYPES,
    "factor": ROPE_TYPES,  # without effect on `default`
    "original_max_position_embeddings": ROPE_TYPES,  # without effect on `default` and `linear`
    "low_freq_factor": ("llama3",),
    "high_freq_factor": ("llama3",),
    **dict.fromkeys(("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"), ("yarn",)),
}
# Settings that vLLM's `get_rope` reads and transformers does not. The listed values, and null, change nothing.
ROPE_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (1,),
    "attn_factor": (1,),
    "extrapolation_factor": (1,),
    "apply_yarn_scaling": (True,),
    "use_fope": (False,),
    "mrope_interleaved": (False,),
    **dict.fromkeys(("rope_dim", "mrope_section", "alpha", "mixed_b", "max_trained_positions", "xdrope_section"), ()),
    **dict.fromkeys(("short_factor", "long_factor", "short_mscale", "long_mscale", "is_deepseek_v4"), ()),
    **dict.fromkeys(("num_key_value_heads", "num_inv_freq", "fope_sep_head", "fope_init_factor"), ()),
}


def refuse_unreadable(raw: dict[str, Any], where: str) -> None:
    """Refuse RoPE settings on which transformers' class fails without naming them.

    Raises:
        UsageError: naming the setting.
    """
    for name in ("rope_scaling", "rope_parameters"):
        rope = raw.get(name)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise refused(where, name, rope, "where an object is expected", "Correct it, or write null for none.")
        _check_kind(rope.get("rope_type", rope.get("type", "default")), where)
        for setting in ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"):
            if setting in rope and not is_number(rope[setting]):
                raise refused(where, f"{name}'s {setting}", rope[setting], "where a number is expected", "Correct it.")


def check_rope(config: "PretrainedConfig", where: str) -> None:
    """Check the RoPE settings: transformers 5 keeps rope_theta and rope_scaling in `rope_parameters`."""
    rope = config.rope_parameters
    if any(isinstance(value, dict) for value in rope.values()):
        why = "by kind of layer, which the Megatron actor does not support"
        raise refused(where, "rope_parameters", rope, why)
    kind = rope["rope_type"]
    _check_kind(kind, where)
    if rope.get("type", kind) != kind:
        why = f"and rope_type to {kind!r}"
        raise refused(where, "rope_scaling's type", rope["type"], why, "Remove one of them.")
    for name, neutral in ROPE_NEUTRAL.items():
        if rope.get(name) is not None and not is_one_of(rope[name], neutral):
            raise refused(where, f"rope_scaling's {name}", rope[name], "which transformers and vLLM do not read alike")
    if not is_number(rope["rope_theta"]) or not rope["rope_theta"] > 1:
        raise refused(where, "rope_theta", rope["rope_theta"], "where a number above 1 is expected", "Correct it.")
    if kind != "default":
        _check_scaling(config, kind, rope, where)


def _check_kind(kind: object, where: str) -> None:
    if kind not in ROPE_TYPES:
        raise UsageError(
            MODEL_SETTING,
            f"{where} asks for RoPE scaling {kind!r}, which the Megatron actor does not support.",
            f"Supported are {', '.join(ROPE_TYPES)}.",
        )


def _check_scaling(config: "PretrainedConfig", kind: str, rope: dict[str, Any], where: str) -> None:
    def demand(name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise refused(
                where, f"rope_scaling's {name}", rope.get(name), f"where {kind} expects {expected}", "Correct it."
            )

    demand("factor", is_number(rope.get("factor")) and rope["factor"] >= 1, "a number of 1 or more")
    if kind == "linear":
        return
    original = rope["original_max_position_embeddings"]
    demand("original_max_position_embeddings", isinstance(original, int) and original > 0, "a whole number above 0")
    if kind == "llama3":
        for name in ("low_freq_factor", "high_freq_factor"):
            demand(name, is_number(rope.get(name)) and rope[name] > 0, "a number above 0")
        demand("high_freq_factor", rope["high_freq_factor"] >= rope["low_freq_factor"], "at least low_freq_factor")
        return
    for name in ("beta_fast", "beta_slow"):
        demand(name, name not in rope or (is_number(rope[name]) and rope[name] > 0), "a number above 0")
    demand("truncate", rope.get("truncate") in (None, True, False), "true or false")
    _check_yarn_attention(rope, where)


def _check_yarn_attention(rope: dict[str, Any], where: str) -> None:
    """Check the attention factor: vLLM scales queries and keys by 0.1 ln(factor) + 1 regardless of these settings;
    transformers follows them."""
    factor = float(rope["factor"])

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0

    given, mscale, all_dim = (rope.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    name, wanted = "", scale(1.0)
    if given is not None:
        name, wanted = "attention_factor", given
    elif mscale and all_dim:
        name, wanted = "mscale", scale(mscale) / scale(all_dim) if factor > 1 else 1.0
    if name and (not is_number(wanted) or abs(wanted - scale(1.0)) > 1e-6):
        raise refused(
            where,
            f"rope_scaling's {name}",
            rope[name],
            f"and vLLM ignores that: it always uses 0.1 ln(factor) + 1 = {scale(1.0):.6g}",
            "Use a model without it.",
        )
