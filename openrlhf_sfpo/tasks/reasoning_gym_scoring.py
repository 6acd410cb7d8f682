"""reasoning-gym's own score of a response to one of its problems."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from openrlhf_sfpo.tasks.answers import last_boxed, reasoning_gym_label

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:/\d+)?")
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_BOX = "\\boxed{"
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}")
_INTRODUCTION = re.compile(r".*?\b(?:answer|result|solution)\b(?:\s+is)?\s*:?\s+", re.IGNORECASE | re.DOTALL)
FULL = 1.0


def score(response: str, label: str) -> float:
    """The score of the answer in a response by the problem's own scorer, in [0, 1].

    The answer is the content of the last <answer> tags, else of the last \\boxed{}, else the end of the response: the
    last number if the problem's own answer is a number, otherwise as many of the last lines as that answer has. An
    answer on which the scorer fails is wrong.

    Args:
        response: text without prompt and special tokens.
        label: of a generated problem (see `data.generate`).
    """
    scorer = _problem_scorer(label)
    best = 0.0
    for number, answer in enumerate(_answers(response, scorer.reference)):
        value = scorer(answer)
        if value >= FULL:
            return value
        if number == 0:  # other readings only serve to find a right answer, not a partial score
            best = value
    return best


def _answers(response: str, reference: str | None) -> Iterator[str]:
    """The possible answers, the likeliest first."""
    response = response.strip()
    tagged = _TAGGED.findall(response)
    if tagged:
        yield tagged[-1].strip()
        yield _TEXT.sub(r"\1", tagged[-1]).strip()
        return
    box = last_boxed(response)
    if box is not None or _BOX in response:
        yield from _boxed(response, box)
        return
    if reference is not None and _NUMBER.fullmatch(reference.strip()):
        numbers = _NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3}\b)", "", response))
        yield numbers[-1] if numbers else response.rpartition("\n")[2]
        return
    all_lines = response.splitlines()
    lines = [line for line in all_lines if line.strip()]
    count = len([line for line in (reference or "").splitlines() if line.strip()]) or len(lines)
    end = "\n".join(lines[-count:])
    yield response if len(lines) <= count else end
    tail = "\n".join(all_lines[-len((reference or " ").splitlines()) :])  # a puzzle may have empty lines
    yield tail
    if reference is None:
        yield lines[-1] if lines else ""
    for text in (end, tail):
        introduced = _INTRODUCTION.sub("", text, count=1).strip()
        yield introduced
        yield introduced.removesuffix(".")


def _boxed(response: str, box: str | None) -> Iterator[str]:
    # An answer consisting of brackets need not be balanced.
    rest = response[response.rindex(_BOX) + len(_BOX) :] if _BOX in response else ""
    to_last_brace = rest[: rest.rindex("}")] if "}" in rest else ""
    yield (to_last_brace if box is None else box).strip()
    yield to_last_brace.strip()
    for answer in (box or "", to_last_brace):
        yield _TEXT.sub(r"\1", answer).replace("\\ ", " ").replace("\\{", "{").replace("\\}", "}").strip()


class _ProblemScorer:
    """The scorer of one problem, whose entry went through JSON: tuples became lists, and numeric keys text.

    The entry is converted back in the way that gives the problem's own answer the highest score.
    """

    def __init__(self, score_answer: Callable[[str | None, dict[str, Any]], float], entry: dict[str, Any]) -> None:
        self._score_answer = score_answer
        answer = entry["answer"]
        self.reference = None if answer is None else str(answer)
        self._entry, best = entry, self._value(self.reference, entry)
        for tuples, numbers in ((True, False), (False, True), (True, True)):
            if best >= FULL or self.reference is None:
                break
            reading = _with(entry, tuples, numbers)
            value = self._value(self.reference, reading)
            if value > best:
                best, self._entry = value, reading

    def __call__(self, answer: str) -> float:
        return max(0.0, self._value(answer, self._entry))

    def _value(self, answer: str | None, entry: dict[str, Any]) -> float:
        """The scorer's score; -1 if it fails."""
        try:
            return float(self._score_answer(answer, entry))
        except Exception:
            return -1.0


@functools.lru_cache(maxsize=256)
def _problem_scorer(label: str) -> _ProblemScorer:
    parsed = reasoning_gym_label(label)
    if parsed is None:
        raise ValueError(f"no label of a reasoning_gym:NAME data set: {label[:80]!r}")
    dataset = _dataset(parsed["dataset"], json.dumps(parsed["options"], sort_keys=True))
    return _ProblemScorer(dataset.score_answer, parsed["entry"])


@functools.lru_cache(maxsize=64)
def _dataset(name: str, options: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, **{**json.loads(options), "size": 1})


def _with(value: object, tuples: bool, numbers: bool) -> Any:
    """A copy of an entry from JSON, with lists as tuples, or keys of digits as numbers."""
    if isinstance(value, dict):
        return {
            int(key) if numbers and key.lstrip("-").isdecimal() else key: _with(item, tuples, numbers)
            for key, item in value.items()
        }
    if isinstance(value, list):
        items = [_with(item, tuples, numbers) for item in value]
        return tuple(items) if tuples else items
    return value
