"""Writing Hugging Face model directories, shard by shard."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from openrlhf_sfpo.checkpoints.model_files import INDEX, SINGLE, copy_model_files
from openrlhf_sfpo.system.files import set_usual_mode

_SHARD_BYTES = 5 * 10**9


def save_model_directory(
    target: str | Path, source: str | Path, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype
) -> None:
    """Write a Hugging Face model directory. A model at `target` is replaced only once the new one is complete; other
    files there stay.

    Args:
        target: directory to write.
        source: directory whose configuration and tokenizer files are copied.
        weights: (name, tensor) in the order of the state dict; consumed as a stream, one shard in memory at a time.
        dtype: of the tensors, noted in config.json.
    """
    target, source = Path(target), Path(source)
    # Inside an existing directory, because that may be a mount or a link to another file system.
    part = target / f".part{os.getpid()}" if target.exists() else target.with_name(f".{target.name}.part{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        copy_model_files(source, part)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)
        config["dtype"] = str(dtype).removeprefix("torch.")
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _write_shards(part, weights)
        if part.parent == target:
            _move_into(part, target)
        else:
            part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _move_into(part: Path, target: Path) -> None:
    """Move the files of `part` into `target`, and remove weights that were there before."""
    written = {file.name for file in part.iterdir()}
    for name in written:
        if (target / name).is_dir():
            shutil.rmtree(target / name)
        os.replace(part / name, target / name)
    part.rmdir()
    for file in [*target.glob("model*.safetensors"), target / INDEX]:
        if file.name not in written:
            file.unlink(missing_ok=True)


def _write_shards(directory: Path, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    total = size = 0

    def flush() -> None:
        file = directory / f"part-{len(shards):05d}.safetensors"
        save_file(pending, file, metadata={"format": "pt"})
        set_usual_mode(file)
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
        (directory / "part-00000.safetensors").rename(directory / SINGLE)
        return
    weight_map = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        (directory / f"part-{index:05d}.safetensors").rename(directory / file)
        weight_map.update(dict.fromkeys(names, file))
    index_json = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index_json, indent=2) + "\n", encoding="utf-8")
