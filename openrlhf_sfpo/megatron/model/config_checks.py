"""Refuses settings of a config.json that transformers, vLLM and the Megatron actor would not all compute alike.

For vLLM, this refers to version 0.29: its models, `get_rope`, and its reading of configs.
tests/megatron/test_config_probe.py compares all three.
"""

from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.checkpoints.hf_config import LENGTH_KEYS, MODEL_SETTING
from openrlhf_sfpo.megatron.model.refusals import is_one_of, refused
from openrlhf_sfpo.megatron.model.rope_checks import ROPE_NEUTRAL, ROPE_SETTINGS, check_rope, refuse_unreadable
from openrlhf_sfpo.system.errors import UsageError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# vLLM's names for the supported classes; anything else makes it another model, such as a reward model.
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "LLaMAForCausalLM"),
    "mistral": ("MistralForCausalLM",),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen3": ("Qwen3ForCausalLM",),
}
# Settings of transformers' config classes that do not affect log-probabilities.
HARMLESS = {
    "architectures",  # checked separately
    "attention_dropout",  # checked separately
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "transformers_version",
    "use_cache",
}
# Settings of transformers' config classes that the actor reads (`ModelConfig`) or `refuse_unsupported` checks.
READ = {
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "is_encoder_decoder",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
}
# Not settings of transformers' classes, and without effect.
_NOTES = {
    "_attn_implementation",
    "attn_implementation",
    "auto_map",
    "finetuned",
    "is_decoder",
    "is_llama_config",
    "model_name",
    "model_type",
    "name_or_path",
    "output_attentions",
    "rope_scaling",
    "rope_theta",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
}
# Settings that vLLM reads in models of these families although transformers' classes lack them, or that have a meaning
# in other architectures. The listed values, and null, change nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "add_cross_attention",
            "alibi",
            "attention_bias",
            "bias",
            "clip_qkv",
            "is_encoder_decoder",
            "mlp_bias",
            "o_proj_bias",
            "qk_layernorm",
            "qk_norm",
            "qkv_bias",
            "rope_interleaved",
            "rotary_interleaved",
            "ada_rms_norm_t_cond",
            "use_bias",
            "use_bidirectional_attention",
            "use_dynamic_ntk",
            "use_fope",
            "use_logn_attn",
            "use_mrope",
            "use_parallel_residual",
            "use_qk_norm",
        ),
        (False,),
    ),
    **dict.fromkeys(
        (
            "embedding_multiplier",
            "embedding_scale",
            "lm_head_multiplier",
            "logit_scale",
            "logits_scaling",
            "partial_rotary_factor",
            "residual_multiplier",
            "rotary_emb_fraction",
            "rotary_pct",
            "rotary_percent",
            "scale_emb",
        ),
        (1,),
    ),
    **dict.fromkeys(
        (
            "attn_logit_softcapping",
            "attention_chunk_size",
            "final_logit_softcapping",
            "kv_lora_rank",
            "logits_soft_cap",
            "q_lora_rank",
            "rswa_window",
            "target_layer_count",
        ),
        (0,),
    ),
    **dict.fromkeys(("moe_num_experts", "n_routed_experts", "num_experts", "num_local_experts"), (0, 1)),
    **dict.fromkeys(
        (
            "attention_head_dim",
            "attention_multiplier",
            "attn_type_list",
            "audio_config",
            "block_configs",
            "canvas_length",
            "compression_config",
            "compress_ratios",
            "dual_chunk_attention_config",
            "encoder_config",
            "head_dtype",
            "hidden_size_per_head",
            "language_config",
            "linear_attn_config",
            "llama_4_scaling",
            "mamba_chunk_size",
            "mrope_section",
            "no_rope_layers",
            "per_layer_config",
            "pruned_heads",
            "quantization_config",
            "query_pre_attn_scalar",
            "rope_local_base_freq",
            "rotary_emb_base",
            "scale_depth",
            "sliding_window_pattern",
            "text_config",
            "thinker_config",
            "vision_config",
            "xdrope_section",
        ),
        ({}, []),
    ),
    "is_causal": (True,),
    "position_embedding_type": ("rope", "rotary"),
}
# Properties that every model of a family has.
_BY_NATURE = {
    ("qwen2", "attention_bias"),
    ("qwen2", "qkv_bias"),
    ("qwen2", "use_bias"),
    ("qwen3", "qk_layernorm"),
    ("qwen3", "qk_norm"),
    ("qwen3", "use_qk_norm"),
}
# Another name for num_key_value_heads, which determines the size of vLLM's cache.
_KV_HEADS = ("n_head_kv", "num_kv_heads", "multi_query_group_num", "num_attention_groups")


def refuse_foreign(raw: dict[str, Any], where: str) -> None:
    """Refuse settings of other architectures, before transformers interprets them.

    Args:
        raw: the content of config.json.
        where: names the file in errors.

    Raises:
        UsageError: naming the first such setting.
    """
    _check_architecture(raw, where)
    for name, neutral in NEUTRAL.items():
        value = raw.get(name)
        if value is not None and not is_one_of(value, neutral) and (raw["model_type"], name) not in _BY_NATURE:
            raise refused(where, name, value, "which the Megatron actor does not support")
    refuse_unreadable(raw, where)


def refuse_unsupported(raw: dict[str, Any], config: "PretrainedConfig", where: str) -> None:
    """Refuse settings that would be computed differently.

    Args:
        raw: the content of config.json, which passed `refuse_foreign`.
        config: transformers' config object for it.
        where: names the file in errors.

    Raises:
        UsageError: naming the first such setting.
    """
    _check_shapes(raw, config, where)
    for name in _KV_HEADS:
        if raw.get(name) not in (None, config.num_key_value_heads):
            raise refused(where, name, raw[name], "which is not num_key_value_heads", "Remove it.")
    if config.hidden_act != "silu":
        fix = "Write 'silu', which is the same." if config.hidden_act == "swish" else "Use a model with 'silu'."
        raise refused(where, "hidden_act", config.hidden_act, "which vLLM does not support", fix)
    if config.attention_dropout:
        why = "which the Megatron actor does not support"
        raise refused(where, "attention_dropout", config.attention_dropout, why, "Set it to 0.")
    _check_windows(config, where)
    check_rope(config, where)


def unread_settings(raw: dict[str, Any], config: "PretrainedConfig") -> tuple[str, ...]:
    """Settings in config.json that neither transformers nor vLLM nor the actor reads."""
    from transformers import GenerationConfig

    known = HARMLESS | READ | _NOTES | set(NEUTRAL) | {*_KV_HEADS, *LENGTH_KEYS, "model_max_length"}
    known |= set(GenerationConfig._get_default_generation_params())
    names = [name for name in raw if name not in known and not name.startswith("_")]
    rope = config.rope_parameters or {}
    names += [name for name in rope if name not in {*ROPE_SETTINGS, *ROPE_NEUTRAL, *_NOTES}]
    values = {**rope, **raw}
    return tuple(sorted({name for name in names if values[name] not in (None, False, "", [], {})}))


def _check_architecture(raw: dict[str, Any], where: str) -> None:
    found, expected = raw.get("architectures"), ARCHITECTURES[raw["model_type"]]
    if not found and raw["model_type"] == "qwen3":
        why = f"without which vLLM takes a qwen3 model for an embedding model. Write architectures ['{expected[0]}']."
        raise UsageError(MODEL_SETTING, f"{where} lacks architectures,", why)
    if not found:
        return
    names = found if isinstance(found, list) else [found]
    for name in names:
        if name not in expected:
            raise UsageError(
                MODEL_SETTING,
                f"{where} says architectures {found!r}, and only {expected[0]} is trained: a language model of "
                f"model_type {raw['model_type']!r}.",
                f"Use a model for text generation; if this is one, write architectures ['{expected[0]}'].",
            )


def _check_shapes(raw: dict[str, Any], config: "PretrainedConfig", where: str) -> None:
    sizes = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    for name in (*sizes, "vocab_size", "max_position_embeddings"):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise refused(where, name, value, "where a whole number above 0 is expected", "Correct it.")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads:
        why = f"which does not divide the {heads} attention heads"
        if "num_key_value_heads" not in raw:
            why += " (the default of this model_type: the file does not set it)"
        raise refused(where, "num_key_value_heads", kv_heads, why, "Correct it.")
    head_dim = getattr(config, "head_dim", config.hidden_size // heads)
    derived = config.hidden_size // heads
    if config.model_type == "qwen2" and head_dim != derived:
        why = f"and vLLM takes hidden_size / num_attention_heads = {derived} for this model_type"
        raise refused(where, "head_dim", head_dim, why, "Remove it, or use a model without it.")
    if not isinstance(head_dim, int) or head_dim < 2 or head_dim % 2:
        raise refused(where, "head_dim", head_dim, "where RoPE needs an even number above 0", "Use another model.")
    if not isinstance(config.rms_norm_eps, int | float) or not config.rms_norm_eps > 0:
        raise refused(where, "rms_norm_eps", config.rms_norm_eps, "where a number above 0 is expected", "Correct it.")


def _check_windows(config: "PretrainedConfig", where: str) -> None:
    """Check sliding windows and the layers that have them. `ModelConfig.check_sequence_length` checks whether sequences
    fit into the window."""
    window = getattr(config, "sliding_window", None)
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise refused(
            where, "sliding_window", window, "which transformers and vLLM do not read alike", "Write null for none."
        )
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return
    layers = config.num_hidden_layers
    strange = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
    if strange:
        raise refused(where, "layer_types", strange[0], "which the Megatron actor does not support")
    if len(kinds) != layers:
        why = f"which has {len(kinds)} entries for {layers} layers"
        raise refused(where, "layer_types", kinds, why, "Correct it.")
    if "sliding_attention" not in kinds:
        return
    if window is None:
        raise refused(where, "layer_types", "sliding_attention", "and no sliding_window", "Correct it.")
    if "full_attention" in kinds and config.model_type.startswith("qwen") and config.max_window_layers != layers:
        what = "max_window_layers" if config.max_window_layers < layers else "layer_types"
        count = kinds.count("sliding_attention")
        why = f"so that {count} of {layers} layers have a sliding window; vLLM takes all or none"
        raise refused(where, what, getattr(config, what), why)


def window_of(config: "PretrainedConfig") -> int | None:
    """Length beyond which transformers or vLLM would use sliding-window attention; None if never."""
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    # Mistral's code in transformers does not read layer_types; vLLM reads both for every family.
    if config.model_type != "mistral" and kinds is not None and "sliding_attention" not in kinds:
        return None
    return window
