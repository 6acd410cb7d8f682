"""What a model is evaluated on: named sets of problems with answers, from files, generators or the Hugging Face hub."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.tasks.answers import answer_of_solution, reasoning_gym_label
from openrlhf_sfpo.tasks.data import FILES, REASONING_GYM, generate, read_rows

FLAG = "--data"
# Where problem and answer are, by what published sets call them.
_PROBLEM_KEYS = ("prompt", "problem", "question", "input")
_ANSWER_KEYS = ("label", "answer", "final_answer", "reference_answer", "target")
# The prompt around a problem, in training and evaluation: the facts of the authors' prompt in words of ours.
PAPER_TEMPLATE = "{}\n\nThink step by step, and give the final answer inside \\boxed{{}}."


@dataclass(frozen=True)
class Problem:
    """A problem, and its answer as the grader wants it."""

    text: str
    label: str


@dataclass(frozen=True)
class PublishedSet:
    """A set of the paper's protocol: its name, its name on the hub and the split there."""

    name: str
    hub: str
    split: str


# The six sets on which SFPO was evaluated (arXiv 2510.04072; names from the authors' evaluation data).
PAPER_SETS = (
    PublishedSet("math500", "HuggingFaceH4/MATH-500", "test"),
    PublishedSet("aime24", "HuggingFaceH4/aime_2024", "train"),
    PublishedSet("aime25", "MathArena/aime_2025", "train"),
    PublishedSet("amc", "AI-MO/aimo-validation-amc", "train"),
    PublishedSet("minerva", "math-ai/minervamath", "test"),
    PublishedSet("olympiad", "math-ai/olympiadbench", "test"),
)


# What it was trained on: 17,917 and 7,500 problems.
TRAINING_SETS = (
    PublishedSet("dapo", "haizhongzheng/DAPO-Math-17K-cleaned", "train"),
    PublishedSet("math", "xDAN2099/lighteval-MATH", "train"),
)


def paper_specs(directory: Path | None) -> list[str]:
    """--data values for the paper's sets: DIRECTORY/NAME.jsonl where that is there, else the hub."""
    specs = []
    for published in PAPER_SETS:
        local = directory / f"{published.name}.jsonl" if directory else None
        if local is not None and not local.is_file():
            raise UsageError("--data_dir", f"{local} does not exist.", f"It should hold {published.hub} as JSONL.")
        specs.append(f"{published.name}={local}" if local else f"{published.name}={published.hub}@{published.split}")
    return specs


def load_problems(
    specs: list[str], input_key: str | None = None, label_key: str | None = None, limit: int | None = None
) -> dict[str, list[Problem]]:
    """Problems by the name of their set.

    Args:
        specs: each `SOURCE` or `NAME=SOURCE`. A source is a .jsonl, .json or .parquet file, `reasoning_gym:...`, or a
            Hugging Face name with `@SPLIT` (test, if left out). Rows of an unnamed file are sorted into sets by their
            `datasource`, if they have one.
        input_key, label_key: the fields of problem and answer; None finds them by their usual names.
        limit: the first so many problems of each set.

    Raises:
        UsageError: a source that cannot be read, has no rows or lacks the fields; or a name that comes twice.
    """
    sets: dict[str, list[Problem]] = {}
    for spec in specs:
        name, source = _split(spec)
        found: dict[str, list[Problem]] = {}
        for where, row in _rows(source, label_key or "label"):
            set_name = name or str(row.get("datasource") or _short_name(source))
            found.setdefault(set_name, []).append(_problem(source, where, row, input_key, label_key))
        if not found:
            raise UsageError(FLAG, f"{source} is empty.", "Give a set with at least one problem.")
        for set_name, problems in found.items():
            if set_name in sets:
                raise UsageError(FLAG, f"two sets are called {set_name!r}.", "Name them: --data NAME=SOURCE.")
            sets[set_name] = problems[:limit]
    return sets


def grader_for(problems: list[Problem]) -> str:
    """The built-in grader that suits a set: reasoning-gym's own scorer for what it generated, else math-verify."""
    generated = all(reasoning_gym_label(problem.label) is not None for problem in problems)
    return "reasoning_gym" if generated else "math"


def _split(spec: str) -> tuple[str | None, str]:
    name, equals, source = spec.partition("=")
    plain = equals and source and not any(character in name for character in ":/?.&")
    return (name, source) if plain else (None, spec)


def _short_name(source: str) -> str:
    if source.startswith(REASONING_GYM):
        return source.removeprefix(REASONING_GYM).partition("?")[0]
    return Path(source.partition("@")[0]).stem


def _rows(source: str, label_key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) for each row of a source."""
    if source.startswith(REASONING_GYM):
        for number, row in enumerate(generate(FLAG, source, "prompt", label_key), 1):
            yield f"problem {number}", row
        return
    if Path(source).suffix in FILES:
        if not Path(source).is_file():
            raise UsageError(FLAG, f"{source} does not exist.", "Give the path of a .jsonl, .json or .parquet file.")
        yield from read_rows(FLAG, Path(source))
        return
    name, _, split = source.partition("@")
    import datasets

    try:
        loaded = datasets.load_dataset(name, split=split or "test")
    except Exception as error:  # the library raises many kinds, for names, splits and connections
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            FLAG,
            f"{name} (split {split or 'test'}) cannot be loaded ({reason}).",
            "Give a local file: NAME=FILE.jsonl.",
        ) from None
    for number, row in enumerate(loaded, 1):
        yield f"row {number}", dict(row)


def _problem(source: str, where: str, row: dict[str, Any], input_key: str | None, label_key: str | None) -> Problem:
    text = _field(source, where, row, "--input_key", input_key, _PROBLEM_KEYS)
    # MATH has no field for the answer, which is boxed in its solution.
    solved = answer_of_solution(row["solution"]) if isinstance(row.get("solution"), str) else None
    if label_key is None and solved is not None and not any(row.get(key) is not None for key in _ANSWER_KEYS):
        row = {**row, "answer": solved}
    label = _field(source, where, row, "--label_key", label_key, _ANSWER_KEYS)
    if isinstance(label, list):  # sets with several accepted forms put the answer first
        if not label:
            raise UsageError(FLAG, f"{source}, {where} has an empty list of answers.", "Remove the row.")
        label = label[0]
    if not isinstance(text, str):
        raise UsageError("--input_key", f"{source}, {where}: the problem is {type(text).__name__}.", "It must be text.")
    return Problem(text, label if isinstance(label, str) else json.dumps(label))


def _field(source: str, where: str, row: dict[str, Any], flag: str, key: str | None, usual: tuple[str, ...]) -> Any:
    names = [key] if key else list(usual)
    found = next((name for name in names if row.get(name) is not None), None)
    if found is None:
        has = ", ".join(map(repr, row))
        raise UsageError(flag, f"{source}, {where} has no {' or '.join(map(repr, names))} (it has {has}).", "Name it.")
    return row[found]
