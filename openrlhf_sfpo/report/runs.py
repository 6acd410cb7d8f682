"""Loads run directories: settings, curves, and problems with them."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from openrlhf_sfpo.report.reading import (
    CONFIG,
    METRICS,
    accuracy_of,
    evaluated_datasets,
    read_metrics,
    read_status,
    samples_drawn,
    state_of,
)
from openrlhf_sfpo.system.errors import UsageError

AXES = {
    "rollouts": "rollouts",
    "passes": "backward passes",
    "tokens": "backward tokens",
    "cost": "tokens sampled and trained on",
    "seconds": "seconds of training",
}


@dataclass(frozen=True)
class Point:
    """One evaluation of a run.

    Attributes:
        step: number of rollout batches so far.
        rollouts: number of sampled responses so far.
        passes: number of backward passes over a rollout batch so far.
        tokens: number of tokens that went through a backward pass so far; NaN in runs of older versions.
        cost: `tokens`, and the tokens of all samples times what sampling one costs in backward passes over it; NaN if
            that is not given.
        seconds: time of rollouts and updates so far, without starting the workers and evaluating.
        accuracy: in [0, 1], the unweighted mean over the data sets.
    """

    step: int
    rollouts: float
    passes: float
    tokens: float
    cost: float
    seconds: float
    accuracy: float


@dataclass
class Run:
    """The content of a run directory.

    Attributes:
        directory: its path.
        settings: config.yaml, by dotted name; empty if there is none.
        lines: the lines of metrics.jsonl that could be read, in order.
        status: status.json; empty if there is none.
        problems: descriptions of what could not be read.
    """

    directory: Path
    settings: dict[str, Any]
    lines: list[dict[str, Any]]
    status: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """ "running", "finished", "interrupted", "failed", "died" or "unknown"; see `reading.state_of`."""
        return state_of(self.status)

    @property
    def seed(self) -> Any:
        return self.settings.get("train.seed")

    def points(self, dataset: str | None = None, rollout_cost: float | None = None) -> list[Point]:
        """The run's evaluations.

        Args:
            dataset: of this data set; None for all together.
            rollout_cost: what sampling a response costs, in backward passes over it.
        """
        names = [dataset] if dataset else evaluated_datasets(self.lines)
        found, seconds, passes, rollouts = [], 0.0, 0.0, 0.0
        counted = any(_is_number(line.get("sfpo/backward_tokens_total")) for line in self.lines)
        tokens = 0.0 if counted else math.nan
        sampled = math.nan if rollout_cost is None else 0.0
        for line in self.lines:
            seconds += _number(line.get("time/step_total"))
            passes = _number(line.get("sfpo/backward_passes_total"), passes)
            tokens = _number(line.get("sfpo/backward_tokens_total"), tokens)
            sampled += _number(samples_drawn(line)) * _number(line.get("train/total_length"))
            cost = tokens + sampled * (rollout_cost or 0.0)
            rollouts = _number(line.get("rollouts_total"), rollouts)
            values = [accuracy[0] for name in names if (accuracy := accuracy_of(line, name)) is not None]
            if names and len(values) == len(names) and all(isinstance(value, int | float) for value in values):
                found.append(Point(line["step"], rollouts, passes, tokens, cost, seconds, sum(values) / len(values)))
        return found

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric where it is finite."""
        pairs = [(line["step"], line[name]) for line in self.lines if _is_number(line.get(name))]
        return [step for step, _ in pairs], [float(value) for _, value in pairs]

    def mean(self, name: str) -> float | None:
        """Mean of a metric over the run's steps."""
        values = self.series(name)[1]
        return sum(values) / len(values) if values else None


def load_run(directory: Path) -> Run:
    """Read a run directory; what cannot be read is described in `problems`."""
    problems: list[str] = []
    settings = _read_settings(directory / CONFIG, problems)
    lines = read_metrics(directory, problems)
    return Run(directory, settings, lines, read_status(directory), problems)


def find_runs(paths: list[Path]) -> list[Path]:
    """The run directories among and below the paths, without those that a comparison has set aside.

    Raises:
        UsageError: a path does not exist, or there is no run below it.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UsageError(
                "RUN_DIR", f"{path} is not a directory.", "Give run directories, or directories with runs in them."
            )
        markers = [*path.rglob(CONFIG), *path.rglob(METRICS)]
        below = sorted({marker.parent for marker in markers if ".incomplete-" not in str(marker.relative_to(path))})
        if not below:
            raise UsageError("RUN_DIR", f"{path} holds no run (no {CONFIG}, no {METRICS}).", "Give the path of a run.")
        found.update(dict.fromkeys(below))
    return list(found)


def _read_settings(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        problems.append(f"{path.name} is missing")
    except (yaml.YAMLError, UnicodeDecodeError):
        problems.append(f"{path.name} is not YAML")
    else:
        if isinstance(settings, dict):
            return settings
        problems.append(f"{path.name} is not a mapping of settings")
    return {}


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: object, default: float = 0.0) -> float:
    return float(value) if _is_number(value) else default
