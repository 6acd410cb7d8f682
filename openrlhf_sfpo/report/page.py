"""Writes a report: plots, one self-contained HTML page, and the numbers as JSON."""

import base64
import dataclasses
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from openrlhf_sfpo.report.comparison import LEVEL, Comparison, Estimate
from openrlhf_sfpo.report.figures import as_png
from openrlhf_sfpo.report.plots import all_figures
from openrlhf_sfpo.report.tables import Table, all_tables, multiple
from openrlhf_sfpo.system.files import write_atomically

PAGE, NUMBERS = "report.html", "report.json"


def write_report(comparison: Comparison, directory: Path, title: str) -> tuple[list[Table], list[Path]]:
    """Write report.html, report.json, report.md and a PNG per plot.

    Returns:
        The tables, and the written files, the page first.
    """
    import jinja2

    directory.mkdir(parents=True, exist_ok=True)
    tables, pictures, files = all_tables(comparison), {}, []
    for name, figure in all_figures(comparison).items():
        picture = as_png(figure)
        pictures[name] = base64.b64encode(picture).decode()
        files.append(write_atomically(directory / f"report_{name}.png", picture))
    template = jinja2.Environment(loader=jinja2.PackageLoader("openrlhf_sfpo.report", "."), autoescape=True)
    page = template.get_template("page.html.j2").render(
        title=title,
        made=_made(comparison),
        summary=summary(comparison),
        figures=pictures,
        tables=tables,
        baseline=comparison.baseline,
        common=_common_settings(comparison),
        versions=_versions(comparison),
    )
    markdown = "\n\n".join([*summary(comparison), *(table.markdown() for table in tables)])
    return tables, [
        write_atomically(directory / PAGE, page.encode()),
        write_atomically(directory / NUMBERS, (json.dumps(numbers(comparison), indent=1) + "\n").encode()),
        write_atomically(directory / "report.md", f"# {title}\n\n{markdown}\n".encode()),
        *files,
    ]


def summary(comparison: Comparison) -> list[str]:
    """The result in sentences: each variant's rollouts to the baseline's best accuracy."""
    if comparison.target is None:
        return []
    sentences = []
    for result in comparison.results[1:]:
        estimate = result.ratio["rollouts"]
        words = {
            "passes": "backward passes",
            "tokens": "backward tokens",
            "cost": comparison.axes.get("cost", ""),
            "seconds": "seconds",
        }
        costs = [_times(result.ratio[axis].value, text) for axis, text in words.items() if axis in comparison.axes]
        name, count = result.group.variant, len(result.group.run_curves)
        goal = f"{comparison.baseline}'s best accuracy ({100 * comparison.target:.1f} %)"
        if not math.isfinite(result.to_target["rollouts"]):
            sentences.append(
                f"{name} does not reach {goal}: its own is {100 * result.best.value:.1f} %; {result.reached} of "
                f"{count} runs reach it at some point."
            )
        else:
            sentences.append(
                f"{name} reaches {goal} with {_times(estimate.value, 'rollouts')}{_ends(estimate)}, "
                f"{', '.join(costs[:-1])} and {costs[-1]}. Its own best is "
                f"{100 * result.best.value:.1f} %."
            )
    return sentences


def _times(ratio: float, what: str) -> str:
    if not math.isfinite(ratio) or ratio == 0:
        return f"an undefined number of {what}"
    if f"{ratio:.2f}" == "1.00":
        return f"as many {what}"
    return f"{ratio:.2f} times fewer {what}" if ratio >= 1 else f"{1 / ratio:.2f} times as many {what}"


def _ends(estimate: Estimate) -> str:
    """A ratio's interval, if there are several runs, in the form of `_times`: of its reciprocal below 1."""
    if estimate.low == estimate.high:
        return ""
    ends = [multiple(estimate.low), multiple(estimate.high)]
    if estimate.value < 1:
        ends = [f"{1 / end:.2f}" if end else "never" for end in (estimate.high, estimate.low)]
    return f" ({100 * LEVEL:.0f} % interval {ends[0]} to {ends[1]})"


def numbers(comparison: Comparison) -> dict[str, Any]:
    """The report's tables and curves for JSON; None means never or undefined."""
    results = [
        {
            "variant": result.group.variant,
            "setting": result.group.setting,
            "best_accuracy": dataclasses.asdict(result.best),
            "last_accuracy": dataclasses.asdict(result.last),
            "reached": result.reached,
            "after_target": result.after and dataclasses.asdict(result.after),
            "to_target": result.to_target,
            "ratio": {axis: dataclasses.asdict(estimate) for axis, estimate in result.ratio.items()},
            "within_budget": {
                axis: {"setting": budget.group.setting, **dataclasses.asdict(budget.accuracy)}
                for axis, budget in result.budgets.items()
            },
        }
        for result in comparison.results
    ]
    groups = [
        {
            "variant": group.variant,
            "setting": group.setting,
            "update": group.update,
            "swept": group.swept,
            "seeds": [run.seed for run in group.runs],
            "curves": [[dataclasses.asdict(point) for point in curve] for curve in group.run_curves],
        }
        for group in comparison.groups
    ]
    return _finite(
        {
            "baseline": comparison.baseline,
            "target": comparison.target,
            "level": LEVEL,
            "smooth": comparison.smooth,
            "axes": comparison.axes,
            "results": results,
            "at_accuracies": [
                {
                    "variant": result.group.variant,
                    "accuracy": accuracy,
                    "needed": {a: comparison.needed(result.group.variant, a, accuracy) for a in comparison.axes},
                    "ratio": {
                        axis: dataclasses.asdict(comparison.soonest(result.group.variant, axis, accuracy))
                        for axis in comparison.axes
                    },
                }
                for result in comparison.results
                for accuracy in comparison.accuracies
            ],
            "groups": groups,
        }
    )


def _finite(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _made(comparison: Comparison) -> str:
    states = [run.state for run in comparison.runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    runs = f"{len(states)} run{'s' if len(states) > 1 else ''} ({counts})"
    return f"{runs}; made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by openrlhf-sfpo report"


def _common_settings(comparison: Comparison) -> str:
    known = [run.settings for run in comparison.runs if run.settings]
    if not known:
        return ""
    common = {
        name: value
        for name, value in known[0].items()
        if all(s.get(name) == value for s in known) and value is not None
    }
    return yaml.safe_dump(common, sort_keys=True, allow_unicode=True)


def _versions(comparison: Comparison) -> str:
    found = {}
    for run in comparison.runs:
        if "versions" in run.status:
            found[repr(run.status["versions"])] = {"machine": run.status.get("machine"), **run.status["versions"]}
    return yaml.safe_dump_all(found.values(), sort_keys=False)
