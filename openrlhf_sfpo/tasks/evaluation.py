"""Evaluation data: named sets of problems with answers, from files, generators or the Hugging Face Hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.tasks import generated, labels
from openrlhf_sfpo.tasks.answers import answer_of_solution, reasoning_gym_label
from openrlhf_sfpo.tasks.prompts import Prompt, prompt_problem
from openrlhf_sfpo.tasks.sources import REASONING_GYM, Row, Source, read_directory, read_hub, read_rows, sources_of

FLAG = "--data"
# The usual names of the fields with problem and answer.
_PROBLEM_KEYS = ("prompt", "problem", "question", "input")
_ANSWER_KEYS = ("label", "answer", "final_answer", "reference_answer", "target", "reward_model.ground_truth")
# The prompt template for a problem, in training and evaluation: the authors' prompt in our own words.
PAPER_TEMPLATE = "{}\n\nThink step by step, and give the final answer inside \\boxed{{}}."


@dataclass(frozen=True)
class Problem:
    """A problem (text or a chat) and its answer for the grader (text for a built-in one)."""

    text: Prompt
    label: Any


@dataclass(frozen=True)
class PublishedSet:
    """A data set of the paper's protocol: its name, and its name and split on the Hub."""

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


# The paper's training data: 17,917 and 7,500 problems.
TRAINING_SETS = (
    PublishedSet("dapo", "haizhongzheng/DAPO-Math-17K-cleaned", "train"),
    PublishedSet("math", "xDAN2099/lighteval-MATH", "train"),
)


def paper_specs(directory: Path | None) -> list[str]:
    """--data values for the paper's data sets: DIRECTORY/NAME.jsonl, or names on the Hub if no directory is given.

    Raises:
        UsageError: the directory lacks a file.
    """
    specs = []
    for published in PAPER_SETS:
        local = directory / f"{published.name}.jsonl" if directory else None
        if local is not None and not local.is_file():
            raise UsageError("--data_dir", f"{local} does not exist.", f"It should hold {published.hub} as JSONL.")
        specs.append(f"{published.name}={local}" if local else f"{published.name}={published.hub}@{published.split}")
    return specs


def load_problems(
    specs: list[str],
    input_key: str | None = None,
    label_key: str | None = None,
    limit: int | None = None,
    grader: str = "auto",
) -> dict[str, list[Problem]]:
    """Load problems, by the name of their data set.

    Args:
        specs: each `SOURCE` or `NAME=SOURCE`. A source is a file that training can read, a directory (such as
            `save_to_disk` writes), `reasoning_gym:...`, or a Hugging Face name; the last three with `@SPLIT` (default
            test) if they have splits. Rows of an unnamed file are divided into data sets by their `datasource`, if they
            have one.
        input_key, label_key: the fields of problem and answer; None tries the usual names.
        limit: the number of problems to take from the start of each data set.
        grader: a built-in grader gets labels as text, the user's own in their original types.

    Raises:
        UsageError: a source cannot be read, has no rows or lacks the fields; or a name occurs twice.
    """
    reward = "math" if grader == "auto" else grader if grader in labels.TEXT_REWARDS else None
    sets: dict[str, list[Problem]] = {}
    for spec in specs:
        name, place = _split(spec)
        (source,) = sources_of(FLAG, place) if place.startswith(REASONING_GYM) or "," not in place else [None]
        if source is None:
            raise UsageError(FLAG, f"{place} is not one data set.", "Separate data sets by spaces.")
        found: dict[str, list[Problem]] = {}
        for where, row in _rows(source, label_key or "label"):
            set_name = name or str(row.get("datasource") or _short_name(source))
            found.setdefault(set_name, []).append(_problem(source, where, row, input_key, label_key, reward))
        if not found:
            raise UsageError(FLAG, f"{place} is empty.", "Give a set with at least one problem.")
        for set_name, problems in found.items():
            if set_name in sets:
                raise UsageError(FLAG, f"two sets are called {set_name!r}.", "Name them: --data NAME=SOURCE.")
            sets[set_name] = (problems if reward else _own_labels(source, problems))[:limit]
    return sets


def _own_labels(source: Source, problems: list[Problem]) -> list[Problem]:
    """Problems with labels for the user's own grader, as training passes them to the user's own reward."""
    values = [problem.label for problem in problems]
    values = labels.guessed(values) if source.is_table else labels.uniform(values)
    return [Problem(problem.text, value) for problem, value in zip(problems, values, strict=True)]


def grader_for(problems: list[Problem]) -> str:
    """The built-in grader for a data set: reasoning-gym's own scorer for its problems, else math-verify."""
    by_generator = all(reasoning_gym_label(problem.label) is not None for problem in problems)
    return "reasoning_gym" if by_generator else "math"


def _split(spec: str) -> tuple[str | None, str]:
    name, equals, source = spec.partition("=")
    plain = equals and source and not any(character in name for character in ":/?.&")
    return (name, source) if plain else (None, spec)


def _short_name(source: Source) -> str:
    if source.kind == "generated":
        return source.place.removeprefix(REASONING_GYM).partition("?")[0]
    stem = Path(source.place).name if source.kind == "directory" else Path(source.place).stem
    return stem.removesuffix(".jsonl").removesuffix(".csv")  # for .jsonl.gz and the like


def _rows(source: Source, label_key: str) -> Iterator[Row]:
    """Yield (place, row) for each row of a source."""
    split = source.part or "test"
    if source.kind == "generated":
        for number, row in enumerate(generated.generate(FLAG, source.place, "prompt", label_key), 1):
            yield f"problem {number}", row
    elif source.kind == "file":
        yield from read_rows(FLAG, Path(source.place))
    elif source.kind == "directory":
        yield from read_directory(FLAG, Path(source.place), None, split)
    else:
        yield from read_hub(FLAG, source.place, None, split, split_only=True)


def _problem(
    source: Source, where: str, row: dict[str, Any], input_key: str | None, label_key: str | None, reward: str | None
) -> Problem:
    text = _field(source, where, row, "--input_key", input_key, _PROBLEM_KEYS)
    # MATH has no answer field: the answer is boxed in the solution.
    solved = answer_of_solution(row["solution"]) if isinstance(row.get("solution"), str) else None
    if label_key is None and solved is not None and not any(_has(row, key) for key in _ANSWER_KEYS):
        row = {**row, "answer": solved}
    label = _field(source, where, row, "--label_key", label_key, _ANSWER_KEYS)
    problem = prompt_problem(text, chat=True, template=False)
    if problem is not None:
        raise UsageError("--input_key", f"{source.place}, {where}: {problem[0]}.", problem[1])
    reason = labels.label_problem(reward, label)
    if reason is not None:
        raise UsageError(FLAG, f"{source.place}, {where}: {reason}.", "Correct or remove the row.")
    return Problem(text, labels.label_text(label) if reward else labels.json_value(label))


def _has(row: dict[str, Any], key: str) -> bool:
    return labels.field(row, key) not in (None, labels.MISSING)


def _field(source: Source, where: str, row: dict[str, Any], flag: str, key: str | None, usual: tuple[str, ...]) -> Any:
    names = [key] if key else list(usual)
    found = next((name for name in names if _has(row, name)), None)
    if found is not None:
        return labels.field(row, found)
    null = next((name for name in names if labels.field(row, name) is None), None)
    if null is not None:
        raise UsageError(flag, f"{source.place}, {where} has null in {null!r}.", "Correct or remove the row.")
    has = ", ".join(map(repr, row))
    raise UsageError(
        flag, f"{source.place}, {where} has no {' or '.join(map(repr, names))} (it has {has}).", "Name it."
    )
