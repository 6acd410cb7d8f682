"""A checkpoint is a directory with a manifest. It is written to a temporary sibling, then renamed atomically.

| file | content |
| --- | --- |
| manifest.json | format, step, metric, layout, settings of the run; size and SHA-256 of every other file |
| metadata.json, .metadata, *.distcp | weights and moments in fp32, as Megatron's dist_checkpointing has them |
| common.pt | schedule, SFPO state, data position, random numbers of the trainer |
| rng_00000.pt, ... | random numbers of each rank |
| model/ | the Hugging Face configuration and tokenizer of the model |
"""

import concurrent.futures
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.files import write_atomically

FORMAT = 1
MANIFEST = "manifest.json"
COMMON = "common.pt"
MODEL = "model"
PLACE = "_actor"  # below --ckpt.path, where OpenRLHF looks for its own
_REGULAR, _BEST = "global_step", "best_global_step"


class CheckpointRefused(Exception):
    """A checkpoint cannot be used; the message says why and names the file, and `fix` what to do."""

    def __init__(self, problem: str, fix: str = "Give a complete checkpoint.") -> None:
        super().__init__(problem)
        self.fix = fix


@dataclass(frozen=True)
class Checkpoint:
    """A directory whose manifest could be read; `verify` says whether the rest is complete.

    Attributes:
        path: the directory.
        manifest: its manifest.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def is_best(self) -> bool:
        return self.path.name.startswith(_BEST)

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    @property
    def metric(self) -> float | None:
        return self.manifest.get("metric_value")


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the manifest.

    Raises:
        CheckpointRefused: it is missing, damaged, or of a newer format.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise CheckpointRefused(f"{path} has no {MANIFEST}, so it was never finished")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = int(manifest["format"])
        if version > FORMAT:
            raise CheckpointRefused(
                f"{path} has format {version}, and this openrlhf_sfpo reads up to {FORMAT}; use a newer one"
            )
        checkpoint = Checkpoint(path, manifest)
        if checkpoint.step < 0 or checkpoint.bytes < 0:
            raise ValueError("negative numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointRefused(f"{file} is damaged ({error!r})") from None
    return checkpoint


def verify(checkpoint: Checkpoint, workers: int = 8) -> None:
    """Check that every file exists with its size and checksum. Reads all of them.

    Raises:
        CheckpointRefused: naming the first file that differs from what was written.
    """
    files = checkpoint.manifest["files"]
    for name, entry in files.items():
        file = checkpoint.path / name
        if not file.is_file():
            raise CheckpointRefused(f"{file} is missing")
        if file.stat().st_size != entry["bytes"]:
            raise CheckpointRefused(f"{file} has {file.stat().st_size} bytes instead of {entry['bytes']}")
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        digests = pool.map(lambda name: sha256(checkpoint.path / name), files)
        for (name, entry), digest in zip(files.items(), digests, strict=True):
            if digest != entry["sha256"]:
                raise CheckpointRefused(f"{checkpoint.path / name} is damaged: its checksum is another one")


def newest_complete(
    root: Path,
    refused: Callable[[str], None] = lambda reason: None,
    check: Callable[[Checkpoint], None] = verify,
) -> Checkpoint | None:
    """The complete checkpoint with the most steps; among several, the one written last.

    Args:
        root: the directory that the checkpoints are in; it need not exist.
        refused: called with the reason for each checkpoint that turned out to be unusable.
        check: raises CheckpointRefused for one that is incomplete.
    """
    found = []
    for path in _directories(root):
        try:
            found.append(open_checkpoint(path))
        except CheckpointRefused as reason:
            refused(str(reason))
    # The best checkpoint of a step is written after the regular one, and contains its evaluation.
    for checkpoint in sorted(found, key=lambda one: (one.step, one.is_best), reverse=True):
        try:
            check(checkpoint)
            return checkpoint
        except CheckpointRefused as reason:
            refused(str(reason))
    return None


def find_checkpoint(
    path: Path,
    refused: Callable[[str], None] = lambda reason: None,
    check: Callable[[Checkpoint], None] = verify,
) -> Checkpoint:
    """The checkpoint that a user means by a path: the path itself, or the newest complete one in a run directory or
    --ckpt.path. For `refused` and `check` see `newest_complete`.

    Raises:
        CheckpointRefused: there is none, or it is incomplete or damaged; the message says what the path is, if that is
            known.
    """
    for place in (path, path / PLACE, path / "checkpoints" / PLACE):
        found = newest_complete(place, refused, check)
        if found is not None:
            return found
    if not (path / MANIFEST).is_file():
        raise CheckpointRefused(*_identify(path))
    checkpoint = open_checkpoint(path)
    check(checkpoint)
    return checkpoint


def _identify(path: Path) -> tuple[str, str]:
    """What a directory without a manifest is, and which path to give instead."""
    if (path / "config.json").is_file() and [*path.glob("*.safetensors"), *path.glob("*.bin")]:
        return (
            f"{path} is a Hugging Face model directory already",
            "Load it with transformers or vLLM; nothing to export.",
        )
    if (path.parent / MANIFEST).is_file():
        return f"{path} is only a part of a checkpoint", f"Give {path.parent}."
    inside = [one for place in (path, path / PLACE, path / "checkpoints" / PLACE) for one in _directories(place)]
    if any(_is_of_deepspeed(one) for one in [path, *inside]):
        fix = "Use --ckpt.save_hf in the run, or DeepSpeed's zero_to_fp32.py in the checkpoint."
        return f"{path} has checkpoints of --actor.backend deepspeed, which are not read here", fix
    if path.name.startswith((_REGULAR, _BEST)):
        return f"{path} has no {MANIFEST}, so it was never finished", "Give a complete checkpoint."
    if inside:
        return f"{path} holds no complete checkpoint", "Give another run directory."
    model = path / "hf"
    if (model / "config.json").is_file():
        fix = "Load that with transformers or vLLM; nothing to export."
        return f"{path} holds no checkpoint, but its final model as the Hugging Face directory {model}", fix
    if (path / "config.yaml").is_file():
        return f"{path} is a run directory without a checkpoint", "--ckpt.save_steps N makes a run write some."
    runs = sorted(one.name for one in path.iterdir() if (one / "checkpoints" / PLACE).is_dir())
    if runs:
        return f"{path} holds {len(runs)} directories with checkpoints", f"Give one of them, such as {path / runs[0]}."
    return f"{path} is neither a checkpoint nor a run directory", "Give one of the two."


def _is_of_deepspeed(path: Path) -> bool:
    return any(path.glob("mp_rank_*")) or (path / "zero_to_fp32.py").is_file()


def sha256(file: Path) -> str:
    """The checksum of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(directory: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The manifest entries of the named files."""
    return {
        name: {"bytes": (directory / name).stat().st_size, "sha256": sha256(directory / name)} for name in sorted(names)
    }


def part_of(target: Path) -> Path:
    """The temporary sibling that a checkpoint is written to before it is renamed."""
    return target.with_name(f".{target.name}.part")


def seal(target: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a finished checkpoint and rename it to its final name.

    Args:
        target: the final directory; an existing one is removed once the new one is complete.
        manifest: its content without the format.
    """
    part = part_of(target)
    write_atomically(part / MANIFEST, (json.dumps({"format": FORMAT, **manifest}, indent=1) + "\n").encode())
    _sync(part)
    if target.exists():
        replaced = target.with_name(f".{target.name}.old")
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
        part.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        part.rename(target)
    _sync(target.parent)


def remove_leftovers(root: Path) -> None:
    """Remove unfinished checkpoints of a killed run. No run may be writing."""
    for pattern in (".*.part", ".*.old"):
        for path in root.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def rotate(root: Path, max_num: int, max_bytes: float) -> list[Path]:
    """Remove checkpoints beyond the limits, by OpenRLHF's rules: the newest best checkpoint stays and does not count
    toward `max_num`; regular ones without a metric are removed first, then those with a worse metric, then older ones.
    The newest regular one always stays, because a run continues from it.

    Args:
        root: the directory that contains them.
        max_num: the number of regular ones to keep.
        max_bytes: the limit on the total size, including the best one.

    Returns:
        The removed directories.
    """
    whole = []
    for path in _directories(root):
        try:
            whole.append(open_checkpoint(path))
        except CheckpointRefused:
            continue  # not checked here; a resume reports it
    best = sorted((one for one in whole if one.is_best), key=lambda one: one.step)
    regular = sorted((one for one in whole if not one.is_best), key=lambda one: one.step)
    doomed = best[:-1]
    candidates = sorted(
        regular[:-1], key=lambda one: (one.metric is not None, one.metric if one.metric is not None else 0.0, one.step)
    )
    kept, total = len(regular), sum(one.bytes for one in whole) - sum(one.bytes for one in doomed)
    for one in candidates:
        if kept <= max(1, max_num) and total <= max_bytes:
            break
        doomed.append(one)
        kept -= 1
        total -= one.bytes
    for one in doomed:
        # Renamed first: a half-removed directory must not look like a checkpoint.
        gone = one.path.with_name(f".{one.path.name}.old")
        one.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return [one.path for one in doomed]


def rotate_models(directory: Path, tag: str, max_num: int) -> None:
    """Remove the exported models of old checkpoints of the kind of `tag`, by the time at which they were written: the
    newest `max_num` of regular checkpoints stay, and the newest of best ones.

    Args:
        directory: --ckpt.path; the models are in TAG_hf.
        tag: the checkpoint that was saved last.
        max_num: the number of regular ones to keep.
    """
    best = tag.startswith("best")
    kind = list(directory.glob("best*_hf" if best else "global_step*_hf"))
    kind.sort(key=lambda path: path.stat().st_mtime)
    keep = 1 if best else max_num
    for path in kind[:-keep] if keep else kind:
        shutil.rmtree(path)


def _directories(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [path for path in root.iterdir() if path.is_dir() and path.name.startswith((_REGULAR, _BEST))]


def _sync(directory: Path) -> None:
    """Flush a directory's entries to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
