"""Writes the run directory from the events of a run.

| file | content |
| --- | --- |
| config.yaml | every setting, resolved |
| status.json | running, finished, interrupted or failed (and why), when, where, with which versions; see `status` |
| metrics.jsonl | one object per step: step, rollouts_total, wall_seconds, reward_mean, eval/*, sfpo/*, time/*, ... |
| samples.jsonl | some rollouts of every step: prompt, response, label, reward |
| metrics.jsonl.1, samples.jsonl.1, ... | lines of earlier attempts, for steps that were repeated |
| curves.png | reward, accuracy, entropy and displacement over the steps |
| checkpoints/, hf/ | checkpoints, and the final model |
| tensorboard/, logs/ | OpenRLHF's TensorBoard log; what Ray, vLLM and OpenRLHF print |
"""

import errno
import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from openrlhf_sfpo.report.curves import draw_curves
from openrlhf_sfpo.report.reading import CONFIG, METRICS, read_metrics, samples_drawn
from openrlhf_sfpo.report.status import StatusFile
from openrlhf_sfpo.system.files import write_atomically

SAMPLES = "samples.jsonl"
_LINES = (METRICS, SAMPLES)
_CHECKPOINT = ("checkpoint/blocked_seconds", "checkpoint/seconds", "checkpoint/bytes")


class RunWriter:
    """Appends to a run directory, which must have only one writer.

    Args:
        directory: an existing directory.
        settings: every resolved setting, by dotted name.
        step: the step that the run is continued from, 0 for none; lines of later steps, which will be repeated, are
            moved to metrics.jsonl.N and samples.jsonl.N.
        status: the run's status file; by default a new one.

    Attributes:
        problem: why something could not be written; the content is kept, and written once that is possible.
        set_aside: the files that lines of later steps were moved to.
    """

    def __init__(
        self, directory: Path, settings: dict[str, Any], step: int = 0, status: StatusFile | None = None
    ) -> None:
        self.directory = directory
        self.problem: str | None = None
        self.set_aside: list[Path] = []
        self._started = time.monotonic()
        self._rollouts = 0
        self._sync: dict[str, float] = {}
        self._checkpoint: dict[str, float] = {}
        self._last: dict[str, Any] | None = None
        self._last_offset = 0
        self._last_samples = 0
        self._next_drawing = 0.0
        self._unwritten: list[tuple[Path, str]] = []
        self._status = status or StatusFile(directory)
        self._continue_after(step)
        plain = {key: _plain(value) for key, value in sorted(settings.items())}
        write_atomically(directory / CONFIG, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
        self._status.attempt(step)
        self.problem = self._status.problem

    def handle(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Process an event of `cluster.mailbox`; return the metrics line that it created or changed, if any."""
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

    def close(self, state: str, reason: str | None = None) -> None:
        """Draw the final plot and record how the run ended.

        Args:
            state: "finished", "failed" or "interrupted".
            reason: why it did not finish, in one line.
        """
        if self._last is not None:
            self._draw()
        self._status.end(state, reason)
        self.problem = self.problem or self._status.problem

    def _continue_after(self, step: int) -> None:
        """Continue after the line of a step."""
        number = next(n for n in itertools.count(1) if not any(self._aside(name, n).exists() for name in _LINES))
        for name in _LINES:
            path = self.directory / name
            if not path.exists():
                continue
            # Not splitlines, which would break a line at U+2028 in a response.
            lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line]
            kept = [line for line in lines if _is_up_to(line, step)]
            if len(kept) < len(lines):
                # First the copy, then the shorter file, so that a crash in between loses nothing.
                rest = [line for line in lines if not _is_up_to(line, step)]
                self.set_aside.append(write_atomically(self._aside(name, number), _joined(rest)))
                write_atomically(path, _joined(kept))
            if name == SAMPLES and kept:
                self._last_samples = json.loads(kept[-1])["step"]
        steps = read_metrics(self.directory) if (self.directory / METRICS).exists() else []
        if steps:
            self._last = last = steps[-1]
            self._last_offset = (self.directory / METRICS).stat().st_size - len(json.dumps(last).encode()) - 1
            self._rollouts = last["rollouts_total"]
            self._started -= last["wall_seconds"]

    def _aside(self, name: str, number: int) -> Path:
        return self.directory / f"{name}.{number}"

    def _step(self, step: int, metrics: dict[str, Any]) -> dict[str, Any]:
        self._rollouts += int(samples_drawn(metrics))
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
        """Add an evaluation to the line of its step; before training, start a line."""
        named = {f"eval/{name.removeprefix('eval_')}": value for name, value in metrics.items()}
        if self._last is not None and self._last["step"] == step:
            self._remove_last_line()
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
        self._draw_occasionally()
        return line

    def _remove_last_line(self) -> None:
        """Remove the last line of metrics.jsonl, from the disk or from the unwritten text."""
        waiting = [index for index, (path, _) in enumerate(self._unwritten) if path.name == METRICS]
        if waiting:
            del self._unwritten[waiting[-1]]
        else:
            with self._recording_problems(), (self.directory / METRICS).open("r+", encoding="utf-8") as file:
                file.truncate(self._last_offset)

    def _draw_occasionally(self) -> None:
        """Draw the plot unless that takes more than a fiftieth of the time: it competes with training."""
        started = time.monotonic()
        if started < self._next_drawing:
            return
        self._draw()
        ended = time.monotonic()
        self._next_drawing = ended + 50 * (ended - started)

    def _draw(self) -> None:
        with self._recording_problems():
            draw_curves(self.directory)

    def _write(self, line: dict[str, Any]) -> None:
        # JSON has no NaN, and other readers reject Python's.
        line = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()}
        self._append(METRICS, json.dumps(line) + "\n")
        self._last = line

    def _append_samples(self, step: int, samples: list[dict[str, Any]]) -> None:
        lines = [json.dumps({"step": step, **sample}, ensure_ascii=False) + "\n" for sample in samples]
        self._append(SAMPLES, "".join(lines))

    def _append(self, name: str, text: str) -> None:
        """Append to a file, after everything that could not be written earlier. Never leaves an incomplete line."""
        self._unwritten.append((self.directory / name, text))
        with self._recording_problems():
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
    def _recording_problems(self) -> Iterator[None]:
        try:
            yield
            if not self._unwritten:
                self.problem = None
        except OSError as error:
            self.problem = str(error)


def _is_up_to(line: str, step: int) -> bool:
    """Whether a line of a JSONL file is complete, and of this step or an earlier one."""
    try:
        return 0 < step >= json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return False


def _joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _metric_name(name: str) -> str:
    """OpenRLHF's metric names sorted into sections: timing/ becomes time/, ours stay, everything else becomes
    train/."""
    if name.startswith("timing/"):
        return f"time/{name.removeprefix('timing/')}"
    if name.startswith(("sfpo/", "time/", "weight_sync/", "rollout/", "checkpoint/", "greso/")):
        return name
    return f"train/{name}"


def _plain(value: object) -> Any:
    """A value that YAML can write without tags."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
