"""Reading Hugging Face model directories, slice by slice."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from openrlhf_sfpo.checkpoints.hf_config import MODEL_SETTING
from openrlhf_sfpo.checkpoints.model_files import INDEX, SINGLE, some
from openrlhf_sfpo.system.errors import NotThere, UsageError


@dataclass(frozen=True)
class Header:
    """A tensor's entry in a safetensors file's header.

    Attributes:
        file: the file that holds it.
        shape: its shape.
        dtype: as safetensors names it: F32, BF16, F16, I8, F8_E4M3, ...
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str


def tensor_headers(path: str | Path) -> dict[str, Header]:
    """Every tensor in the model directory's safetensors files. Reads headers only.

    Raises:
        UsageError: there are no safetensors, a file is missing or damaged, the index and the files disagree, or
            transformers, vLLM and the actor would read different files.
    """
    path = Path(path)
    index = _read_index(path)
    files = sorted({*index.values()}) if index is not None else [SINGLE]
    if index is None and not (path / SINGLE).is_file():
        raise NotThere(
            MODEL_SETTING,
            f"{path} has neither {SINGLE} nor {INDEX}.",
            f"Download the model (hf download NAME --local-dir {path}); the actor reads safetensors: convert other "
            "formats with save_pretrained of transformers.",
        )
    _check_one_set(path, files, index is not None)
    found: dict[str, Header] = {}
    for file in files:
        with _open(path / file) as opened:
            for name in opened.keys():  # noqa: SIM118, not a mapping
                part = opened.get_slice(name)
                if name in found:
                    problem = f"{name} is in both {found[name].file.name} and {file} of {path}."
                    raise UsageError(MODEL_SETTING, problem, "Download the whole model again.")
                found[name] = Header(path / file, tuple(part.get_shape()), part.get_dtype())
    _check_index(path, index or {}, found)
    return found


def _read_index(path: Path) -> dict[str, str] | None:
    """The index's weight map; None without an index."""
    file = path / INDEX
    if not file.is_file():
        return None
    try:
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        if not weight_map or not all(isinstance(name, str) for name in weight_map.values()):
            raise ValueError("its weight_map does not name files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            MODEL_SETTING, f"{file} is damaged or truncated ({error!r}).", "Download that file again."
        ) from None
    for name in weight_map.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            problem = f"{file} names {name!r}, which is not a safetensors file in that directory."
            raise UsageError(MODEL_SETTING, problem, "Download the model's safetensors and their index.")
    return weight_map


def _check_one_set(path: Path, files: list[str], has_index: bool) -> None:
    """Check that transformers and vLLM read the same files: transformers prefers model.safetensors, and vLLM without an
    index reads every safetensors file."""
    if has_index and SINGLE not in files and (path / SINGLE).is_file():
        raise UsageError(
            MODEL_SETTING,
            f"{path} holds two sets of weights, {SINGLE} and the files that {INDEX} names.",
            "Remove the one that is not the model (transformers would read the first, vLLM the second).",
        )
    others = sorted(file.name for file in path.glob("*.safetensors") if file.name not in files)
    if others and not has_index:
        raise UsageError(
            MODEL_SETTING,
            f"{path} holds {some(others)} next to {SINGLE}, and vLLM would load all of them.",
            "Move what does not belong to the model elsewhere.",
        )


def _check_index(path: Path, index: dict[str, str], found: dict[str, Header]) -> None:
    absent = sorted(name for name in index if name not in found)
    if absent:
        problem = f"{path / INDEX} lists {some(absent)}, and none of its files holds that."
        raise UsageError(MODEL_SETTING, problem, "Download the whole model again.")
    moved = sorted(name for name, file in index.items() if found[name].file.name != file)
    if moved:
        one = moved[0]
        more = f" (and {len(moved) - 1} more)" if len(moved) > 1 else ""
        raise UsageError(
            MODEL_SETTING,
            f"{path / INDEX} says that {one} is in {index[one]}, and it is in {found[one].file.name}{more}.",
            "The index is of another version of the model: download the whole model again.",
        )


def check_tokenizer_files(path: str | Path) -> None:
    """Check that the model directory holds a tokenizer.

    Raises:
        UsageError: it does not.
    """
    path = Path(path)
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise NotThere(
            MODEL_SETTING, f"{path} has no tokenizer.", "Add tokenizer.json (and tokenizer_config.json) to it."
        )


class CheckpointReader:
    """Reads parts of tensors from the safetensors files of a model directory.

    Attributes:
        headers: what the files hold.
    """

    def __init__(self, path: str | Path) -> None:
        self.headers = tensor_headers(path)
        self._opened: dict[Path, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, name: str, rows: slice | None, columns: slice | None) -> torch.Tensor:
        """The given rows and columns of tensor `name`; reads only those bytes."""
        if name not in self.headers:
            raise UsageError(
                MODEL_SETTING, f"the checkpoint lacks the tensor {name}.", "Download the whole model again."
            )
        file = self.headers[name].file
        if file not in self._opened:
            self._opened[file] = self._stack.enter_context(_open(file))
        part = self._opened[file].get_slice(name)
        everything = slice(None)
        if columns is None:
            return part[rows or everything]
        return part[rows or everything, columns]


def _open(file: Path) -> Any:
    """safe_open with errors that help the user. Opening checks the file's length against its header."""
    if not file.is_file():
        raise NotThere(MODEL_SETTING, f"{file} is missing.", "Download the whole model again.")
    try:
        return safe_open(file, framework="pt")
    except OSError as error:
        raise UsageError(MODEL_SETTING, f"{file} cannot be read ({error}).", "Change its permissions.") from None
    except SafetensorError as error:
        raise UsageError(
            MODEL_SETTING, f"{file} is damaged or truncated ({error}).", "Download that file again."
        ) from None
