"""curves.png: a run at a glance."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.report.figures import as_png, finish_panel, new_figure
from openrlhf_sfpo.report.reading import accuracy_of, evaluated_datasets, read_metrics
from openrlhf_sfpo.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curves(directory: Path) -> Path | None:
    """Draw `directory`/curves.png from metrics.jsonl; return its path, or None while there is nothing to draw."""
    lines = read_metrics(directory)
    if not lines:
        return None
    figure = new_figure(11, 7)
    panels: list[tuple[str, Callable[[Any, list[dict[str, Any]]], None]]] = [
        ("Mean reward of the rollouts", _reward),
        ("Held-out accuracy", _accuracy),
        ("Policy entropy (nats per token)", _entropy),
        ("Relative movement in the fast passes", _displacement),
    ]
    for axes, (title, draw) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        draw(axes, lines)
        axes.set_title(title)
        finish_panel(axes)
    return write_atomically(directory / "curves.png", as_png(figure))


def _series(lines: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _reward(axes: "Axes", lines: list[dict[str, Any]]) -> None:
    steps, values = _series(lines, "reward_mean")
    if steps:
        axes.plot(steps, values, marker="o", markersize=3, color="tab:blue")


def _accuracy(axes: "Axes", lines: list[dict[str, Any]]) -> None:
    names = evaluated_datasets(lines)
    for name in names:
        points = [(line["step"], *found) for line in lines if (found := accuracy_of(line, name))]
        steps, values, errors = zip(*points, strict=True)
        bars = [error or 0.0 for error in errors]
        axes.errorbar(steps, values, yerr=bars, marker="o", capsize=4, label=f"{name} (± standard error)")
    if names:
        axes.set_ylim(0, 1)
        axes.legend()


def _entropy(axes: "Axes", lines: list[dict[str, Any]]) -> None:
    steps, values = _series(lines, "sfpo/entropy")
    if steps:
        axes.plot(steps, values, marker="o", markersize=3, color="tab:green")
        axes.set_ylim(bottom=0)


def _displacement(axes: "Axes", lines: list[dict[str, Any]]) -> None:
    steps, values = _series(lines, "sfpo/displacement_rel")
    if steps:
        axes.plot(steps, values, marker="o", markersize=3, color="tab:orange")
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
