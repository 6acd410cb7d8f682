"""What a set of runs says: variants at their best settings, and how soon each reaches the baseline's best accuracy."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from openrlhf_sfpo.config import effective_update
from openrlhf_sfpo.report.runs import AXES, Point, Run

LEVEL = 0.9
_RESAMPLES = 2000
# Where a run's files are and what is shown of it; no part of what the run is.
_PLACES = ("run.", "ckpt.", "logger.", "train.seed", "rollout.record_dir", "config")
_SHORT = {"sfpo.k": "K"}


@dataclass
class Group:
    """Runs that differ in nothing but the seed.

    Attributes:
        variant: the update in words, such as "sfpo K=3".
        setting: what is swept, in words, such as "lr=0.001"; empty if nothing is.
        update: the differing sfpo.* settings.
        swept: the other differing settings.
        runs: one for each seed.
        dataset: the data set whose accuracy counts; None for the mean over all.
        smooth: evaluations that one accuracy is the mean of.
    """

    variant: str
    setting: str
    update: dict[str, Any]
    swept: dict[str, Any]
    runs: list[Run]
    dataset: str | None = None
    smooth: int = 1

    @property
    def name(self) -> str:
        return " ".join(filter(None, [self.variant, self.setting]))

    @cached_property
    def curves(self) -> list[list[Point]]:
        """The evaluations of each run that has any, smoothed."""
        return [smoothed(points, self.smooth) for run in self.runs if (points := run.points(self.dataset))]

    @cached_property
    def best(self) -> np.ndarray:
        """The best accuracy of each run, [seeds]."""
        return np.array([max(point.accuracy for point in curve) for curve in self.curves])

    @cached_property
    def last(self) -> np.ndarray:
        """The last accuracy of each run, [seeds]."""
        return np.array([curve[-1].accuracy for curve in self.curves])

    def reach(self, axis: str, target: float) -> np.ndarray:
        """How far along an axis each run first has the target accuracy, [seeds]; infinite where it never has."""
        return np.array([crossing(curve, axis, target) for curve in self.curves])

    def after(self, target: float) -> np.ndarray:
        """Mean accuracy of the evaluations from the first that has the target on, of each run that gets there."""
        means = []
        for curve in self.curves:
            values = [point.accuracy for point in curve]
            first = next((index for index, value in enumerate(values) if value >= target), None)
            if first is not None:
                means.append(sum(values[first:]) / len(values[first:]))
        return np.array(means)

    def mean(self, metric: str) -> float | None:
        """Median over the runs of a metric's mean over the steps."""
        values = [value for run in self.runs if (value := run.mean(metric)) is not None]
        return float(np.median(values)) if values else None

    def final(self, metric: str) -> float | None:
        """Median over the runs of a metric's last value."""
        values = [series[-1] for run in self.runs if (series := run.series(metric)[1])]
        return float(np.median(values)) if values else None


def smoothed(curve: list[Point], count: int) -> list[Point]:
    """Each accuracy as the mean of `count` neighbouring evaluations, itself in the middle; of fewer at the end.
    The one before any training stands for itself: all runs have it in common."""
    values = [point.accuracy for point in curve]
    reaches = [0 if point.step == 0 else count // 2 for point in curve]
    windows = (values[max(0, i - reach) : i + reach + 1] for i, reach in enumerate(reaches))
    return [replace(point, accuracy=sum(window) / len(window)) for point, window in zip(curve, windows, strict=True)]


def crossing(curve: list[Point], axis: str, target: float) -> float:
    """Where the accuracy first reaches the target, linear between evaluations; infinite if it does not."""
    before = None
    for point in curve:
        x = getattr(point, axis)
        if point.accuracy >= target:
            if before is None or point.accuracy == before.accuracy:
                return x
            part = (target - before.accuracy) / (point.accuracy - before.accuracy)
            return getattr(before, axis) + part * (x - getattr(before, axis))
        before = point
    return math.inf


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its bootstrap interval at `LEVEL`; infinite where a target was not reached."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """A variant against the baseline.

    Attributes:
        group: the variant at its best setting.
        best: median over seeds of the best accuracy.
        last: of the last accuracy.
        reached: how many of its runs reach the target.
        after: median over those runs of the mean accuracy from there on; None if there are none. A variant that falls
            back after its peak is below the target here.
        to_target: by axis, the median over seeds of how far it takes.
        ratio: by axis, the baseline's over this one's: above 1, this one is sooner.
    """

    group: Group
    best: Estimate
    last: Estimate
    reached: int
    after: Estimate | None
    to_target: dict[str, float]
    ratio: dict[str, Estimate]


class Comparison:
    """All groups of a set of runs, and the results.

    The setting of each variant is the one with the highest median over seeds of the best accuracy. The target is that
    number of the baseline. Intervals are percentile bootstrap over seeds; each resample chooses settings and target
    anew, so that they contain what that choice adds. Variants with the same seeds are resampled together: a seed means
    the same prompts in the same order.

    Args:
        runs: the runs, of which those without an evaluation are only listed.
        baseline: the variant (or its preset) that the others are compared with; None takes grpo if there is one, else
            the first.
        dataset: compare on this data set; None takes the unweighted mean over all.
        smooth: take the mean of so many neighbouring evaluations (odd) for each accuracy. The best of a noisy curve is
            too high, the more so the longer the curve, and the baseline's best is the target.
    """

    def __init__(
        self, runs: list[Run], baseline: str | None = None, dataset: str | None = None, smooth: int = 1
    ) -> None:
        self.runs = runs
        self.smooth = smooth
        self.groups = _groups([run for run in runs if run.points(dataset)], dataset, smooth)
        self.variants: dict[str, list[Group]] = {}
        for group in self.groups:
            self.variants.setdefault(group.variant, []).append(group)
        self.baseline = self._find_baseline(baseline)
        self._reached: dict[tuple[int, str, float], np.ndarray] = {}

    def _find_baseline(self, wanted: str | None) -> str | None:
        names = list(self.variants)
        for name in names:
            if name == wanted or (wanted is not None and self.variants[name][0].update.get("sfpo.preset") == wanted):
                return name
        if wanted is not None:
            raise ValueError(
                f"there is no variant {wanted!r} with an evaluation; there is {', '.join(names) or 'none'}"
            )
        return next((name for name in names if name == "grpo"), names[0] if len(names) > 1 else None)

    @cached_property
    def target(self) -> float | None:
        """The accuracy to reach: the baseline's best."""
        if self.baseline is None:
            return None
        return float(np.median(best_group(self.variants[self.baseline]).best))

    @cached_property
    def results(self) -> list[Result]:
        """One for each variant, the baseline first."""
        names = sorted(self.variants, key=lambda name: name != self.baseline)
        return [self._result(self.variants[name]) for name in names]

    def _result(self, groups: list[Group]) -> Result:
        group = best_group(groups)
        target = self.target
        to_target = {} if target is None else {axis: self.median_reach(group, axis) for axis in AXES}
        after = np.array([]) if target is None else group.after(target)
        return Result(
            group=group,
            best=interval(group.best),
            last=interval(group.last),
            reached=0 if target is None else self.count_reached(group),
            after=interval(after) if len(after) else None,
            to_target=to_target,
            ratio={} if self.baseline is None else self._ratios(groups, to_target),
        )

    def _ratios(self, groups: list[Group], to_target: dict[str, float]) -> dict[str, Estimate]:
        baseline = self.variants[self.baseline]
        value = {axis: _ratio(self._baseline_to_target[axis], to_target[axis]) for axis in AXES}
        if groups is baseline:
            return {axis: Estimate(value[axis], value[axis], value[axis]) for axis in AXES}
        generator = np.random.default_rng(0)
        drawn: dict[str, list[float]] = {axis: [] for axis in AXES}
        for _ in range(_RESAMPLES):
            mine, theirs = _draw(generator, groups, baseline)
            reference, target = _choose(baseline, theirs)
            chosen, _ = _choose(groups, mine)
            for axis in AXES:
                ratio = _ratio(
                    _median(self._reach(reference, axis, target)[theirs[id(reference)]]),
                    _median(self._reach(chosen, axis, target)[mine[id(chosen)]]),
                )
                if not math.isnan(ratio):
                    drawn[axis].append(ratio)
        ends = {axis: _quantiles(values) if values else (math.nan, math.nan) for axis, values in drawn.items()}
        return {axis: Estimate(value[axis], *ends[axis]) for axis in AXES}

    def median_reach(self, group: Group, axis: str) -> float:
        """Median over seeds of how far along an axis a group takes to the target."""
        return _median(self._reach(group, axis, self.target))

    def count_reached(self, group: Group) -> int:
        """How many of a group's runs reach the target."""
        return int(np.isfinite(self._reach(group, "rollouts", self.target)).sum())

    @cached_property
    def _baseline_to_target(self) -> dict[str, float]:
        group = best_group(self.variants[self.baseline])
        return {axis: self.median_reach(group, axis) for axis in AXES}

    def _reach(self, group: Group, axis: str, target: float) -> np.ndarray:
        """`Group.reach`, remembered: resamples have few different targets."""
        key = (id(group), axis, target)
        if key not in self._reached:
            self._reached[key] = group.reach(axis, target)
        return self._reached[key]


def best_group(groups: list[Group]) -> Group:
    """The setting with the highest median best accuracy."""
    return max(groups, key=lambda group: float(np.median(group.best)))


def interval(values: np.ndarray, statistic: Callable[..., Any] = np.median) -> Estimate:
    """A statistic over seeds with its bootstrap interval."""
    generator = np.random.default_rng(0)
    drawn = values[generator.integers(len(values), size=(_RESAMPLES, len(values)))]
    return Estimate(float(statistic(values)), *_quantiles(statistic(drawn, axis=1)))


def _draw(
    generator: np.random.Generator, groups: list[Group], baseline: list[Group]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """One resample of the seeds, as indices into each group's curves, by the group's id.

    Groups with as many runs share the draw: their runs are in order of the seed.
    """
    by_size: dict[int, np.ndarray] = {}
    chosen = []
    for part in (groups, baseline):
        indices = {}
        for group in part:
            size = len(group.curves)
            if size not in by_size:
                by_size[size] = generator.integers(size, size=size)
            indices[id(group)] = by_size[size]
        chosen.append(indices)
    return chosen[0], chosen[1]


def _choose(groups: list[Group], indices: dict[int, np.ndarray]) -> tuple[Group, float]:
    """The best setting in a resample, and its median best accuracy there."""
    scores = [float(np.median(group.best[indices[id(group)]])) for group in groups]
    index = int(np.argmax(scores))
    return groups[index], scores[index]


def _median(values: np.ndarray) -> float:
    """Median where some are infinite: the two middle ones of an even number are averaged only if both are finite."""
    ordered = np.sort(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(high if math.isinf(high) else (low + high) / 2)


def _ratio(reference: float, value: float) -> float:
    if math.isinf(reference):
        return math.nan if math.isinf(value) else math.inf
    return reference / value if value > 0 else math.nan


def _quantiles(values: Any) -> tuple[float, float]:
    # Not interpolated, because infinity minus infinity is no number.
    low, high = np.quantile(np.asarray(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)


def _groups(runs: list[Run], dataset: str | None, smooth: int) -> list[Group]:
    """Runs by everything that differs among them but the seed, in the order of first appearance."""
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
        groups.append(Group(_variant_name(update, kinds), _words(swept), update, swept, members, dataset, smooth))
    return groups


def _identity(run: Run) -> dict[str, Any]:
    """The settings that make a run what it is."""
    settings = run.settings
    if "sfpo.preset" not in settings:
        return {"sfpo.preset": "unknown"}
    own = f"{settings.get('run.dir')}/"
    others = {
        name: value
        for name, value in settings.items()
        if not name.startswith((*_PLACES, "sfpo.")) and not str(value).startswith(own)
    }
    return {**others, **effective_update(settings)}


def _variant_name(update: dict[str, Any], all_kinds: list[dict[str, Any]]) -> str:
    """The preset, and of its other settings those in which variants of this preset differ."""
    preset = update["sfpo.preset"]
    others = [kind for kind in all_kinds if kind["sfpo.preset"] == preset]
    varied = {
        name: value
        for name, value in update.items()
        if name != "sfpo.preset" and len({repr(kind[name]) for kind in others if name in kind}) > 1
    }
    return " ".join(filter(None, [str(preset), _words(varied)]))


def _words(settings: dict[str, Any]) -> str:
    short = {_SHORT.get(name, name.rpartition(".")[2]): value for name, value in settings.items()}
    return " ".join(f"{name}={shown(value)}" for name, value in sorted(short.items()))  # K before alpha


def shown(value: Any) -> str:
    """A setting's value as people write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
