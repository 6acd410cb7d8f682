"""The tables of a report, as rows of text, for the console, Markdown and HTML alike."""

import math
import textwrap
from dataclasses import dataclass

from openrlhf_sfpo.report.comparison import LEVEL, Comparison, Estimate
from openrlhf_sfpo.report.runs import Run

# Medians over the runs of a variant: (heading, metric, "mean" over the steps or "final", factor, format).
_DYNAMICS = (
    ("final entropy", "sfpo/entropy", "final", 1.0, "{:.3f}"),
    ("final tokens/response", "rollout/response_length_mean", "final", 1.0, "{:.1f}"),
    ("movement per batch, %", "sfpo/displacement_rel", "mean", 100.0, "{:.2f}"),
    ("fast clip ratio", "sfpo/fast_clip_ratio", "mean", 1.0, "{:.3f}"),
    ("fast KL", "sfpo/fast_kl", "mean", 1.0, "{:.4f}"),
    ("engine/actor log-prob difference", "train/rollout_log_prob_abs_diff", "mean", 1.0, "{:.1e}"),
)


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        title: its heading.
        head: column headings.
        rows: each with a cell per column.
        note: explanations for the reader.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""

    def text(self) -> str:
        """Aligned columns for a terminal."""
        columns = list(zip(self.head, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [self.head, *self.rows]
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, *lines, *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """A Markdown table."""
        rows = [self.head, ["---"] * len(self.head), *self.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([f"**{self.title}**", "", *lines, "", *([self.note] if self.note else [])])


def all_tables(comparison: Comparison) -> list[Table]:
    """The tables of a report, the result first; those without data are left out."""
    tables = []
    if comparison.groups:
        tables.append(results(comparison))
        if comparison.baseline is not None:
            tables += [to_target(comparison), budgets(comparison)]
            if comparison.accuracies:
                tables.append(at_accuracies(comparison))
        if any(len(groups) > 1 for groups in comparison.variants.values()):
            tables.append(settings(comparison))
        tables.append(dynamics(comparison))
    tables.append(run_list(comparison.runs))
    return tables


def results(comparison: Comparison) -> Table:
    """Each variant's accuracy at its best setting."""
    against = comparison.target is not None
    head = ["variant", "best setting", "runs", "best accuracy, %", "last accuracy, %"]
    if against:
        head += ["reach it", "mean after it, %"]
    rows = []
    for result in comparison.results:
        group = result.group
        runs = len(group.run_curves)
        row = [group.variant, group.setting or "-", str(runs), percent(result.best), percent(result.last)]
        if against:
            row += [f"{result.reached}/{runs}", "-" if result.after is None else percent(result.after)]
        rows.append(row)
    note = f"Of the median curve over the runs, with {100 * LEVEL:.0f} % bootstrap intervals."
    if comparison.smooth > 1:
        note += f" An accuracy is the mean of {comparison.smooth} neighboring evaluations."
    if comparison.target is not None:
        note += (
            f" Runs that reach {comparison.baseline}'s best accuracy, {100 * comparison.target:.1f} %, at some point "
            "are counted one by one."
        )
    return Table("Results, each variant at its best setting", head, rows, note)


def to_target(comparison: Comparison) -> Table:
    """What each variant needs to reach the baseline's best accuracy, and the ratio to the baseline's need."""
    rows = []
    for result in comparison.results:
        row = [result.group.variant]
        for axis in comparison.axes:
            is_baseline = result.group.variant == comparison.baseline
            row += [number(result.to_target[axis]), "1" if is_baseline else ratio(result.ratio[axis])]
        rows.append(row)
    note = (
        f"Of the median curve over the runs, with {100 * LEVEL:.0f} % bootstrap intervals. A ratio above 1 means that "
        "the variant needs less than the baseline; an interval that begins with never has resamples in which it does "
        "not reach the target."
    )
    head = ["variant", *(column for axis in comparison.axes for column in (axis, f"{axis} ratio"))]
    assert comparison.target is not None  # there is a baseline
    return Table(
        f"Needed to reach {comparison.baseline}'s best accuracy, {100 * comparison.target:.1f} %", head, rows, note
    )


def at_accuracies(comparison: Comparison) -> Table:
    """What each variant needs to reach given accuracies, as ratios to the baseline's need."""
    rows = []
    for result in comparison.results:
        variant = result.group.variant
        for accuracy in comparison.accuracies:
            row = [variant, f"{100 * accuracy:.1f}"]
            for axis in comparison.axes:
                row += [
                    number(comparison.needed(variant, axis, accuracy)),
                    "1" if variant == comparison.baseline else ratio(comparison.soonest(variant, axis, accuracy)),
                ]
            rows.append(row)
    note = (
        f"Of the median curve over the runs, with {100 * LEVEL:.0f} % bootstrap intervals; each variant and "
        f"{comparison.baseline} at the setting that reaches the accuracy soonest, in each column."
    )
    head = ["variant", "accuracy, %", *(column for axis in comparison.axes for column in (axis, f"{axis} ratio"))]
    return Table("Needed to reach an accuracy, each at its soonest setting", head, rows, note)


def budgets(comparison: Comparison) -> Table:
    """The best accuracy of each variant within the length of the baseline's runs."""
    head = ["variant"]
    for label in comparison.axes.values():
        head += [f"accuracy at equal {label}, %", "setting"]
    rows = []
    for result in comparison.results:
        row = [result.group.variant]
        for budget in result.budgets.values():
            row += [percent(budget.accuracy), budget.group.setting or "-"]
        rows.append(row)
    note = (
        f"The best of the median curve within what {comparison.baseline}'s runs took from beginning to end, each at "
        "the setting that is best within that budget."
    )
    return Table(f"At equal budgets, those of {comparison.baseline}", head, rows, note)


def settings(comparison: Comparison) -> Table:
    """Every variant at every setting."""
    head = ["variant", "setting", "runs", "best accuracy, %", "last accuracy, %"]
    if comparison.target is not None:
        head += ["reach it", *comparison.axes]
    rows = []
    groups = [group for result in comparison.results for group in comparison.variants[result.group.variant]]
    for group in groups:
        row = [
            group.variant,
            group.setting or "-",
            str(len(group.run_curves)),
            percent(comparison.best(group)),
            percent(comparison.last(group)),
        ]
        if comparison.target is not None:
            row.append(f"{group.count_reached(comparison.target)}/{len(group.run_curves)}")
            row += [number(comparison.reach(group, axis)) for axis in comparison.axes]
        rows.append(row)
    return Table("All settings", head, rows)


def dynamics(comparison: Comparison) -> Table:
    """Metrics of each variant's training, at its best setting."""
    rows = []
    for result in comparison.results:
        row = [result.group.name]
        for _, metric, kind, factor, form in _DYNAMICS:
            value = getattr(result.group, kind)(metric)
            row.append("-" if value is None else form.format(factor * value))
        rows.append(row)
    note = (
        "Medians over runs, of means over the steps or of final values. Fast clip ratio and fast KL are those of the "
        "K-th fast pass."
    )
    return Table("Training dynamics", ["variant", *(column[0] for column in _DYNAMICS)], rows, note)


def run_list(runs: list[Run]) -> Table:
    """A list of the runs, with problems in reading them."""
    rows = []
    for run in runs:
        points = run.points()
        first, last = (f"{100 * points[index].accuracy:.1f}" for index in (0, -1)) if points else ("-", "-")
        best = f"{100 * max(point.accuracy for point in points):.1f}" if points else "-"
        steps = str(run.lines[-1]["step"]) if run.lines else "0"
        remarks = list(run.problems)
        if run.lines and not points:
            remarks.append("no evaluation (--eval.dataset)")
        if run.state == "died":
            remarks.append(f"process {run.status.get('pid')} on {run.status.get('host')} is gone")
        elif "reason" in run.status:
            remarks.append(textwrap.shorten(str(run.status["reason"]), 100, placeholder=" ..."))
        rows.append([run.directory.name, run.state, steps, first, best, last, "; ".join(remarks) or "-"])
    return Table("Runs", ["run", "state", "steps", "first, %", "best, %", "last, %", "remarks"], rows)


def percent(estimate: Estimate) -> str:
    """An accuracy in percent with its interval, unless the interval is a point."""
    value = f"{100 * estimate.value:.1f}"
    return value if estimate.low == estimate.high else f"{value} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def number(value: float) -> str:
    """A count, or "never"."""
    return "never" if math.isinf(value) else f"{value:,.0f}"


def ratio(estimate: Estimate) -> str:
    """A ratio with its interval."""
    if math.isnan(estimate.value):
        return "-"
    value = multiple(estimate.value)
    return value if estimate.low == estimate.high else f"{value} [{multiple(estimate.low)}, {multiple(estimate.high)}]"


def multiple(value: float) -> str:
    """A ratio: 0 if the variant never reaches the target, and infinite if only the baseline does not."""
    if value == 0:
        return "never"
    return "∞" if math.isinf(value) else f"{value:.2f}"
