"""The numbers, table, plot and files of an evaluation."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from openrlhf_sfpo.report.figures import as_png, new_figure
from openrlhf_sfpo.report.statistics import (
    MIN_BOOTSTRAP,
    MIN_EACH,
    Interval,
    mean_interval,
    mean_of_means_interval,
    pass_at_k,
)
from openrlhf_sfpo.report.tables import Table
from openrlhf_sfpo.system.files import write_atomically

LEVEL = 0.95
_FEW = f"fewer than {MIN_BOOTSTRAP} prompts, or fewer than {MIN_EACH:.0f} right or wrong"
# The lowest score that counts as right; the authors' evaluation has the same limit.
RIGHT = 0.95


@dataclass(frozen=True)
class Graded:
    """One response, graded or still to be graded.

    Attributes:
        set_name, problem: the data set, and the index of the problem in it, from 0.
        prompt, response, label: text.
        score: the grader's score; None before grading.
        tokens: length of the response.
        truncated: whether it reached the length limit.
        ending: its final token, as text.
    """

    set_name: str
    problem: int
    prompt: str
    response: str
    label: str
    score: float | None
    tokens: int
    truncated: bool
    ending: str = ""

    @property
    def right(self) -> bool:
        return self.score is not None and self.score >= RIGHT


def measure(graded: list[Graded]) -> dict[str, Any]:
    """The numbers of an evaluation. Problems of a data set with the same prompt count as one prompt with all their
    samples: some published files contain each problem many times.

    Returns:
        `sets`: by name `prompts`, `rows` (problems, with copies), `samples` (of each prompt), `avg`, the fraction of
        right responses, with `avg_interval`; `pass_at` by k = 1, 2, 4, ... with `pass_at_interval`;
        `response_length_mean` in tokens; `truncated_rate`.
        `mean`: the unweighted mean of `avg` over the sets, with `mean_interval`.
        Intervals are over prompts, at `level`; null if unknown, as for a single prompt. For each, the entry that ends
        in `_method` says how it was computed; see `statistics.mean_interval`.
    """
    by_set: dict[str, dict[str, list[Graded]]] = {}
    for item in graded:
        by_set.setdefault(item.set_name, {}).setdefault(" ".join(item.prompt.split()), []).append(item)
    sets = {name: _measure_set(list(prompts.values())) for name, prompts in by_set.items()}
    averages = [[fmean(item.right for item in items) for items in prompts.values()] for prompts in by_set.values()]
    mean = mean_of_means_interval(averages, LEVEL)
    return {
        "level": LEVEL,
        "sets": sets,
        "mean": fmean(numbers["avg"] for numbers in sets.values()),
        "mean_interval": _ends(mean),
        "mean_method": mean and mean.method,
    }


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return (interval.low, interval.high) if interval else None


def _measure_set(problems: list[list[Graded]]) -> dict[str, Any]:
    samples = min(map(len, problems))
    ks = [1]
    while 2 * ks[-1] <= samples:
        ks.append(2 * ks[-1])
    if ks[-1] != samples:
        ks.append(samples)
    pass_at = {k: [pass_at_k(sum(item.right for item in items), len(items), k) for items in problems] for k in ks}
    intervals = {k: mean_interval(values, LEVEL) for k, values in pass_at.items()}
    everything = [item for items in problems for item in items]
    return {
        "prompts": len(problems),
        "rows": len({item.problem for item in everything}),
        "samples": samples,
        "avg": fmean(pass_at[1]),
        "avg_interval": _ends(intervals[1]),
        "avg_method": intervals[1] and intervals[1].method,
        "pass_at": {k: fmean(values) for k, values in pass_at.items()},
        "pass_at_interval": {k: _ends(interval) for k, interval in intervals.items()},
        "pass_at_method": {k: interval and interval.method for k, interval in intervals.items()},
        "response_length_mean": fmean(item.tokens for item in everything),
        "truncated_rate": fmean(item.truncated for item in everything),
    }


def table(numbers: dict[str, Any]) -> Table:
    """The numbers as a table, with a row for each data set and one for the mean."""
    sets = numbers["sets"]
    counts = {one["samples"] for one in sets.values()}
    k = counts.pop() if len(counts) == 1 else "k"  # data sets with duplicate prompts have more samples of each
    head = ["data set", "prompts", f"avg@{k}, %", f"pass@{k}, %", "tokens/response", "truncated, %"]
    rows = [
        [
            name if k != "k" else f"{name} (k = {one['samples']})",
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
    return Table("Accuracy", head, rows, _note(numbers))


def _note(numbers: dict[str, Any]) -> str:
    """A note about how the intervals were computed, and about duplicate prompts."""
    sets = numbers["sets"]
    methods = {one["pass_at_method"][k] for one in sets.values() for k in (1, one["samples"])}
    level = f"{100 * LEVEL:.0f} % intervals over the prompts"
    sentences = {
        frozenset(): "One prompt says nothing about others.",
        frozenset({"bootstrap"}): f"With {level}, by bootstrap.",
        frozenset({"beta"}): f"With {level}, by the beta distribution ({_FEW}).",
        frozenset({"beta", "bootstrap"}): f"With {level}, by bootstrap; by the beta distribution for {_FEW}.",
    }
    copies = [f"{name} has {one['rows']} rows" for name, one in sets.items() if one["rows"] > one["prompts"]]
    repeated = f" Copies of a prompt count as one prompt: {', '.join(copies)}." if copies else ""
    late = numbers.get("grading_timeouts", 0)
    timeouts = f" {late} response(s) could not be graded in time and count as wrong." if late else ""
    return sentences[frozenset(methods - {None})] + repeated + timeouts


def _percent(value: float, interval: tuple[float, float] | None) -> str:
    ends = f"{100 * interval[0]:.1f}, {100 * interval[1]:.1f}" if interval else "not known"
    return f"{100 * value:.1f} [{ends}]"


def write_samples(directory: Path, graded: list[Graded]) -> Path:
    """Write samples.jsonl: every response, graded or not."""
    lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in graded]
    return write_atomically(directory / "samples.jsonl", "".join(lines).encode(errors="surrogatepass"))


def read_samples(directory: Path) -> list[Graded]:
    """Read the responses that `write_samples` wrote.

    Raises:
        OSError, ValueError, TypeError: the file is missing or is something else.
    """
    text = (directory / "samples.jsonl").read_bytes().decode(errors="surrogatepass")
    return [Graded(**json.loads(line)) for line in text.split("\n") if line]


def write_evaluation(directory: Path, settings: dict[str, Any], graded: list[Graded], numbers: dict[str, Any]) -> None:
    """Write eval.json (settings and numbers), samples.jsonl (every graded response), eval.md and eval.png."""
    content = {"settings": settings, **numbers}
    write_samples(directory, graded)
    (directory / "eval.md").write_text(table(numbers).markdown() + "\n", encoding="utf-8")
    _draw(directory / "eval.png", numbers)
    write_atomically(directory / "eval.json", (json.dumps(content, indent=1, default=str) + "\n").encode())


def _draw(path: Path, numbers: dict[str, Any]) -> None:
    """Plot pass@k over k for every data set, with intervals."""
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    for name, one in numbers["sets"].items():
        ks = list(one["pass_at"])
        values = [100 * one["pass_at"][k] for k in ks]
        ends = [one["pass_at_interval"][k] or (one["pass_at"][k], one["pass_at"][k]) for k in ks]
        low, high = zip(*ends, strict=True)
        errors = [
            [max(0.0, value - 100 * end) for value, end in zip(values, low, strict=True)],
            [max(0.0, 100 * end - value) for value, end in zip(values, high, strict=True)],
        ]
        axes.errorbar(ks, values, yerr=errors, marker="o", markersize=4, capsize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.set_xlabel("k")
    axes.set_ylabel("pass@k, %")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, as_png(figure))
