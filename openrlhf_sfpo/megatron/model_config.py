"""What the actor needs to know about a Hugging Face model, read from its config.json without importing anything heavy.

An architecture or setting that would be computed wrongly is refused here by name.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openrlhf_sfpo.errors import UsageError

MODEL_FLAG = "--actor.model_name_or_path"
# Hugging Face model_type -> (query/key/value projections have a bias, queries and keys are normalised)
FAMILIES: dict[str, tuple[bool, bool]] = {
    "llama": (False, False),
    "mistral": (False, False),
    "qwen2": (True, False),
    "qwen3": (False, True),
}
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and settings of a dense decoder-only model of a supported family."""

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    norm_eps: float
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    max_positions: int
    sliding_window: int | None
    rope: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "ModelConfig":
        """Read `path`/config.json.

        Raises:
            UsageError: there is no such directory or file, the architecture is unknown, or a setting is not supported.
        """
        path = Path(path)
        if not path.is_dir():
            raise UsageError(
                MODEL_FLAG,
                f"{str(path)!r} is not a directory.",
                "Give the path of a Hugging Face model directory (config.json, *.safetensors, tokenizer files).",
            )
        config_file = path / "config.json"
        if not config_file.is_file():
            raise UsageError(MODEL_FLAG, f"{path} has no config.json.", "Download or save the whole model directory.")
        try:
            raw = json.loads(config_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(MODEL_FLAG, f"{config_file} is not JSON ({error}).", "Download the file again.") from None
        return cls.from_dict(raw, str(config_file))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config.json") -> "ModelConfig":
        """Interpret the content of a config.json; `where` names it in errors."""
        family = raw.get("model_type")
        if family not in FAMILIES:
            raise UsageError(
                MODEL_FLAG,
                f"{where} says model_type {family!r}, which the Megatron actor does not know.",
                f"Supported are {', '.join(sorted(FAMILIES))}.",
            )
        required = ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"]
        if family != "llama":  # old Llama files leave it out and mean "as many as attention heads"
            required.append("num_key_value_heads")
        missing = [key for key in required if not isinstance(raw.get(key), int)]
        if missing:
            raise UsageError(MODEL_FLAG, f"{where} lacks {', '.join(missing)}.", "Download the file again.")
        _refuse_unsupported(raw, where)
        qkv_bias, qk_norm = FAMILIES[family]
        heads = raw["num_attention_heads"]
        return cls(
            family=family,
            num_layers=raw["num_hidden_layers"],
            hidden_size=raw["hidden_size"],
            ffn_hidden_size=raw["intermediate_size"],
            num_heads=heads,
            num_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or (128 if family == "qwen3" else raw["hidden_size"] // heads),
            vocab_size=raw["vocab_size"],
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            max_positions=raw.get("max_position_embeddings", 2048),
            sliding_window=_sliding_window(raw),
            rope=_rope(raw),
        )

    def check_sequence_length(self, max_len: int) -> None:
        """Check that attention over `max_len` tokens means the same here as in the model's own code.

        Raises:
            UsageError: the model would switch to sliding-window attention, which the actor does not have.
        """
        if self.sliding_window is not None and max_len > self.sliding_window:
            raise UsageError(
                "--data.max_len",
                f"is {max_len}, but beyond {self.sliding_window} tokens this model uses sliding-window attention, "
                "which the Megatron actor does not have.",
                f"Use {self.sliding_window} or less.",
            )


def _refuse_unsupported(raw: dict[str, Any], where: str) -> None:
    refusals = {
        "attention_bias": raw.get("attention_bias") and raw["model_type"] in ("llama", "mistral", "qwen3"),
        "mlp_bias": raw.get("mlp_bias"),
        "quantization_config": raw.get("quantization_config"),
        "hidden_act": raw.get("hidden_act", "silu") not in ("silu", "swish"),
        "attention_dropout": raw.get("attention_dropout"),
        "partial_rotary_factor": raw.get("partial_rotary_factor", 1.0) != 1.0,
    }
    for key, refused in refusals.items():
        if refused:
            raise UsageError(
                MODEL_FLAG,
                f"{where} sets {key} to {raw[key]!r}, which the Megatron actor does not support.",
                "Use a model without it.",
            )
    rope_type = _rope(raw)["rope_type"]
    if rope_type not in ROPE_TYPES:
        raise UsageError(
            MODEL_FLAG,
            f"{where} asks for RoPE scaling {rope_type!r}, which the Megatron actor does not support.",
            f"Supported are {', '.join(ROPE_TYPES)}.",
        )


def _rope(raw: dict[str, Any]) -> dict[str, Any]:
    """RoPE settings; `rope_parameters` is how transformers 5 writes what used to be rope_theta and rope_scaling."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None) or "default"
    rope.setdefault("rope_theta", raw.get("rope_theta", 10000.0))
    return rope


def _sliding_window(raw: dict[str, Any]) -> int | None:
    if raw["model_type"] in ("qwen2", "qwen3") and not raw.get("use_sliding_window", False):
        return None
    return raw.get("sliding_window")
