"""The files of a Hugging Face model directory: names of weights, and the other files to copy with the model (all except
those about the source's training). Imports nothing heavy."""

import json
import shutil
from pathlib import Path

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".vocab", ".bpe")
_PREFIXES = ("tokenizer.model", "license", "notice", "use_policy")  # tokenizer.model.v3, LICENSE, USE_POLICY.md
_DIRECTORIES = ("additional_chat_templates",)
_LEFT_OUT = (
    "adapter_config.json",  # transformers would load the base model that it names
    "params.json",  # Mistral's and Meta's own formats
    "hf_quant_config.json",
    "quant_config.json",
    "quantize_config.json",
    "trainer_state.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "requirements.txt",
)


def copy_model_files(source: Path, target: Path) -> list[str]:
    """Copy configuration, tokenizer, chat templates and license of a Hugging Face directory into another one, and code
    if the configuration or the tokenizer uses it. The copies have the default mode of new files. The model card is not
    copied: it describes another model.

    Returns:
        The files' names in `target`.
    """
    files = [file for file in sorted(source.iterdir()) if file.is_file() and _belongs(file)]
    if any(_uses_code(file) for file in files):
        files += sorted(source.glob("*.py"))
    for name in _DIRECTORIES:
        files += sorted(file for file in (source / name).rglob("*") if file.is_file())
    names = [str(file.relative_to(source)) for file in files]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return names


def _belongs(file: Path) -> bool:
    name = file.name.lower()
    if name.startswith(".") or name.endswith(".index.json") or name in _LEFT_OUT:
        return False
    return name.endswith(_SUFFIXES) or name.startswith(_PREFIXES)


def _uses_code(file: Path) -> bool:
    """Whether a configuration names classes in the directory's Python files."""
    if not file.name.endswith("config.json"):
        return False
    try:
        return "auto_map" in json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        return False


def some(names: list[str], count: int = 3) -> str:
    """The first few names, and the number of the others."""
    rest = len(names) - count
    return ", ".join(names[:count]) + (f" and {rest} more" if rest > 0 else "")
