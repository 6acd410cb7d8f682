"""Loads the model's tokenizer once before anything starts, and checks it against the model's vocabulary."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.system.errors import NotThere, UsageError
from openrlhf_sfpo.system.files import absence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_SETTINGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_LFS = b"version https://git-lfs"
_ADDED_BY_CLASS = 32


def check_model_code(flag: str, model: str, code_flag: str, allowed: bool, download: bool = True) -> None:
    """Refuse a model with its own code, unless that is allowed.

    OpenRLHF loads every model and tokenizer with trust_remote_code, which runs the code that `auto_map` names.

    Args:
        flag: the flag that names the model.
        model: Hugging Face directory or name.
        code_flag: the flag that allows the code.
        allowed: whether that flag was given.
        download: download the settings of a model on the Hub.

    Raises:
        UsageError: naming the code.
    """
    if allowed:
        return
    for name in _SETTINGS:
        path = Path(model) / name if Path(model).is_dir() else _downloaded(model, name) if download else None
        settings = _settings(path) if path is not None else None
        classes = settings.get("auto_map") if isinstance(settings, dict) else None
        if classes:
            named = sorted({str(part) for part in _leaves(classes)})
            raise UsageError(
                flag,
                f"{path} names code of its own to load (auto_map: {', '.join(named)}), which would run with your "
                "rights.",
                f"Remove auto_map if transformers has these classes itself, or read the code and give {code_flag}.",
            )


def _downloaded(model: str, name: str) -> Path | None:
    """A file of a model on the Hub; None if there is none, or the Hub cannot be reached (loading the model will report
    that)."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(model, name))
    except Exception:  # from the Hub, the connection or the name
        return None


def _settings(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the file's reader will report the error


def _leaves(value: object) -> Iterable[Any]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    elif value is not None:
        yield value


def check_tokenizer_files(flag: str, directory: Path) -> None:
    """Check that a model directory has a tokenizer, and that its files are not Git LFS pointers.

    Raises:
        NotThere: there is none.
        UsageError: a file is a pointer.
    """
    if not any((directory / name).is_file() for name in _FILES):
        raise NotThere(flag, f"{directory} has no tokenizer.", "Add tokenizer.json (and tokenizer_config.json) to it.")
    for name in (*_FILES, "tokenizer_config.json", "special_tokens_map.json", "merges.txt"):
        path = directory / name
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(_LFS)) == _LFS:
                    raise UsageError(
                        flag,
                        f"{path} is a pointer of Git LFS, not the file.",
                        f"Run git lfs pull there, or hf download NAME --local-dir {directory}.",
                    )


@functools.lru_cache(maxsize=4)
def load_tokenizer(flag: str, model: str, trust_code: bool = False, use_fast: bool = True) -> Any:
    """Load a model's tokenizer, once per process.

    Args:
        flag: the flag that names the model, for errors.
        model: Hugging Face directory or name.
        trust_code: run code that comes with the model.
        use_fast: see transformers.

    Raises:
        UsageError: it cannot be loaded, or has no end-of-sequence token.
    """
    directory = Path(model)
    if directory.is_dir():
        check_tokenizer_files(flag, directory)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_code, use_fast=use_fast)
    except Exception as error:  # libraries raise anything for a broken file
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        fix = "Download tokenizer.json and tokenizer_config.json again."
        if not directory.exists():
            fix = f"A directory {model} {absence(model)}; if it is a name on the Hugging Face Hub, check it."
        raise UsageError(flag, f"the tokenizer of {model} cannot be loaded ({reason}).", fix) from None
    if tokenizer.eos_token_id is None:
        raise UsageError(
            flag,
            f"the tokenizer of {model} has no end-of-sequence token.",
            'Set "eos_token" in its tokenizer_config.json.',
        )
    if directory.is_dir():
        check_vocabulary(flag, tokenizer, directory)
    return tokenizer


def check_vocabulary(flag: str, tokenizer: "PreTrainedTokenizerBase", directory: Path) -> None:
    """Check that the model has an embedding for every token of the tokenizer. Fewer tokens are fine: models pad their
    vocabularies.

    Raises:
        UsageError: naming the tokens without an embedding.
    """
    settings = _settings(directory / "config.json")
    size = settings.get("vocab_size") if isinstance(settings, dict) else None
    if not isinstance(size, int):
        return
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= size)
    if len(beyond) < _ADDED_BY_CLASS and (directory / "tokenizer.json").is_file():
        # Tokens that only transformers' class adds, such as an unknown token, never occur in text.
        texts = [path.read_text(encoding="utf-8") for path in directory.glob("*.json") if "token" in path.name]
        beyond = [
            one for one in beyond if any(json.dumps(one[1], ensure_ascii=a) in t for t in texts for a in (False, True))
        ]
    if beyond:
        names = ", ".join(f"{token!r} is {number}" for number, token in beyond[:3])
        raise UsageError(
            flag,
            f"{directory} has vocab_size {size} in config.json, and {len(beyond)} tokens of its tokenizer are beyond "
            f"it ({names}{', ...' if len(beyond) > 3 else ''}).",
            "Use the tokenizer that the model was trained with, or resize the model's embeddings (transformers' "
            "resize_token_embeddings) and save it again.",
        )


def check_chat_template(flag: str, tokenizer: "PreTrainedTokenizerBase", model: str, chat_flag: str) -> None:
    """Check that the tokenizer has a chat template that renders a question.

    Args:
        flag: the flag that names the model.
        tokenizer: the model's.
        model: the directory or name.
        chat_flag: the flag that asks for the template.

    Raises:
        UsageError: there is no template, or it fails.
    """
    try:
        found = bool(tokenizer.get_chat_template())
    except ValueError:  # there is none, or there are several without a default
        found = False
    if not found:
        raise UsageError(
            chat_flag,
            f"is given, and the tokenizer of {model} has no chat template.",
            "Drop it, or add chat_template.jinja to the model directory.",
        )
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a syntax error in the template, or an exception that it raises
        raise UsageError(flag, f"the chat template of {model} fails ({error}).", "Fix chat_template.jinja.") from None
