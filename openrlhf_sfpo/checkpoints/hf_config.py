"""Reading a model directory's config.json the way transformers and vLLM do.

Both take every default from transformers' config class for the model type, so this module uses it too. Importing it
takes two seconds, so it is imported only where a config is built.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import absence

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The model directory's setting name in errors; `config.setting_names` translates it to the flag.
MODEL_SETTING = "model"
# The settings that vLLM reads the longest sequence from; the smallest wins.
LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# RoPE types whose factor does not lengthen vLLM's table of positions.
_NOT_LENGTHENED = ("default", "llama3", "longrope")


def read_config(path: str | Path) -> dict[str, Any]:
    """The content of `path`/config.json.

    Raises:
        UsageError: the directory or the file does not exist, or the file is not a JSON object.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(
            MODEL_SETTING,
            f"{str(path)!r} is not a directory." if path.exists() else f"{path} {absence(path)}.",
            "Give the path of a Hugging Face model directory (config.json, *.safetensors, tokenizer files).",
        )
    file = path / "config.json"
    if not file.is_file():
        raise UsageError(MODEL_SETTING, f"{path} has no config.json.", "Download or save the whole model directory.")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(MODEL_SETTING, f"{file} is not JSON ({error}).", "Download the file again.") from None
    if not isinstance(raw, dict):
        raise UsageError(
            MODEL_SETTING, f"{file} is a JSON {_kind(raw)}, not an object with settings.", "Download the file again."
        )
    return raw


def build_config(raw: dict[str, Any], where: str = "config.json") -> Any:
    """The config object that transformers builds from a config.json, with defaults and RoPE settings filled in.

    Args:
        raw: the content.
        where: names the file in errors.

    Raises:
        UsageError: transformers does not know the model type, or refuses a setting.
    """
    with _quiet():
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        kind = raw.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            raise UsageError(
                MODEL_SETTING,
                f"{where} says model_type {kind!r}, which transformers does not know.",
                "Use another model.",
            )
        try:
            config = CONFIG_MAPPING[kind].from_dict(raw)
            if getattr(config, "rope_parameters", None):
                config.standardize_rope_params()  # the model's code does this, too; it may change a setting
        except Exception as error:  # the config classes may raise anything
            problem = " ".join(str(error).split())
            raise UsageError(
                MODEL_SETTING,
                f"transformers refuses {where}: {problem.rstrip('.')}.",
                "Correct the setting, or download the file again.",
            ) from None
    return config


def longest_sequence(config: "PretrainedConfig") -> tuple[int, str] | None:
    """The longest sequence that vLLM accepts for a model, and the setting that says so (vllm/config/model.py).

    Returns:
        Tokens and the setting's name in config.json; None if the model sets no limit.
    """
    found = [(value, key) for key in LENGTH_KEYS if isinstance(value := getattr(config, key, None), int)]
    limit, name = min(found, key=lambda one: one[0], default=(0, ""))
    if isinstance(own := getattr(config, "model_max_length", None), int) and own:
        limit, name = own, "model_max_length"
    if not limit:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    factor = rope.get("factor")
    if rope.get("rope_type") not in _NOT_LENGTHENED and isinstance(factor, int | float):
        original = rope.get("original_max_position_embeddings")
        if rope["rope_type"] == "yarn" and original:
            limit, name = original, "original_max_position_embeddings"
        limit, name = int(limit * factor), f"{name} x factor"
    return limit, name


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "list"
    return "null" if value is None else {"str": "string", "bool": "boolean"}.get(type(value).__name__, "number")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress transformers' warnings about settings: the ones that matter are reported as our own errors."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
