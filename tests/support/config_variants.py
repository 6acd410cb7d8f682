"""Variants of a config.json, and small random models for them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_models import CLASSES

LENGTH = 96  # tokens of the sequences; RoPE's scaling acts beyond its 32 original positions
SHAPES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class Variant:
    """One config.json.

    Attributes:
        name: unique.
        family: model_type.
        made: settings that the weights are made with, too.
        edits: settings written into config.json afterwards; ABSENT removes one.
        refused: a part of the error message; None if all three must agree.
    """

    name: str
    family: str
    made: dict[str, Any] = field(default_factory=dict)
    edits: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None


ABSENT = object()
ALL = tuple(CLASSES)
QWENS = ("qwen2", "qwen3")


def config_of(variant: Variant) -> dict[str, Any]:
    """The content of the variant's config.json."""
    name = CLASSES[variant.family]
    config = getattr(transformers, f"{name}Config")(**settings_of(variant), architectures=[f"{name}ForCausalLM"])
    edited = {**json.loads(config.to_json_string(use_diff=True)), **variant.edits}
    return {name: value for name, value in edited.items() if value is not ABSENT}


def settings_of(variant: Variant) -> dict[str, Any]:
    """The settings that the variant's weights are made with."""
    own: dict[str, dict[str, Any]] = {"qwen3": {"head_dim": 32}, "mistral": {"sliding_window": None}}
    return {**SHAPES, **own.get(variant.family, {}), **variant.made}


def make(variant: Variant, directory: Path) -> Path:
    """Save the variant's random fp32 model; every parameter is far from its default."""
    torch.manual_seed(0)
    name = CLASSES[variant.family]
    config = getattr(transformers, f"{name}Config")(**settings_of(variant))
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    path = directory / variant.name.replace(" ", "_").replace("/", "_")
    model.float().save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config_of(variant)))
    return path


def tokens() -> list[list[int]]:
    """Two sequences for every variant."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 300, (length,), generator=generator).tolist() for length in (LENGTH, 40)]


def rope(**settings: Any) -> dict[str, Any]:
    """Edits for a RoPE setting as config.json had it before transformers 5."""
    return {"rope_parameters": ABSENT, "rope_scaling": settings, "rope_theta": 10000.0}


def variants(
    families: tuple[str, ...],
    name: str,
    edits: dict[str, Any] | None = None,
    refused: str | dict[str, str] | None = None,
    **made: Any,
) -> list[Variant]:
    """A variant of each family. `refused` may be given for some of them only."""
    by_family = refused if isinstance(refused, dict) else dict.fromkeys(families, refused)
    return [Variant(f"{family} {name}", family, made, edits or {}, by_family.get(family)) for family in families]


def llama(name: str, edits: dict[str, Any], refused: str | None = None, **made: Any) -> list[Variant]:
    """A variant of something that all families share."""
    return variants(("llama",), name, edits, refused, **made)


def without(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, ABSENT)


def scaled(settings: dict[str, Any], name: str, **changed: Any) -> list[Variant]:
    """A variant with edited RoPE settings. The keyword `refused` is as in `Variant`."""
    refused = changed.pop("refused", None)
    return llama(f"{settings['rope_type']} {name}", rope(**{**settings, **changed}), refused)


LINEAR = {"rope_type": "linear", "factor": 4.0}


def flag(name: str, value: Any, *by_nature: str) -> list[Variant]:
    """A setting that is refused in all families but those that have it by nature."""
    return variants(ALL, f"{name} {value}", {name: value}, {family: name for family in ALL if family not in by_nature})


_WINDOW = {"use_sliding_window": True, "sliding_window": 128, "layer_types": ABSENT}

VARIANTS: list[Variant] = [
    # What every model has.
    *variants(ALL, "plain"),
    *variants(ALL, "tied", tie_word_embeddings=True),
    *variants(ALL, "bare", without("rope_parameters", "rms_norm_eps")),
    *variants(ALL, "eps", rms_norm_eps=0.01),
    *variants(ALL, "one key/value head", num_key_value_heads=1),
    *variants(ALL, "key/value heads null", {"num_key_value_heads": None}, {"mistral": "heads"}, num_key_value_heads=4),
    *variants(
        ALL,
        "key/value heads absent",
        without("num_key_value_heads"),
        dict.fromkeys(("mistral", *QWENS), "num_key_value_heads"),
        num_key_value_heads=4,
    ),
    *variants(
        ("mistral",),
        "8 heads by default",
        without("num_key_value_heads"),
        num_attention_heads=8,
        head_dim=32,
        num_key_value_heads=8,
    ),
    *variants(ALL, "odd vocabulary", vocab_size=301),
    *variants(ALL, "no architectures", without("architectures"), {"qwen3": "lacks architectures"}),
    *variants(ALL, "old length key", {"max_sequence_length": 2048}),
    *variants(ALL, "float16", {"dtype": "float16", "torch_dtype": "float16"}),
    *llama("pretraining_tp", {}, pretraining_tp=2),
    *llama("old class name", {"architectures": ["LLaMAForCausalLM"]}),
    *llama("classifier", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    *llama("other family's class", {"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
    *variants(("qwen2",), "reward model", {"architectures": ["Qwen2ForRewardModel"]}, "Qwen2ForRewardModel"),
    *llama("eps null", {"rms_norm_eps": None}, "rms_norm_eps"),
    *llama("eps 0", {"rms_norm_eps": 0.0}, "rms_norm_eps"),
    *llama("layers as text", {"num_hidden_layers": "2"}, "num_hidden_layers"),
    *llama("tied as text", {"tie_word_embeddings": "false"}, "tie_word_embeddings"),
    *llama("3 key/value heads", {"num_key_value_heads": 3}, "num_key_value_heads"),
    *llama("0 layers", {"num_hidden_layers": 0}, "num_hidden_layers"),
    *llama("quantized", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    *llama("compressed", {"compression_config": {"format": "dense"}}, "compression_config"),
    # Head sizes.
    *variants(("llama", "mistral", "qwen3"), "head size 64", head_dim=64),
    *variants(("llama", "mistral"), "head size null", {"head_dim": None}),
    *variants(("qwen3",), "head size absent", without("head_dim"), head_dim=128),
    *variants(("qwen2",), "head size equal", {"head_dim": 32}),
    *variants(("qwen2",), "head size null", {"head_dim": None}, "head_dim"),
    *variants(("qwen2",), "head size 64", {"head_dim": 64}, "head_dim", head_dim=64),
    *variants(("mistral", "qwen3"), "hidden size apart", hidden_size=130, head_dim=32),
    *llama("odd head size", {"head_dim": 31}, "head_dim", head_dim=31),
    # Biases, activations and what other architectures have.
    *llama("attention bias", {}, "attention_bias", attention_bias=True),
    *llama("MLP bias", {}, "mlp_bias", mlp_bias=True),
    *variants(("qwen3",), "attention bias", {}, "attention_bias", attention_bias=True),
    *flag("attention_bias", True, "qwen2"),
    *flag("qkv_bias", True, "qwen2"),
    *flag("qk_norm", True, "qwen3"),
    *flag("mlp_bias", True),
    *flag("hidden_act", "swish"),
    *flag("hidden_act", "gelu"),
    *flag("logit_scale", 0.5),
    *flag("is_causal", False),
    *flag("partial_rotary_factor", 0.5),
    *flag("rotary_pct", 0.5),
    *flag("rotary_emb_base", 500.0),
    *flag("num_experts", 4),
    *flag("num_kv_heads", 4),
    *flag("attention_dropout", 0.1),
    *flag("embedding_multiplier", 12.0),
    *flag("final_logit_softcapping", 30.0),
    *flag("rope_interleaved", True),
    *flag("position_embedding_type", "alibi"),
    *flag("per_layer_config", {"0": {"rms_norm_eps": 0.1}}),
    *flag("llama_4_scaling", {"original_max_position_embeddings": 32, "beta": 0.1}),
    *variants(
        ALL,
        "neutral values",
        {
            "logit_scale": 1,
            "partial_rotary_factor": 1.0,
            "num_experts": 0,
            "mlp_bias": False,
            "is_causal": True,
            "quantization_config": None,
            "use_mrope": False,
        },
    ),
    # RoPE.
    *variants(ALL, "theta", {"rope_parameters": ABSENT, "rope_theta": 500.0}),
    *variants(ALL, "theta in scaling", rope(rope_type="default", rope_theta=500.0)),
    *variants(ALL, "yarn", rope(**YARN)),
    *variants(ALL, "llama3", rope(**LLAMA3)),
    *variants(ALL, "linear", rope(type="linear", factor=4.0)),
    *variants(
        ALL,
        "two spellings",
        {"rope_parameters": {**YARN, "rope_theta": 500.0}, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    *scaled(YARN, "attention_factor 1", attention_factor=1.0, refused="attention_factor"),
    *scaled(YARN, "attention_factor as by default", attention_factor=1.138629436111989),
    *scaled(YARN, "attention_factor null", attention_factor=None),
    *scaled(YARN, "mscale", mscale=1.0, mscale_all_dim=1.0, refused="mscale"),
    *scaled(YARN, "mscale, other", mscale=0.707, mscale_all_dim=0.5, refused="mscale"),
    *scaled(YARN, "mscale alone", mscale=0.707),
    *scaled(YARN, "mscale of 0", mscale=1.0, mscale_all_dim=0.0),
    *scaled(YARN, "betas", beta_fast=16, beta_slow=2),
    *scaled(YARN, "beta_fast null", beta_fast=None, refused="beta_fast"),
    *scaled(YARN, "beta_slow 0", beta_slow=0, refused="beta_slow"),
    *scaled(YARN, "not truncated", truncate=False),
    *scaled(YARN, "truncate null", truncate=None),
    *scaled(YARN, "attn_factor", attn_factor=0.5, refused="attn_factor"),
    *scaled(YARN, "extrapolation_factor", extrapolation_factor=0.5, refused="extrapolation_factor"),
    *scaled(YARN, "apply_yarn_scaling", apply_yarn_scaling=False, refused="apply_yarn_scaling"),
    *scaled(YARN, "finetuned", finetuned=True),
    *scaled(YARN, "whole factor", factor=4),
    *scaled(YARN, "factor 3.5", factor=3.5),
    *scaled(YARN, "factor 1", factor=1.0, original_max_position_embeddings=128),
    *scaled(YARN, "factor null", factor=None, refused="factor"),
    *scaled(YARN, "factor as text", factor="4", refused="factor"),
    *scaled(YARN, "factor true", factor=True, refused="factor"),
    *scaled(YARN, "original null", original_max_position_embeddings=None, refused="original_max_position_embeddings"),
    *llama("yarn, no original", rope(type="yarn", factor=4.0)),
    *llama("yarn, original outside", {**rope(type="yarn", factor=4.0), "original_max_position_embeddings": 32}),
    *llama("yarn, two originals", {**rope(**YARN), "original_max_position_embeddings": 64}),
    *llama("llama3, two originals", {**rope(**LLAMA3), "original_max_position_embeddings": 64}),
    *llama("llama3, no original", rope(**{k: v for k, v in LLAMA3.items() if not k.startswith("original")})),
    *llama("llama3, no factors", rope(rope_type="llama3", factor=8.0), "low_freq_factor"),
    *scaled(LLAMA3, "equal factors", high_freq_factor=1.0),
    *scaled(LLAMA3, "swapped factors", high_freq_factor=0.5, refused="high_freq_factor"),
    *scaled(LINEAR, "whole factor", factor=4),
    *scaled(LINEAR, "factor below 1", factor=0.5, refused="factor"),
    *scaled(LINEAR, "original", original_max_position_embeddings=32),
    *llama("linear, theta inside", {"rope_parameters": {**LINEAR, "rope_theta": 500.0}}),
    *llama("linear, no factor", rope(type="linear"), "factor"),
    *llama("factor without scaling", rope(rope_type="default", factor=4.0)),
    *llama("mrope_section", rope(rope_type="default", mrope_section=[4, 6, 6]), "mrope_section"),
    *llama("rope_dim", rope(rope_type="default", rope_dim=16), "rope_dim"),
    *llama("dynamic", rope(type="dynamic", factor=2.0), "'dynamic'"),
    *llama("dynamic alpha", rope(type="dynamic", alpha=1000.0), "'dynamic'"),
    *llama("ntk", rope(type="ntk", factor=2.0), "'ntk'"),
    *llama("longrope", rope(type="longrope", short_factor=[1.0] * 16, long_factor=[2.0] * 16), "'longrope'"),
    *llama("su", rope(type="su", short_factor=[1.0] * 16, long_factor=[2.0] * 16), "'su'"),
    *llama("two types", rope(type="linear", **YARN), "type"),
    *llama("scaling as a list", {"rope_scaling": [4.0]}, "rope_scaling"),
    *llama("scaling empty", {"rope_parameters": ABSENT, "rope_scaling": {}}),
    *llama("theta null", {"rope_parameters": ABSENT, "rope_theta": None}, "rope_theta"),
    *variants(
        ("qwen3",), "RoPE by layer type", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope"
    ),
    # Windows and kinds of layers.
    *variants(("mistral",), "window absent", without("sliding_window")),
    *variants(("mistral",), "window 0", {"sliding_window": 0}, "sliding_window"),
    *variants(("mistral",), "no window in layer_types", {"layer_types": ["full_attention"] * 2, "sliding_window": 128}),
    *variants(ALL, "long window", {"sliding_window": 128}),
    *llama("a window in layer_types", {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 128}),
    *llama("layer_types, no window", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    *llama("layer_types, too short", {"layer_types": ["full_attention"]}, "layer_types"),
    *llama("layer_types, chunked", {"layer_types": ["chunked_attention"] * 2}, "layer_types"),
    *variants(QWENS, "window of no layer", {**_WINDOW, "max_window_layers": 2, "sliding_window": 64}),
    *variants(QWENS, "window of all layers", {**_WINDOW, "max_window_layers": 0}),
    *variants(QWENS, "window of one layer", {**_WINDOW, "max_window_layers": 1}, "max_window_layers"),
    *variants(QWENS, "window unused", {**_WINDOW, "use_sliding_window": False, "sliding_window": 16}),
    *variants(
        QWENS,
        "mixed layers",
        {**_WINDOW, "max_window_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
    ),
]
