"""The plots of a report, as matplotlib figures."""

from typing import TYPE_CHECKING, Any

import numpy as np

from openrlhf_sfpo.report.comparison import Comparison
from openrlhf_sfpo.report.figures import finish_panel, new_figure
from openrlhf_sfpo.report.groups import Group, aligned, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DYNAMICS = (
    ("Mean reward of the rollouts", "reward_mean"),
    ("Policy entropy (nats per token)", "sfpo/entropy"),
    ("Tokens per response", "rollout/response_length_mean"),
    ("Relative movement in the fast passes", "sfpo/displacement_rel"),
    ("Tokens clipped in the last fast pass", "sfpo/fast_clip_ratio"),
    ("KL of the last fast pass against theta_0", "sfpo/fast_kl"),
)
_MAX_CURVES = 10  # more are unreadable, and matplotlib's colors repeat


def all_figures(comparison: Comparison) -> dict[str, Any]:
    """Figures by name; those without data are left out."""
    figures: dict[str, Any] = {}
    if comparison.groups:
        figures["accuracy"] = accuracy(comparison)
    if comparison.baseline is not None:
        figures["needed"] = needed(comparison)
    if any(run.lines for run in comparison.runs):
        figures["dynamics"] = dynamics(comparison)
    if (sweep := _numeric_sweep(comparison)) is not None:
        figures["sweep"] = settings_sweep(comparison, sweep)
    if (names := _grid(comparison)) is not None:
        figures["grid"] = grid(comparison, *names)
    return figures


def accuracy(comparison: Comparison) -> Any:
    """Held-out accuracy of each variant at its best setting, against rollouts, backward passes and tokens, and time."""
    count = len(comparison.axes)
    figure = new_figure(5 * count, 5.2)
    panels = figure.subplots(1, count, sharey=True)
    groups = [result.group for result in comparison.results][:_MAX_CURVES]
    for axes, (axis, label) in zip(panels, comparison.axes.items(), strict=True):
        for index, group in enumerate(groups):
            x, runs = group.curve.x[axis][0], group.runs_by_step.accuracy
            axes.plot(x, 100 * group.curve.accuracy[0], color=f"C{index}", label=group.name, linewidth=1.8)
            low, high = 100 * np.nanmin(runs, axis=0), 100 * np.nanmax(runs, axis=0)
            axes.fill_between(x, low, high, color=f"C{index}", alpha=0.15, linewidth=0)
        if comparison.target is not None:
            axes.axhline(100 * comparison.target, color="gray", linestyle="--", linewidth=1)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("held-out accuracy, %")
    if comparison.target is not None:
        panels[0].annotate(
            f"{comparison.baseline}'s best",
            (0, 100 * comparison.target),
            xytext=(3, 3),
            textcoords="offset points",
            color="gray",
            fontsize=8,
        )
    _legend(figure, panels[0])
    most = max(len(group.run_curves) for group in groups)
    title = ["Held-out accuracy"]
    if most > 1:
        title.append(f"median of up to {most} runs, band from the lowest to the highest")
    if comparison.smooth > 1:
        title.append(f"means of {comparison.smooth} neighboring evaluations")
    figure.suptitle("; ".join(title))
    return figure


def needed(comparison: Comparison) -> Any:
    """What each variant needs to reach an accuracy, at the setting that reaches it soonest."""
    axes_shown = [axis for axis in comparison.axes if axis != "seconds"]
    figure = new_figure(5 * len(axes_shown), 5.2)
    panels = np.atleast_1d(figure.subplots(1, len(axes_shown)))
    start = min(float(group.curve.accuracy[0][0]) for group in comparison.groups)
    accuracies = np.linspace(start, max(result.best.value for result in comparison.results), 60)
    for axes, axis in zip(panels, axes_shown, strict=True):
        for index, result in enumerate(comparison.results[:_MAX_CURVES]):
            variant = result.group.variant
            found = [comparison.needed(variant, axis, accuracy) for accuracy in accuracies]
            reached = [value if np.isfinite(value) else np.nan for value in found]
            axes.plot(100 * accuracies, reached, color=f"C{index}", label=variant, linewidth=1.6)
        axes.set_xlabel("held-out accuracy, %")
        axes.set_ylabel(f"{comparison.axes[axis]} to reach it")
        axes.grid(alpha=0.3)
    _legend(figure, panels[0])
    figure.suptitle("Needed to reach an accuracy, each variant at the setting that reaches it soonest")
    return figure


def dynamics(comparison: Comparison) -> Any:
    """Metrics of the training, for the same groups; without evaluations, for each run."""
    figure = new_figure(15, 7.5)
    panels = figure.subplots(2, 3)
    if comparison.groups:
        members = [(result.group.name, result.group.runs) for result in comparison.results]
    else:
        members = [(run.directory.name, [run]) for run in comparison.runs if run.lines]
    for axes, (title, metric) in zip(panels.flat, _DYNAMICS, strict=True):
        for index, (name, runs) in enumerate(members[:_MAX_CURVES]):
            series = [dict(zip(*run.series(metric), strict=True)) for run in runs]
            if any(series):
                x, values = aligned([one for one in series if one])
                axes.plot(x, np.nanmedian(values, axis=0), color=f"C{index}", label=name, linewidth=1.3)
                low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
                axes.fill_between(x, low, high, color=f"C{index}", alpha=0.12, linewidth=0)
        axes.set_title(title, fontsize=10)
        finish_panel(axes)
    _legend(figure, panels.flat[0])
    return figure


def _legend(figure: "Figure", axes: "Axes") -> None:
    """One legend below all panels, with as many columns as fit the figure's width."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        width_of_character, line = 0.085, 0.6  # inches, at this font size
        longest = max(map(len, labels)) * width_of_character + line
        columns = max(1, min(4, len(handles), int(figure.get_figwidth() / longest)))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)


def settings_sweep(comparison: Comparison, name: str) -> Any:
    """Best and last accuracy of the median curves over a swept number, with their intervals."""
    figure = new_figure(11, 4.8)
    panels = figure.subplots(1, 2, sharey=True)
    shown_accuracies = (("Best accuracy", comparison.best), ("Last accuracy", comparison.last))
    for axes, (title, estimate) in zip(panels, shown_accuracies, strict=True):
        # In the order of the other plots, so that a variant has the same color in all.
        for index, variant in enumerate([result.group.variant for result in comparison.results][:_MAX_CURVES]):
            groups = [group for group in comparison.variants[variant] if name in group.swept]
            x, estimates = [group.swept[name] for group in groups], [estimate(group) for group in groups]
            middle, low, high = ([100 * getattr(e, end) for e in estimates] for end in ("value", "low", "high"))
            axes.plot(x, middle, marker="o", markersize=4, color=f"C{index}", label=variant)
            axes.fill_between(x, low, high, color=f"C{index}", alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("held-out accuracy, %")
    _legend(figure, panels[0])
    return figure


def grid(comparison: Comparison, across: str, down: str) -> Any:
    """Best accuracy, last accuracy and the ratio of rollouts to target over two settings of the update."""
    results = [r for r in comparison.results if across in r.group.update and down in r.group.update]
    columns = sorted({result.group.update[across] for result in results})
    rows = sorted({result.group.update[down] for result in results})
    panels = [("Best accuracy, %", lambda r: 100 * r.best.value), ("Last accuracy, %", lambda r: 100 * r.last.value)]
    if comparison.baseline is not None:
        panels.append(
            (f"Rollouts of {comparison.baseline} / rollouts, to its best", lambda r: r.ratio["rollouts"].value)
        )
    figure = new_figure(4.6 * len(panels), 4.2)
    for axes, (title, value_of) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        table = np.full((len(rows), len(columns)), np.nan)
        for result in results:
            cell = rows.index(result.group.update[down]), columns.index(result.group.update[across])
            table[cell] = value_of(result)
        axes.imshow(np.where(np.isinf(table), np.nan, table), cmap="viridis", aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(table):
            if not np.isnan(value):
                axes.text(
                    column,
                    row,
                    f"{value:.3g}",
                    ha="center",
                    va="center",
                    fontsize=10,
                    bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1.5},
                )
        axes.set_xticks(range(len(columns)), [shown(value) for value in columns])
        axes.set_yticks(range(len(rows)), [shown(value) for value in rows])
        axes.set_xlabel(across.removeprefix("sfpo."))
        axes.set_ylabel(down.removeprefix("sfpo."))
        axes.set_title(title, fontsize=10)
    return figure


def _numeric_sweep(comparison: Comparison) -> str | None:
    """The one swept setting, if it is a positive number."""
    names = {name for group in comparison.groups for name in group.swept}
    if len(names) != 1:
        return None
    name = names.pop()
    values = {group.swept[name] for group in comparison.groups if name in group.swept}
    numeric = all(isinstance(value, int | float) and value > 0 for value in values)
    return name if numeric and len(values) > 1 else None


def _grid(comparison: Comparison) -> tuple[str, str] | None:
    """The two numeric settings of the update in which variants of one preset differ."""
    groups: list[Group] = [result.group for result in comparison.results]
    for preset in {group.update["sfpo.preset"] for group in groups}:
        updates = [group.update for group in groups if group.update["sfpo.preset"] == preset]
        names = {name for update in updates for name in update}
        varied = sorted(
            (name for name in names if len({repr(update.get(name)) for update in updates}) > 1),
            key=lambda name: name != "sfpo.k",
        )
        numeric = all(isinstance(update.get(name), int | float) for update in updates for name in varied)
        if len(varied) == 2 and numeric:
            return varied[0], varied[1]
    return None
