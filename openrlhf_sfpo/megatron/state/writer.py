"""Writes checkpoints in the background: copies the state, then writes it from a thread on every rank.

Megatron's own asynchronous save forks a process and finishes with collectives of the default group, for which training
must stop and poll. Here the threads have their own process group, so a checkpoint is complete as soon as the last rank
has written its part, regardless of training.
"""

import functools
import io
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

from openrlhf_sfpo.checkpoints.directory import COMMON, MODEL, describe, part_of, seal
from openrlhf_sfpo.checkpoints.model_files import copy_model_files
from openrlhf_sfpo.system.files import write_atomically
from openrlhf_sfpo.system.random_state import rng_state

_FULL = 32 * 2**20  # bytes left at which a buffer counts as full


@dataclass(frozen=True)
class Saved:
    """The result of a save.

    Attributes:
        target: the checkpoint's directory.
        step: the step after which it was saved.
        error: why the save failed; None on success.
        blocked_seconds: how long training waited for it.
        seconds: from the start of the copy until the directory had its name.
        bytes: total size of its files.
    """

    target: Path
    step: int
    error: str | None
    blocked_seconds: float
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Contents:
    """The content of a checkpoint.

    Attributes:
        step: training steps completed.
        tensors: from `training_state.staged`.
        common: state that is the same on all ranks, picklable.
        model: the Hugging Face directory whose configuration and tokenizer are included.
        manifest: the manifest's entries about the run: layout, settings, metric.
    """

    step: int
    tensors: dict[str, Any]
    common: dict[str, Any]
    model: Path
    manifest: dict[str, Any]


class CheckpointWriter:
    """Saves checkpoints, one at a time. Created and called on every rank, in the same order.

    Args:
        on_done: called on rank 0 with each save's result, in the writer thread.
    """

    def __init__(self, on_done: Callable[[Saved], None] = lambda saved: None) -> None:
        self._group = _group()
        self._on_done = on_done
        self._thread: threading.Thread | None = None
        self._last: Saved | None = None

    def save(self, target: Path, collect: Callable[[], Contents], wait: bool = False) -> None:
        """Copy the state, and write it in the background.

        Waits for the previous save, whose copies are still in memory.

        Args:
            target: the checkpoint's directory, on a file system that all ranks share.
            collect: makes the copies.
            wait: return only once the checkpoint is written.
        """
        started = time.perf_counter()
        self.wait()
        contents = collect()
        state = rng_state()
        blocked = time.perf_counter() - started
        arguments = (target, contents, state, started, blocked)
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()
        if wait:
            self.wait()

    def wait(self) -> Saved | None:
        """Wait until nothing is being written; return the last save's result (on rank 0, elsewhere None)."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._last

    def _write(self, target: Path, contents: Contents, rng: dict[str, Any], started: float, blocked: float) -> None:
        first = dist.get_rank() == 0
        error, _ = self._on_all_ranks(lambda: _make_room(target) if first else None)
        parts: list[dict[str, Any]] = []
        if error is None:
            error, parts = self._on_all_ranks(lambda: self._write_part(part_of(target), contents, rng))
        if not first:
            return
        files = {name: entry for part in parts for name, entry in (part or {}).items()}
        manifest = {"step": contents.step, **contents.manifest, "files": files}
        error = error or _caught(lambda: seal(target, manifest))[0]
        if error is not None:
            free = shutil.disk_usage(target.parent).free
            if free < _FULL:
                # torch reports a failed write as inconsistent file positions.
                error = f"no space left in {target.parent}, {free / 1e6:.1f} MB free; {error}"
            shutil.rmtree(part_of(target), ignore_errors=True)
        total = sum(entry["bytes"] for entry in files.values())
        self._last = Saved(target, contents.step, error, blocked, time.perf_counter() - started, total)
        self._on_done(self._last)

    def _on_all_ranks(self, work: Callable[[], Any]) -> tuple[str | None, list[Any]]:
        """Run a function on all ranks; return the first error and each rank's result, the same everywhere."""
        answers: list[Any] = [None] * self._group.size()
        dist.all_gather_object(answers, _caught(work), group=self._group)
        return next((error for error, _ in answers if error is not None), None), [answer for _, answer in answers]

    def _write_part(self, part: Path, contents: Contents, rng: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Write this rank's files; return their entries for the manifest."""
        rank = dist.get_rank()
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        writer = dcp.FileSystemWriter(part)
        dcp.save(contents.tensors, storage_writer=writer, planner=planner, process_group=self._group)
        names = [path.name for path in part.glob(f"__{rank}_*.distcp")]
        names.append(_save_object(part / f"rng_{rank:05d}.pt", rng))
        if rank == 0:
            save_config(CheckpointingConfig(sharded_backend="torch_dist", sharded_backend_version=1), str(part))
            names += [".metadata", "metadata.json", _save_object(part / COMMON, contents.common)]
            (part / MODEL).mkdir()
            names += [f"{MODEL}/{name}" for name in copy_model_files(contents.model, part / MODEL)]
        return describe(part, names)


def load_object(path: Path) -> Any:
    """Read one of a checkpoint's .pt files. It is a pickle: only read checkpoints that you trust."""
    return torch.load(path, weights_only=False)


def _save_object(path: Path, content: object) -> str:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return write_atomically(path, buffer.getvalue()).name


def _make_room(target: Path) -> None:
    part = part_of(target)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)


def _caught(work: Callable[[], Any]) -> tuple[str | None, Any]:
    try:
        return None, work()
    except (Exception, dcp.CheckpointException) as error:  # training continues in any case, and reports it
        return _innermost_reason(error), None


def _innermost_reason(error: BaseException) -> str:
    """The innermost reason: torch wraps those of all ranks into one exception with every traceback."""
    failures = getattr(error, "failures", None)
    if failures:
        wrapped = next(iter(failures.values()))
        error = wrapped[0] if isinstance(wrapped, tuple) else wrapped
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


@functools.cache
def _group() -> dist.ProcessGroup:
    """The process group of the writer threads, one per process."""
    return dist.new_group(backend="gloo")
