"""Groups of runs that differ only in the seed, and their median curves."""

import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from openrlhf_sfpo.config.effective_update import effective_update
from openrlhf_sfpo.config.flag_table import own_defaults
from openrlhf_sfpo.report.runs import AXES, Point, Run

# Settings of paths and display, which do not identify a run.
_PLACES = ("run.", "ckpt.", "logger.", "train.seed", "rollout.record_dir", "config")
_SHORT = {"sfpo.k": "K"}


@dataclass(frozen=True)
class Curves:
    """Accuracy over training, of one or more sets of runs.

    Attributes:
        accuracy: float64 [sets, evaluations], in [0, 1]; NaN where no run of the set has got that far.
        x: by axis, the position of each evaluation, float64 [sets, evaluations].
    """

    accuracy: np.ndarray
    x: dict[str, np.ndarray]

    @property
    def best(self) -> np.ndarray:
        """The highest accuracy, [sets]."""
        return _nan(np.nanmax, self.accuracy)

    @property
    def last(self) -> np.ndarray:
        """The accuracy at the end, [sets]."""
        known = ~np.isnan(self.accuracy)
        return _at(self.accuracy, known.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1))

    def reach(self, axis: str, target: np.ndarray | float) -> np.ndarray:
        """The position on an axis at which the accuracy first reaches the target, [sets]; linear between evaluations,
        infinite if it never does.

        Args:
            axis: a name in `AXES`.
            target: an accuracy for all sets, or one per set.
        """
        there = self.accuracy >= np.reshape(target, (-1, 1))
        index = np.argmax(there, axis=1)
        before = np.maximum(index - 1, 0)
        low, high = _at(self.accuracy, before), _at(self.accuracy, index)
        end = _at(self.x[axis], index)
        start = np.where(np.isnan(low), end, _at(self.x[axis], before))
        part = np.where(high > low, (target - low) / np.where(high > low, high - low, 1.0), 1.0)
        return np.where(there.any(axis=1), start + part * (end - start), math.inf)

    def after(self, target: float) -> np.ndarray:
        """Mean accuracy of the evaluations from the first that reaches the target, [sets]; NaN if none does."""
        since = np.logical_or.accumulate(self.accuracy >= target, axis=1)
        return _nan(np.nanmean, np.where(since, self.accuracy, np.nan))

    def within(self, axis: str, budget: np.ndarray | float) -> np.ndarray:
        """The highest accuracy up to a point on an axis, [sets]; NaN if no evaluation is before it."""
        return _nan(np.nanmax, np.where(self.x[axis] <= np.reshape(budget, (-1, 1)), self.accuracy, np.nan))


@dataclass
class Group:
    """Runs that differ only in the seed.

    Attributes:
        variant: the update as text, such as "sfpo K=3".
        setting: what is swept, as text, such as "lr=0.001"; empty if nothing is.
        update: the differing sfpo.* settings.
        swept: the other differing settings.
        runs: one per seed.
        dataset: the data set whose accuracy counts; None for the mean over all.
        smooth: the number of evaluations averaged for each accuracy.
        rollout_cost: see `Run.points`.
    """

    variant: str
    setting: str
    update: dict[str, Any]
    swept: dict[str, Any]
    runs: list[Run]
    dataset: str | None = None
    smooth: int = 1
    rollout_cost: float | None = None

    @property
    def name(self) -> str:
        return " ".join(filter(None, [self.variant, self.setting]))

    @cached_property
    def run_curves(self) -> list[list[Point]]:
        """The smoothed evaluations of each run that has any."""
        return [
            smoothed(points, self.smooth)
            for run in self.runs
            if (points := run.points(self.dataset, self.rollout_cost))
        ]

    @cached_property
    def runs_by_step(self) -> Curves:
        """The runs as sets of one run: curves over the same steps, NaN where a run has no value."""
        columns = {
            name: aligned([{point.step: getattr(point, name) for point in curve} for curve in self.run_curves])[1]
            for name in ("accuracy", *AXES)
        }
        return Curves(columns.pop("accuracy"), columns)

    @cached_property
    def curve(self) -> Curves:
        """The median over the runs, one set."""
        return self.medians(np.arange(len(self.run_curves))[None])

    def medians(self, draws: np.ndarray) -> Curves:
        """The median curves of several selections of runs.

        Args:
            draws: indices of runs, int [sets, any number].
        """
        runs = self.runs_by_step
        x = {axis: _nan(np.nanmedian, values[draws]) for axis, values in runs.x.items()}
        return Curves(_nan(np.nanmedian, runs.accuracy[draws]), x)

    def count_reached(self, target: float) -> int:
        """The number of runs that reach the target accuracy at some point."""
        return sum(any(point.accuracy >= target for point in curve) for curve in self.run_curves)

    def mean(self, metric: str) -> float | None:
        """Median over the runs of a metric's mean over the steps."""
        values = [value for run in self.runs if (value := run.mean(metric)) is not None]
        return float(np.median(values)) if values else None

    def final(self, metric: str) -> float | None:
        """Median over the runs of a metric's last value."""
        values = [series[-1] for run in self.runs if (series := run.series(metric)[1])]
        return float(np.median(values)) if values else None


def aligned(series: list[dict[int, float]]) -> tuple[list[int], np.ndarray]:
    """Several runs' values over common steps: those that at least half of the runs have, so that an unfinished or
    failed run does not shorten the others.

    Args:
        series: each run's values by step.

    Returns:
        The steps, and the values, float64 [runs, steps], NaN where a run has no value.
    """
    counts = Counter(step for values in series for step in values)
    steps = sorted(step for step, count in counts.items() if 2 * count >= len(series))
    return steps, np.array([[values.get(step, math.nan) for step in steps] for values in series], dtype=float)


def smoothed(curve: list[Point], count: int) -> list[Point]:
    """Each accuracy as the mean of `count` consecutive evaluations centered on it; of fewer at the ends. The evaluation
    before training is not smoothed: all runs have it in common."""
    values = [point.accuracy for point in curve]
    reaches = [0 if point.step == 0 else count // 2 for point in curve]
    windows = (values[max(0, i - reach) : i + reach + 1] for i, reach in enumerate(reaches))
    return [replace(point, accuracy=sum(window) / len(window)) for point, window in zip(curve, windows, strict=True)]


def group_runs(runs: list[Run], dataset: str | None, smooth: int, rollout_cost: float | None = None) -> list[Group]:
    """Group runs by every differing setting except the seed; sorted by what is swept, numbers by size."""
    identities = [_identity(run) for run in runs]
    names = {name for identity in identities for name in identity}
    differing = {name for name in names if len({repr(identity.get(name)) for identity in identities}) > 1}
    grouped: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for run, identity in zip(runs, identities, strict=True):
        essence = {name: identity[name] for name in sorted(differing & identity.keys())}
        essence.setdefault("sfpo.preset", identity.get("sfpo.preset", "run"))
        grouped.setdefault(repr(essence), (essence, []))[1].append(run)
    kinds = [essence for essence, _ in grouped.values()]
    groups = []
    for essence, members in grouped.values():
        update = {name: value for name, value in essence.items() if name.startswith("sfpo.")}
        swept = {name: value for name, value in essence.items() if name not in update}
        members.sort(key=lambda run: str(run.seed).zfill(12))
        variant, setting = _variant_name(update, kinds), _words(swept)
        groups.append(Group(variant, setting, update, swept, members, dataset, smooth, rollout_cost))
    return sorted(groups, key=_order)


def shown(value: object) -> str:
    """A setting's value for display."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(group: Group) -> list[tuple[float, str]]:
    return [(value if isinstance(value, int | float) else 0.0, str(value)) for value in group.swept.values()]


def _identity(run: Run) -> dict[str, Any]:
    """The settings that identify a run."""
    if "sfpo.preset" not in run.settings:
        return {"sfpo.preset": "unknown"}
    settings = {**own_defaults(), **run.settings}
    own = f"{settings.get('run.dir')}/"
    others = {
        name: value
        for name, value in settings.items()
        if not name.startswith((*_PLACES, "sfpo.")) and not str(value).startswith(own)
    }
    return {**others, **effective_update(settings)}


def _variant_name(update: dict[str, Any], all_kinds: list[dict[str, Any]]) -> str:
    """The preset, and those of its settings in which variants of this preset differ. What only some of them have, a
    limit or a momentum, is named where it isn't the default."""
    preset = update["sfpo.preset"]
    others = [kind for kind in all_kinds if kind["sfpo.preset"] == preset]
    varied = {}
    for name, value in update.items():
        values = {repr(kind[name]) for kind in others if name in kind}
        # Not the gate's: that one variant has a gate is named by sfpo.gate.
        special = any(name not in kind for kind in others) and not name.startswith("sfpo.gate_")
        if name != "sfpo.preset" and (len(values) > 1 or (special and value != own_defaults().get(name))):
            varied[name] = value
    return " ".join(filter(None, [str(preset), _words(varied)]))


def _words(settings: dict[str, Any]) -> str:
    short = {_SHORT.get(name, name.rpartition(".")[2]): value for name, value in settings.items()}
    return " ".join(f"{name}={shown(value)}" for name, value in sorted(short.items()))  # K before alpha


def _at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """One value of each row."""
    return np.take_along_axis(values, index[:, None], axis=1)[:, 0]


def _nan(statistic: Callable[..., np.ndarray], values: np.ndarray) -> np.ndarray:
    """A NaN-aware statistic over axis 1; NaN for rows of only NaN."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(All-NaN slice|Mean of empty slice)")
        return statistic(values, axis=1)
