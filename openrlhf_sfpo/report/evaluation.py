"""Numbers, table, plot and files of an evaluation."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from openrlhf_sfpo.files import write_whole
from openrlhf_sfpo.report.figures import as_png, new_figure
from openrlhf_sfpo.report.statistics import bootstrap_interval, pass_at_k
from openrlhf_sfpo.report.tables import Table

LEVEL = 0.95
# A score from here on is a right answer; the same limit as the authors' evaluation has.
RIGHT = 0.95


@dataclass(frozen=True)
class Graded:
    """One graded response.

    Attributes:
        set_name, problem: which set, and which of its problems (its number, from 0).
        prompt, response, label: text.
        score: as the grader gave it.
        tokens: length of the response.
        truncated: whether it was cut off.
    """

    set_name: str
    problem: int
    prompt: str
    response: str
    label: str
    score: float
    tokens: int
    truncated: bool

    @property
    def right(self) -> bool:
        return self.score >= RIGHT


def measure(graded: list[Graded]) -> dict[str, Any]:
    """The numbers of an evaluation.

    Returns:
        `sets`: by name `prompts`, `samples` (of each), `avg`, the part of right responses, with `avg_interval`;
        `pass_at` by k = 1, 2, 4, ... with `pass_at_interval`; `response_length_mean` in tokens; `truncated_rate`.
        `mean`: the unweighted mean of `avg` over the sets, with `mean_interval`. Intervals are percentile bootstrap
        over prompts at `level`.
    """
    by_set: dict[str, dict[int, list[Graded]]] = {}
    for item in graded:
        by_set.setdefault(item.set_name, {}).setdefault(item.problem, []).append(item)
    sets = {name: _measure_set(list(problems.values())) for name, problems in by_set.items()}
    averages = [[fmean(item.right for item in items) for items in problems.values()] for problems in by_set.values()]
    return {
        "level": LEVEL,
        "sets": sets,
        "mean": fmean(numbers["avg"] for numbers in sets.values()),
        "mean_interval": bootstrap_interval(
            averages, lambda *drawn: sum(part.mean(axis=1) for part in drawn) / len(drawn), LEVEL
        ),
    }


def _measure_set(problems: list[list[Graded]]) -> dict[str, Any]:
    samples = min(map(len, problems))
    ks = [1]
    while 2 * ks[-1] <= samples:
        ks.append(2 * ks[-1])
    if ks[-1] != samples:
        ks.append(samples)
    pass_at = {k: [pass_at_k(sum(item.right for item in items), len(items), k) for items in problems] for k in ks}
    intervals = {k: _mean_interval(values) for k, values in pass_at.items()}
    everything = [item for items in problems for item in items]
    return {
        "prompts": len(problems),
        "samples": samples,
        "avg": fmean(pass_at[1]),
        "avg_interval": intervals[1],
        "pass_at": {k: fmean(values) for k, values in pass_at.items()},
        "pass_at_interval": intervals,
        "response_length_mean": fmean(item.tokens for item in everything),
        "truncated_rate": fmean(item.truncated for item in everything),
    }


def _mean_interval(values: list[float]) -> tuple[float, float]:
    return bootstrap_interval([values], lambda drawn: drawn.mean(axis=1), LEVEL)


def table(numbers: dict[str, Any]) -> Table:
    """The numbers as a table, one row for each set and one for the mean."""
    sets = numbers["sets"]
    samples = max(one["samples"] for one in sets.values())
    head = ["data set", "prompts", f"avg@{samples}, %", f"pass@{samples}, %", "tokens/response", "truncated, %"]
    rows = [
        [
            name,
            str(one["prompts"]),
            _percent(one["avg"], one["avg_interval"]),
            _percent(one["pass_at"][one["samples"]], one["pass_at_interval"][one["samples"]]),
            f"{one['response_length_mean']:.1f}",
            f"{100 * one['truncated_rate']:.1f}",
        ]
        for name, one in sets.items()
    ]
    if len(sets) > 1:
        rows.append(["unweighted mean", "", _percent(numbers["mean"], numbers["mean_interval"]), "", "", ""])
    note = f"With {100 * LEVEL:.0f} % bootstrap intervals over the prompts."
    return Table("Accuracy", head, rows, note)


def _percent(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def write_evaluation(directory: Path, settings: dict[str, Any], graded: list[Graded], numbers: dict[str, Any]) -> None:
    """Write eval.json (settings and numbers), samples.jsonl (every graded response), eval.md and eval.png."""
    content = {"settings": settings, **numbers}
    (directory / "eval.json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    with (directory / "samples.jsonl").open("w", encoding="utf-8") as file:
        for item in graded:
            file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
    (directory / "eval.md").write_text(table(numbers).markdown() + "\n", encoding="utf-8")
    _draw(directory / "eval.png", numbers)


def _draw(path: Path, numbers: dict[str, Any]) -> None:
    """pass@k over k for every set, with its interval."""
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    for name, one in numbers["sets"].items():
        ks = list(one["pass_at"])
        values = [100 * one["pass_at"][k] for k in ks]
        low, high = zip(*(one["pass_at_interval"][k] for k in ks), strict=True)
        errors = [
            [value - 100 * end for value, end in zip(values, low, strict=True)],
            [100 * end - value for value, end in zip(values, high, strict=True)],
        ]
        axes.errorbar(ks, values, yerr=errors, marker="o", markersize=4, capsize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.set_xlabel("k")
    axes.set_ylabel("pass@k, %")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend()
    write_whole(path, as_png(figure))
