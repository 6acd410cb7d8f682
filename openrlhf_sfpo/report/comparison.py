"""Compares a set of runs: variants at their best settings, and how soon each reaches the baseline's best accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openrlhf_sfpo.report.groups import Curves, Group, group_runs
from openrlhf_sfpo.report.runs import AXES, Run

LEVEL = 0.9
_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval at `LEVEL`; infinite if a target was not reached."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Budget:
    """What a variant achieves within the baseline's budget.

    Attributes:
        group: the variant at the setting that is best within the budget.
        accuracy: the highest accuracy of the median curve within it.
    """

    group: Group
    accuracy: Estimate


@dataclass(frozen=True)
class Result:
    """A variant against the baseline. All accuracies are those of the median curve over the seeds.

    Attributes:
        group: the variant at its best setting.
        best: the best accuracy.
        last: the last accuracy.
        reached: how many runs reach the target at some point.
        after: the mean accuracy after reaching the target; None if it is never reached. Below the target if a variant
            falls back after its peak.
        to_target: by axis, the distance to the target.
        ratio: by axis, the baseline's distance over this one's: above 1, this one is sooner.
        budgets: by axis, the best accuracy within the length of the baseline's runs.
    """

    group: Group
    best: Estimate
    last: Estimate
    reached: int
    after: Estimate | None
    to_target: dict[str, float]
    ratio: dict[str, Estimate]
    budgets: dict[str, Budget]


class Comparison:
    """All groups of a set of runs, and the results.

    A curve is the median over seeds, evaluation by evaluation. The setting of each variant is the one whose curve goes
    highest, and the target is the highest point of the baseline's. Intervals are percentile bootstrap over seeds; each
    resample of a ratio selects settings and target again, so that the interval includes the effect of that selection.
    Groups with equally many seeds are resampled together: a seed means the same prompts in the same order.

    Args:
        runs: the runs; those without an evaluation are only listed.
        baseline: the variant (or its preset) that the others are compared with; None takes grpo if there is one, else
            the first.
        dataset: compare on this data set; None takes the unweighted mean over all.
        rollout_cost: what sampling a response costs, in backward passes over it; None for no such axis.
        accuracies: further accuracies to reach, in [0, 1].
        smooth: average this many consecutive evaluations (odd) for each accuracy. The maximum of a noisy curve is
            biased upwards, more so the longer the curve, and the baseline's maximum is the target.

    Attributes:
        axes: of `AXES`, those that every compared run has: older versions did not count tokens.
    """

    def __init__(
        self,
        runs: list[Run],
        baseline: str | None = None,
        dataset: str | None = None,
        smooth: int = 1,
        rollout_cost: float | None = None,
        accuracies: Sequence[float] = (),
    ) -> None:
        self.runs = runs
        self.smooth = smooth
        self.accuracies = accuracies
        self.groups = group_runs([run for run in runs if run.points(dataset)], dataset, smooth, rollout_cost)
        points = [point for group in self.groups for curve in group.run_curves for point in curve]
        labels = (
            AXES if rollout_cost is None else {**AXES, "cost": f"tokens, if sampling costs {rollout_cost:g} passes"}
        )
        self.axes = {
            axis: text for axis, text in labels.items() if not any(math.isnan(getattr(p, axis)) for p in points)
        }
        self.variants: dict[str, list[Group]] = {}
        for group in self.groups:
            self.variants.setdefault(group.variant, []).append(group)
        self.baseline = self._find_baseline(baseline)
        self._draws: dict[int, np.ndarray] = {}
        self._resampled: dict[int, Curves] = {}

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
        return None if self.baseline is None else float(self._reference.curve.best[0])

    @cached_property
    def results(self) -> list[Result]:
        """One result per variant, the baseline first."""
        names = sorted(self.variants, key=lambda name: name != self.baseline)
        return [self._result(self.variants[name]) for name in names]

    def best(self, group: Group) -> Estimate:
        """The best accuracy of a group."""
        return _estimate(group.curve.best, self._medians(group).best)

    def last(self, group: Group) -> Estimate:
        """The last accuracy of a group."""
        return _estimate(group.curve.last, self._medians(group).last)

    def reach(self, group: Group, axis: str) -> float:
        """The position on an axis at which a group reaches the target; infinite if it never does."""
        assert self.target is not None  # there is a baseline
        return float(group.curve.reach(axis, self.target)[0])

    def soonest(self, variant: str, axis: str, accuracy: float) -> Estimate:
        """How many times less a variant needs than the baseline to reach an accuracy, each at the setting that reaches
        it soonest."""
        assert self.baseline is not None
        value, drawn = self._soonest(self.variants[variant], axis, accuracy)
        reference, resampled = self._soonest(self._baseline_groups, axis, accuracy)
        return _estimate(_divide(reference, value), _divide(resampled, drawn))

    def needed(self, variant: str, axis: str, accuracy: float) -> float:
        """The position on an axis at which a variant first reaches an accuracy, at the setting that does so soonest."""
        return float(self._soonest(self.variants[variant], axis, accuracy)[0][0])

    def _soonest(self, groups: list[Group], axis: str, accuracy: float) -> tuple[np.ndarray, np.ndarray]:
        value = np.min([group.curve.reach(axis, accuracy) for group in groups], axis=0)
        return value, np.min([self._medians(group).reach(axis, accuracy) for group in groups], axis=0)

    def _result(self, groups: list[Group]) -> Result:
        group = _best_group(groups)
        best, last = self.best(group), self.last(group)
        if self.target is None:
            return Result(group, best, last, 0, None, {}, {}, {})
        to_target = {axis: self.reach(group, axis) for axis in self.axes}
        after = None
        if math.isfinite(to_target["rollouts"]):
            after = _estimate(group.curve.after(self.target), self._medians(group).after(self.target))
        return Result(
            group=group,
            best=best,
            last=last,
            reached=group.count_reached(self.target),
            after=after,
            to_target=to_target,
            ratio=self._ratios(groups, group, self.target),
            budgets={axis: self._within_budget(groups, axis) for axis in self.axes},
        )

    def _ratios(self, groups: list[Group], best: Group, target: float) -> dict[str, Estimate]:
        baseline, mine = self._reference.curve, best.curve
        values = {axis: _divide(baseline.reach(axis, target), mine.reach(axis, target)) for axis in self.axes}
        if groups is self._baseline_groups:
            return {axis: _estimate(value, value) for axis, value in values.items()}
        targets, reference = self._baseline_resampled
        reaches = self._reach_resampled(groups, targets)
        return {axis: _estimate(values[axis], _divide(reference[axis], reaches[axis])) for axis in self.axes}

    def _within_budget(self, groups: list[Group], axis: str) -> Budget:
        """The result at the setting that is best for this budget, which need not be the best for the whole training."""
        budget = float(np.nanmax(self._reference.curve.x[axis]))
        group = max(groups, key=lambda group: np.nan_to_num(group.curve.within(axis, budget)[0]))
        drawn = self._medians(group).within(axis, budget)
        return Budget(group, _estimate(group.curve.within(axis, budget), drawn))

    @property
    def _baseline_groups(self) -> list[Group]:
        assert self.baseline is not None
        return self.variants[self.baseline]

    @cached_property
    def _reference(self) -> Group:
        return _best_group(self._baseline_groups)

    @cached_property
    def _baseline_resampled(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The target in each resample, and the baseline's distance to it, by axis."""
        groups = self._baseline_groups
        target = np.nanmax([self._medians(group).best for group in groups], axis=0)
        return target, self._reach_resampled(groups, target)

    def _reach_resampled(self, groups: list[Group], target: np.ndarray) -> dict[str, np.ndarray]:
        """The distance of each resample's best setting to that resample's target, by axis, [resamples]."""
        chosen = np.argmax([np.nan_to_num(self._medians(group).best) for group in groups], axis=0)
        return {
            axis: np.array([self._medians(group).reach(axis, target) for group in groups])[
                chosen, np.arange(_RESAMPLES)
            ]
            for axis in self.axes
        }

    def _medians(self, group: Group) -> Curves:
        """The median curves of the resamples."""
        if id(group) not in self._resampled:
            size = len(group.run_curves)
            if size not in self._draws:
                self._draws[size] = np.random.default_rng(0).integers(size, size=(_RESAMPLES, size))
            self._resampled[id(group)] = group.medians(self._draws[size])
        return self._resampled[id(group)]


def _best_group(groups: list[Group]) -> Group:
    """The setting with the highest accuracy."""
    return max(groups, key=lambda group: float(group.curve.best[0]))


def _estimate(value: np.ndarray, drawn: np.ndarray) -> Estimate:
    """One value, [1], with the interval from its resamples; undefined ones are left out."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return Estimate(float(value[0]), math.nan, math.nan)
    # Not interpolated, because infinity minus infinity is NaN.
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Estimate(float(value[0]), float(low), float(high))


def _divide(reference: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Ratios of two distances, which may be infinite or zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return reference / value
