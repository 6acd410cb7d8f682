"""Finding the answer in a response."""

import json
import re
from typing import Any

from openrlhf_sfpo.tasks.boxes import answer_of_solution, last_boxed

__all__ = [
    "answer_of_solution",
    "expected_text",
    "final_answer",
    "last_boxed",
    "last_integer",
    "reasoning_gym_label",
    "response_text",
]

_SPECIAL_TOKENS = re.compile(r"<\|[^|<>]*\|>|</?s>|<pad>")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")
_INTEGER = re.compile(r"-?\d+")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def response_text(query: str, prompt: str) -> str:
    """The response alone, without special tokens, from OpenRLHF's `query` (prompt and response, decoded)."""
    return _SPECIAL_TOKENS.sub("", query.removeprefix(prompt)).strip()


def last_integer(text: str) -> int | None:
    """The last integer in the text; thousands separators are understood."""
    found = _INTEGER.findall(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))
    return int(found[-1]) if found else None


def final_answer(text: str, numeric: bool) -> str | None:
    """The answer as the response marks it: <answer> tags, else \\boxed{}, else the last number (if a number is
    expected), else the last line that is not empty."""
    tagged = _ANSWER_TAG.findall(text)
    if tagged:
        return tagged[-1].strip()
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    if numeric:
        numbers = _NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))
        return numbers[-1] if numbers else None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def reasoning_gym_label(label: str) -> dict[str, Any] | None:
    """The entry that a generated data set's label carries, None if the label is plain text."""
    try:
        parsed = json.loads(label)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) and "entry" in parsed else None


def expected_text(label: str) -> str:
    """The reference answer as text, whether the label is plain or from a generated data set."""
    generated = reasoning_gym_label(label)
    return str(generated["entry"]["answer"]) if generated else label
