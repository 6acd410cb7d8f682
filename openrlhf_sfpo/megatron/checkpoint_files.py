"""Reading and writing Hugging Face model directories, slice by slice and shard by shard."""

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from openrlhf_sfpo.errors import NotThere, UsageError
from openrlhf_sfpo.megatron.model_config import MODEL_FLAG

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SHARD_BYTES = 5 * 10**9


def tensor_files(path: str | Path) -> dict[str, Path]:
    """Which file of the model directory holds which tensor.

    Raises:
        UsageError: there are no safetensors, or one that the index names is missing or damaged.
    """
    path = Path(path)
    if (path / _INDEX).is_file():
        try:
            weight_map = json.loads((path / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                MODEL_FLAG, f"{path / _INDEX} is damaged or cut short ({error!r}).", "Download that file again."
            ) from None
        files = {name: path / file for name, file in weight_map.items()}
        for file in sorted(set(files.values())):
            with _open(file):
                pass
        return files
    if (path / _SINGLE).is_file():
        with _open(path / _SINGLE) as opened:
            return dict.fromkeys(opened.keys(), path / _SINGLE)
    raise NotThere(
        MODEL_FLAG,
        f"{path} has neither {_SINGLE} nor {_INDEX}.",
        f"Download the model (hf download NAME --local-dir {path}); the actor reads safetensors: convert other formats "
        "with save_pretrained of transformers.",
    )


def check_complete(path: str | Path, names: Iterable[str]) -> None:
    """Check that the model directory holds every tensor in `names` and a tokenizer, reading headers only.

    Raises:
        UsageError: naming what is missing or damaged.
    """
    path = Path(path)
    present = tensor_files(path)
    missing = [name for name in names if name not in present]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UsageError(MODEL_FLAG, f"{path} lacks the tensors {shown}.", "Download the whole model again.")
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise NotThere(MODEL_FLAG, f"{path} has no tokenizer.", "Add tokenizer.json (and tokenizer_config.json) to it.")


class CheckpointReader:
    """Reads parts of tensors from the safetensors files of a model directory."""

    def __init__(self, path: str | Path) -> None:
        self._files = tensor_files(path)
        self._opened: dict[Path, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, name: str, rows: slice | None, columns: slice | None) -> torch.Tensor:
        """The given rows and columns of tensor `name`; only those bytes are read."""
        if name not in self._files:
            raise UsageError(MODEL_FLAG, f"the checkpoint lacks the tensor {name}.", "Download the whole model again.")
        file = self._files[name]
        if file not in self._opened:
            self._opened[file] = self._stack.enter_context(_open(file))
        part = self._opened[file].get_slice(name)
        everything = slice(None)
        if columns is None:
            return part[rows or everything]
        return part[rows or everything, columns]


def save_model_directory(
    target: str | Path, source: str | Path, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype
) -> None:
    """Write a Hugging Face model directory. A model at `target` is replaced only once the new one is whole; other files
    there stay.

    Args:
        target: directory to write.
        source: directory whose configuration and tokenizer files are copied.
        weights: (name, tensor) in the order of the state dict; consumed as a stream, one shard in memory at a time.
        dtype: of the tensors, noted in config.json.
    """
    target, source = Path(target), Path(source)
    part = target.with_name(f".{target.name}.part{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    copy_model_files(source, part)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_shards(part, weights)
    if not target.exists():
        part.rename(target)
        return
    written = {file.name for file in part.iterdir()}
    for name in written:
        os.replace(part / name, target / name)
    part.rmdir()
    for file in [*target.glob("model*.safetensors"), target / _INDEX]:
        if file.name not in written:
            file.unlink(missing_ok=True)


def copy_model_files(source: Path, target: Path) -> list[str]:
    """Copy the configuration and the tokenizer of a Hugging Face directory into another one; return the names."""
    files = [
        file
        for file in sorted(source.iterdir())
        if file.is_file() and file.suffix in (".json", ".jinja", ".model", ".txt") and file.name != _INDEX
    ]
    for file in files:
        shutil.copy(file, target / file.name)
    return [file.name for file in files]


def _write_shards(directory: Path, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    total = size = 0

    def flush() -> None:
        save_file(pending, directory / f"part-{len(shards):05d}.safetensors", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()

    for name, tensor in weights:
        nbytes = tensor.numel() * tensor.element_size()
        if pending and size + nbytes > _SHARD_BYTES:
            flush()
            size = 0
        pending[name] = tensor.detach().cpu().clone()
        size += nbytes
        total += nbytes
    flush()
    if len(shards) == 1:
        (directory / "part-00000.safetensors").rename(directory / _SINGLE)
        return
    weight_map = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        (directory / f"part-{index:05d}.safetensors").rename(directory / file)
        weight_map.update(dict.fromkeys(names, file))
    index_json = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / _INDEX).write_text(json.dumps(index_json, indent=2) + "\n", encoding="utf-8")


def _open(file: Path) -> Any:
    """safe_open with the errors that a user can act on. Opening checks the file's length against its header."""
    if not file.is_file():
        raise NotThere(MODEL_FLAG, f"{file} is missing.", "Download the whole model again.")
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise UsageError(
            MODEL_FLAG, f"{file} is damaged or cut short ({error}).", "Download that file again."
        ) from None
