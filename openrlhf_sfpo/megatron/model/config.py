"""The actor's description of a Hugging Face model, read from its config.json."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openrlhf_sfpo.checkpoints.hf_config import MODEL_SETTING, build_config, longest_sequence, read_config
from openrlhf_sfpo.megatron.model.config_checks import refuse_foreign, refuse_unsupported, unread_settings, window_of
from openrlhf_sfpo.megatron.model.refusals import refused
from openrlhf_sfpo.system.errors import UsageError

# Hugging Face model_type -> (query/key/value projections have a bias, queries and keys are normalized)
FAMILIES: dict[str, tuple[bool, bool]] = {
    "llama": (False, False),
    "mistral": (False, False),
    "qwen2": (True, False),
    "qwen3": (False, True),
}
# transformers' defaults for these are those of one published model; a file without them is incomplete.
_REQUIRED = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and settings of a dense decoder-only model of a supported family.

    Attributes:
        longest: tokens of the longest sequence that the model supports, as vLLM determines it.
        longest_setting: the setting in config.json that limits it.
        sliding_window: length beyond which transformers or vLLM would use sliding-window attention; None if never.
        unread: settings in config.json that have no effect anywhere.
    """

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
    longest: int
    longest_setting: str
    sliding_window: int | None
    rope: dict[str, Any] = field(default_factory=dict, hash=False)
    unread: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "ModelConfig":
        """Read `path`/config.json.

        Raises:
            UsageError: there is no such directory or file, the architecture is unknown, or a setting is not supported.
        """
        path = Path(path)
        model = cls.from_dict(read_config(path), str(path / "config.json"))
        if (path / "hf_quant_config.json").is_file():
            raise UsageError(
                MODEL_SETTING,
                f"{path} has hf_quant_config.json: quantized weights, which the Megatron actor does not support.",
                "Use the original model.",
            )
        if (path / "params.json").is_file() and any(path.glob("consolidated*.safetensors")):
            raise UsageError(
                MODEL_SETTING,
                f"{path} holds the model twice, and vLLM would read params.json and consolidated*.safetensors instead "
                "of config.json and model*.safetensors.",
                "Move those two away.",
            )
        return model

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config.json") -> "ModelConfig":
        """Interpret the content of a config.json; `where` names it in errors.

        Raises:
            UsageError: the architecture is unknown, or a setting is not supported.
        """
        family = raw.get("model_type")
        if not isinstance(family, str) or family not in FAMILIES:
            raise UsageError(
                MODEL_SETTING,
                f"{where} says model_type {family!r}, which the Megatron actor does not know.",
                f"Supported are {', '.join(sorted(FAMILIES))}.",
            )
        missing = [key for key in _REQUIRED if raw.get(key) is None]
        if missing:
            raise UsageError(MODEL_SETTING, f"{where} lacks {', '.join(missing)}.", "Download the file again.")
        for key in _REQUIRED:
            if not isinstance(raw[key], int) or isinstance(raw[key], bool):
                raise refused(where, key, raw[key], "where a whole number above 0 is expected", "Correct it.")
        refuse_foreign(raw, where)
        config = build_config(raw, where)
        refuse_unsupported(raw, config, where)
        qkv_bias, qk_norm = FAMILIES[family]
        longest, setting = longest_sequence(config) or (config.max_position_embeddings, "max_position_embeddings")
        return cls(
            family=family,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            ffn_hidden_size=config.intermediate_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", config.hidden_size // config.num_attention_heads),
            vocab_size=config.vocab_size,
            norm_eps=config.rms_norm_eps,
            tied_embeddings=config.tie_word_embeddings,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            max_positions=config.max_position_embeddings,
            longest=longest,
            longest_setting=setting,
            sliding_window=window_of(config),
            rope=dict(config.rope_parameters),
            unread=unread_settings(raw, config),
        )

    @property
    def warning(self) -> str | None:
        """A warning about config.json, if any."""
        if not self.unread:
            return None
        return (
            f"warning: config.json has settings that neither transformers nor vLLM reads for model_type "
            f"{self.family!r}: {', '.join(self.unread)}. If the model depends on them, it is not computed as intended."
        )

    def check_sequence_length(self, max_len: int) -> None:
        """Check that attention over `max_len` tokens means the same here as in transformers and vLLM.

        Raises:
            UsageError: they would use sliding-window attention, which the actor lacks.
        """
        if self.sliding_window is not None and max_len > self.sliding_window:
            raise UsageError(
                "max_len",
                f"is {max_len}, but beyond {self.sliding_window} tokens this model uses sliding-window attention "
                "(sliding_window in config.json, or the default of its model_type), which the Megatron actor does not "
                "have.",
                f"Use {self.sliding_window} or less.",
            )
