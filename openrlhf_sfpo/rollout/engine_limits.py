"""Checks for models, sequence lengths and tensor-parallel sizes that vLLM would refuse, made before an engine starts.

The rules are vLLM 0.29's: `ModelConfig.verify_with_parallel_config`, the assertions in its models,
`VocabParallelEmbedding`, and the CPU attention's head sizes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from openrlhf_sfpo.checkpoints.hf_config import build_config, longest_sequence, read_config
from openrlhf_sfpo.config.openrlhf_flags import MODEL_FLAG
from openrlhf_sfpo.system.errors import UsageError

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
_VOCAB_PADDING = 64


class CheckedModel(Protocol):
    """The properties of a model that vLLM checks. None if the model does not state one, or vLLM's rule for it is
    unknown here."""

    @property
    def num_heads(self) -> int | None: ...

    @property
    def num_kv_heads(self) -> int | None: ...

    @property
    def head_dim(self) -> int | None: ...

    @property
    def ffn_hidden_size(self) -> int | None: ...

    @property
    def vocab_size(self) -> int | None: ...

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence."""

    @property
    def longest_setting(self) -> str:
        """The setting in config.json that limits it."""


@dataclass(frozen=True)
class EngineModel:
    """A `CheckedModel` of any architecture, also one that the Megatron actor does not know."""

    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    ffn_hidden_size: int | None = None
    vocab_size: int | None = None
    longest: int | None = None
    longest_setting: str = ""

    @classmethod
    def of_any_architecture(cls, path: str) -> "EngineModel":
        """From a model directory that transformers loads. Everything is None for a model with its own code, or one
        given by its name on the Hugging Face Hub."""
        if not (Path(path) / "config.json").is_file():
            return cls()
        raw = read_config(path)
        try:
            config = build_config(raw, f"{path}/config.json").get_text_config()
        except UsageError:
            return cls()
        longest, setting = longest_sequence(config) or (None, "")
        return cls(num_heads=getattr(config, "num_attention_heads", None), longest=longest, longest_setting=setting)


def check_engine(model: CheckedModel, max_len: int, tp: int, on_cpu: bool) -> None:
    """Check that an engine can run a model.

    Args:
        model: a `ModelConfig` or an `EngineModel`.
        max_len: --data.max_len.
        tp: --vllm.tensor_parallel_size.
        on_cpu: whether it runs without a GPU.

    Raises:
        UsageError: naming the flag or the setting.
    """
    if model.longest is not None and max_len > model.longest:
        raise UsageError(
            "--data.max_len",
            f"is {max_len}, but the model is made for {model.longest} tokens ({model.longest_setting} in config.json), "
            "and vLLM does not start with more.",
            f"Use {model.longest} or less, or a model with a longer context.",
        )
    undivided = _undivided(model, tp)
    if undivided:
        fits = [size for size in range(1, (model.num_heads or 1) + 1) if not _undivided(model, size)]
        raise UsageError(
            "--vllm.tensor_parallel_size",
            f"is {tp}, and vLLM cannot split the model's {' and '.join(undivided)} over as many ranks.",
            f"Use one of {fits}.",
        )
    if on_cpu and model.head_dim is not None and model.head_dim not in CPU_HEAD_SIZES:
        sizes = ", ".join(map(str, CPU_HEAD_SIZES))
        raise UsageError(
            MODEL_FLAG,
            f"has attention heads of size {model.head_dim}, and vLLM on CPU supports only {sizes}.",
            "Use another model, or a machine with a GPU.",
        )


def _undivided(model: CheckedModel, tp: int) -> list[str]:
    """The parts of the model that vLLM cannot split over `tp` ranks, as text. If there are fewer key/value heads than
    ranks, vLLM copies them."""
    found = []
    if model.num_heads is not None and model.num_heads % tp:
        found.append(f"{model.num_heads} attention heads")
    kv_heads = model.num_kv_heads
    if kv_heads is not None and max(kv_heads, tp) % min(kv_heads, tp):
        found.append(f"{kv_heads} key/value heads")
    if model.ffn_hidden_size is not None and model.ffn_hidden_size % tp:
        found.append(f"{model.ffn_hidden_size} MLP rows (intermediate_size)")
    if model.vocab_size is not None:
        padded = -(-model.vocab_size // _VOCAB_PADDING) * _VOCAB_PADDING
        if padded % tp:
            found.append(f"vocabulary of {model.vocab_size} (padded to {padded})")
    return found
