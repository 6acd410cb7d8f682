"""Variants of a config.json, and small random models for them: what the configuration probe holds against each other."""

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
        made: settings that the weights are made with, as well.
        edits: settings written into config.json afterwards; ABSENT removes one.
        refused: a part of the refusal; None where all three must agree.
    """

    name: str
    family: str
    made: dict[str, Any] = field(default_factory=dict)
    edits: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None


ABSENT = object()


def make(variant: Variant, directory: Path) -> Path:
    """Save the variant's random fp32 model; every parameter is far from its default."""
    torch.manual_seed(0)
    settings = {**SHAPES, **variant.made}
    if variant.family == "qwen3":
        settings.setdefault("head_dim", 32)
    if variant.family == "mistral":
        settings.setdefault("sliding_window", None)
    name = CLASSES[variant.family]
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    path = directory / variant.name.replace(" ", "_").replace("/", "_")
    model.float().save_pretrained(path)
    edit(path, variant.edits)
    return path


def edit(path: Path, edits: dict[str, Any]) -> None:
    """Change settings in `path`/config.json."""
    config = {**json.loads((path / "config.json").read_text()), **edits}
    text = json.dumps({name: value for name, value in config.items() if value is not ABSENT})
    (path / "config.json").write_text(text)


def tokens() -> list[list[int]]:
    """Two sequences for every variant."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 300, (length,), generator=generator).tolist() for length in (LENGTH, 40)]


def rope(**settings: Any) -> dict[str, Any]:
    """Edits for a RoPE setting as config.json had it before transformers 5."""
    return {"rope_parameters": ABSENT, "rope_scaling": settings, "rope_theta": 10000.0}


VARIANTS: list[Variant] = [
    *(Variant(f"{family} plain", family) for family in CLASSES),
    *(Variant(f"{family} tied", family, {"tie_word_embeddings": True}) for family in CLASSES),
    *(Variant(f"{family} yarn", family, edits=rope(**YARN)) for family in CLASSES),
    *(Variant(f"{family} llama3", family, edits=rope(**LLAMA3)) for family in CLASSES),
    *(Variant(f"{family} linear", family, edits=rope(type="linear", factor=4.0)) for family in CLASSES),
    *(Variant(f"{family} bare", family, edits=dict.fromkeys(("rope_parameters", "rms_norm_eps"), ABSENT)) for family in CLASSES),
    *(Variant(f"{family} head size 64", family, {"head_dim": 64}) for family in ("llama", "mistral", "qwen3")),
    *(Variant(f"{family} swish", family, edits={"hidden_act": "swish"}, refused="hidden_act") for family in CLASSES),
    *(Variant(f"{family} gelu", family, edits={"hidden_act": "gelu"}, refused="hidden_act") for family in CLASSES),
    *(Variant(f"{family} logit_scale", family, edits={"logit_scale": 0.5}, refused="logit_scale") for family in CLASSES),
    *(Variant(f"{family} is_causal", family, edits={"is_causal": False}, refused="is_causal") for family in CLASSES),
    *(Variant(f"{family} eps", family, {"rms_norm_eps": 0.01}) for family in CLASSES),
    *(Variant(f"{family} theta", family, edits={"rope_parameters": ABSENT, "rope_theta": 500.0}) for family in CLASSES),
    *(Variant(f"{family} theta in scaling", family, edits={"rope_parameters": ABSENT, "rope_scaling": {"rope_type": "default", "rope_theta": 500.0}, "rope_theta": 20000.0}) for family in CLASSES),
    *(Variant(f"{family} both spellings", family, edits={"rope_parameters": YARN | {"rope_theta": 500.0}, "rope_scaling": {"type": "linear", "factor": 2.0}}) for family in CLASSES),
    *(Variant(f"{family} one kv head", family, {"num_key_value_heads": 1}) for family in CLASSES),
    *(Variant(f"{family} kv heads null", family, {"num_key_value_heads": 4}, {"num_key_value_heads": None}, "num_key_value_heads" if family == "mistral" else None) for family in CLASSES),
    *(Variant(f"{family} kv heads absent", family, {"num_key_value_heads": 4}, {"num_key_value_heads": ABSENT}, None if family == "llama" else "num_key_value_heads") for family in CLASSES),
    Variant("mistral default kv heads", "mistral", {"num_key_value_heads": 8, "num_attention_heads": 8, "head_dim": 32}, {"num_key_value_heads": ABSENT}),
    *(Variant(f"{family} no architectures", family, edits={"architectures": ABSENT}) for family in CLASSES),
    *(Variant(f"{family} partial rotary", family, edits={"partial_rotary_factor": 0.5}, refused="partial_rotary_factor") for family in CLASSES),
    *(Variant(f"{family} partial rotary 1", family, edits={"partial_rotary_factor": 1.0}) for family in CLASSES),
    *(Variant(f"{family} rotary_pct", family, edits={"rotary_pct": 0.5}, refused="rotary_pct") for family in CLASSES),
    *(Variant(f"{family} rotary_emb_base", family, edits={"rotary_emb_base": 500.0}, refused="rotary_emb_base") for family in CLASSES),
    *(Variant(f"{family} attention_bias flag", family, edits={"attention_bias": True}, refused=None if family == "qwen2" else "attention_bias") for family in CLASSES),
    *(Variant(f"{family} mlp_bias flag", family, edits={"mlp_bias": True}, refused="mlp_bias") for family in CLASSES),
    *(Variant(f"{family} qkv_bias flag", family, edits={"qkv_bias": True}, refused=None if family == "qwen2" else "qkv_bias") for family in CLASSES),
    *(Variant(f"{family} qk_norm flag", family, edits={"qk_norm": True}, refused=None if family == "qwen3" else "qk_norm") for family in CLASSES),
    *(Variant(f"{family} max_sequence_length", family, edits={"max_sequence_length": 2048}) for family in CLASSES),
    *(Variant(f"{family} experts", family, edits={"num_experts": 4}, refused="num_experts") for family in CLASSES),
    *(Variant(f"{family} window of llama kind", family, edits={"sliding_window": 128}) for family in CLASSES),
    Variant("llama attention_bias", "llama", {"attention_bias": True}, refused="attention_bias"),
    Variant("qwen3 attention_bias", "qwen3", {"attention_bias": True}, refused="attention_bias"),
    Variant("llama mlp_bias", "llama", {"mlp_bias": True}, refused="mlp_bias"),
    Variant("llama pretraining_tp", "llama", {"pretraining_tp": 2}),
    Variant("llama head_dim null", "llama", edits={"head_dim": None}),
    Variant("mistral head_dim null", "mistral", edits={"head_dim": None}),
    Variant("qwen2 head_dim equal", "qwen2", edits={"head_dim": 32}),
    Variant("qwen2 head_dim null", "qwen2", edits={"head_dim": None}, refused="head_dim"),
    Variant("qwen2 head_dim 64", "qwen2", {"head_dim": 64}, refused="head_dim"),
    Variant("qwen3 head_dim absent", "qwen3", {"head_dim": 128}, {"head_dim": ABSENT}),
    Variant("yarn attention_factor 1", "qwen2", edits=rope(**YARN, attention_factor=1.0), refused="attention_factor"),
    Variant("yarn attention_factor same", "qwen2", edits=rope(**YARN, attention_factor=1.138629436111989)),
    Variant("yarn attention_factor null", "qwen2", edits=rope(**YARN, attention_factor=None)),
    Variant("yarn mscale", "llama", edits=rope(**YARN, mscale=1.0, mscale_all_dim=1.0), refused="mscale"),
    Variant("yarn mscale alone", "llama", edits=rope(**YARN, mscale=0.707)),
    Variant("yarn mscale 0.7/0.5", "llama", edits=rope(**YARN, mscale=0.707, mscale_all_dim=0.5), refused="mscale"),
    Variant("yarn mscale zero", "llama", edits=rope(**YARN, mscale=1.0, mscale_all_dim=0.0)),
    Variant("yarn betas", "llama", edits=rope(**YARN, beta_fast=16, beta_slow=2)),
    Variant("yarn beta_fast null", "llama", edits=rope(**YARN, beta_fast=None), refused="beta_fast"),
    Variant("yarn beta_slow 0", "llama", edits=rope(**YARN, beta_slow=0), refused="beta_slow"),
    Variant("yarn truncate", "llama", edits=rope(**YARN, truncate=False)),
    Variant("yarn truncate null", "llama", edits=rope(**YARN, truncate=None), refused="truncate"),
    Variant("yarn attn_factor", "llama", edits=rope(**YARN, attn_factor=0.5), refused="attn_factor"),
    Variant("yarn extrapolation", "llama", edits=rope(**YARN, extrapolation_factor=0.5), refused="extrapolation_factor"),
    Variant("yarn no scaling", "llama", edits=rope(**YARN, apply_yarn_scaling=False), refused="apply_yarn_scaling"),
    Variant("yarn finetuned", "llama", edits=rope(**YARN, finetuned=True)),
    Variant("yarn int factor", "llama", edits=rope(**{**YARN, "factor": 4})),
    Variant("yarn factor 3.5", "llama", edits=rope(**{**YARN, "factor": 3.5})),
    Variant("yarn factor 1", "llama", {"max_position_embeddings": 128}, rope(**{**YARN, "factor": 1.0, "original_max_position_embeddings": 128})),
    Variant("yarn factor null", "llama", edits=rope(**{**YARN, "factor": None}), refused="factor"),
    Variant("yarn factor string", "llama", edits=rope(**{**YARN, "factor": "4"}), refused="factor"),
    Variant("yarn no original", "llama", edits=rope(type="yarn", factor=4.0)),
    Variant("yarn original outside", "llama", edits={**rope(type="yarn", factor=4.0), "original_max_position_embeddings": 32}),
    Variant("yarn two originals", "llama", edits={**rope(**YARN), "original_max_position_embeddings": 64}),
    Variant("llama3 original outside", "llama", edits={**rope(**LLAMA3), "original_max_position_embeddings": 64}),
    Variant("yarn original null", "llama", edits=rope(**{**YARN, "original_max_position_embeddings": None}), refused="original_max"),
    Variant("llama3 no factors", "llama", edits=rope(rope_type="llama3", factor=8.0), refused="low_freq_factor"),
    Variant("llama3 equal factors", "llama", edits=rope(**{**LLAMA3, "high_freq_factor": 1.0}), refused="high_freq_factor"),
    Variant("llama3 no original", "llama", edits=rope(**{k: v for k, v in LLAMA3.items() if k[0] != "o"})),
    Variant("linear int factor", "llama", edits=rope(type="linear", factor=4), refused="factor"),
    Variant("linear original", "llama", edits=rope(type="linear", factor=4.0, original_max_position_embeddings=32)),
    Variant("linear theta inside", "llama", edits={"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}),
    Variant("linear no factor", "llama", edits=rope(type="linear"), refused="factor"),
    Variant("default with factor", "llama", edits=rope(rope_type="default", factor=4.0)),
    Variant("default with sections", "llama", edits=rope(rope_type="default", mrope_section=[4, 6, 6]), refused="mrope_section"),
    Variant("dynamic", "llama", edits=rope(type="dynamic", factor=2.0), refused="'dynamic'"),
    Variant("dynamic alpha", "llama", edits=rope(type="dynamic", alpha=1000.0), refused="dynamic"),
    Variant("ntk", "llama", edits=rope(type="ntk", factor=2.0), refused="'ntk'"),
    Variant("longrope", "llama", edits=rope(type="longrope", short_factor=[1.0] * 16, long_factor=[2.0] * 16, factor=4.0, original_max_position_embeddings=32), refused="'longrope'"),
    Variant("su", "llama", edits=rope(type="su", short_factor=[1.0] * 16, long_factor=[2.0] * 16), refused="'su'"),
    Variant("type and rope_type", "llama", edits=rope(type="linear", rope_type="yarn", factor=4.0, original_max_position_embeddings=32), refused="type"),
    Variant("by layer type", "qwen3", edits={"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 500.0}}}, refused="rope_parameters"),
    Variant("rope_scaling list", "llama", edits={"rope_scaling": [4.0]}, refused="transformers refuses"),
    Variant("rope_scaling empty", "llama", edits={"rope_parameters": ABSENT, "rope_scaling": {}}),
    Variant("theta null", "llama", edits={"rope_parameters": ABSENT, "rope_theta": None}, refused="rope_theta"),
    Variant("rope_dim", "llama", edits=rope(rope_type="default", rope_dim=16), refused="rope_dim"),
    Variant("mistral window absent", "mistral", edits={"sliding_window": ABSENT}),
    Variant("mistral window 0", "mistral", edits={"sliding_window": 0}, refused="sliding_window"),
    Variant("mistral layer_types full", "mistral", edits={"layer_types": ["full_attention"] * 2, "sliding_window": 128}),
    Variant("llama layer_types sliding", "llama", edits={"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 128}),
    Variant("llama layer_types no window", "llama", edits={"layer_types": ["sliding_attention"] * 2}, refused="layer_types"),
    Variant("llama layer_types short", "llama", edits={"layer_types": ["full_attention"]}, refused="layer_types"),
    Variant("llama layer_types chunked", "llama", edits={"layer_types": ["chunked_attention"] * 2}, refused="layer_types"),
    *(Variant(f"{f} window of no layer", f, edits={"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2, "layer_types": ABSENT}) for f in ("qwen2", "qwen3")),
    *(Variant(f"{f} window of all layers", f, edits={"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 0, "layer_types": ABSENT}) for f in ("qwen2", "qwen3")),
    *(Variant(f"{f} window of a layer", f, edits={"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 1, "layer_types": ABSENT}, refused="max_window_layers") for f in ("qwen2", "qwen3")),
    *(Variant(f"{f} window unused", f, edits={"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 1, "layer_types": ABSENT}) for f in ("qwen2", "qwen3")),
    *(Variant(f"{f} layer_types mixed", f, edits={"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}) for f in ("qwen2", "qwen3")),
    Variant("classifier", "llama", edits={"architectures": ["LlamaForSequenceClassification"]}, refused="ForSequenceClassification"),
    Variant("base model", "qwen2", edits={"architectures": ["Qwen2Model"]}, refused="Qwen2Model"),
    Variant("reward model", "qwen2", edits={"architectures": ["Qwen2ForRewardModel"]}, refused="Qwen2ForRewardModel"),
    Variant("old name", "llama", edits={"architectures": ["LLaMAForCausalLM"]}),
    Variant("quantized", "llama", edits={"quantization_config": {"quant_method": "fp8"}}, refused="quantization_config"),
    Variant("attention_dropout", "qwen2", edits={"attention_dropout": 0.1}, refused="attention_dropout"),
    Variant("odd vocabulary", "llama", {"vocab_size": 301}),
    Variant("hidden not heads x size", "qwen3", {"hidden_size": 96, "head_dim": 32, "num_attention_heads": 4}),
    Variant("hidden not by heads", "mistral", {"hidden_size": 130, "head_dim": 32}),
    Variant("llama4 scaling", "mistral", edits={"llama_4_scaling": {"original_max_position_embeddings": 32, "beta": 0.1}}, refused="llama_4_scaling"),
    Variant("kv heads by another name", "llama", edits={"num_kv_heads": 4}, refused="num_kv_heads"),
    Variant("eps null", "llama", edits={"rms_norm_eps": None}, refused="rms_norm_eps"),
    Variant("string layers", "llama", edits={"num_hidden_layers": "2"}, refused="num_hidden_layers"),
    Variant("tied string", "llama", edits={"tie_word_embeddings": "false"}, refused="tie_word_embeddings"),
    Variant("multipliers", "llama", edits={"embedding_multiplier": 12.0}, refused="embedding_multiplier"),
    Variant("softcap", "llama", edits={"final_logit_softcapping": 30.0}, refused="final_logit_softcapping"),
    Variant("no position embedding", "llama", edits={"position_embedding_type": "alibi"}, refused="position_embedding_type"),
    Variant("float16", "llama", edits={"dtype": "float16", "torch_dtype": "float16"}),
]  # fmt: skip
