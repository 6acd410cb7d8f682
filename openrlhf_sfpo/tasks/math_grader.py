"""The `math` grader: is the boxed answer of a response the reference answer?

A response's answer is the content of its last box (see `boxes`). It is cleaned and read in every plausible way
(`mathematics.cleaning`, `mathematics.reading`), and compared with the reference (`mathematics.comparing`), using
math-verify for expressions. docs/grading.md says which answers count as equal.
"""

import ast
import re
from dataclasses import dataclass
from functools import lru_cache

from openrlhf_sfpo.tasks.boxes import all_boxed, last_group
from openrlhf_sfpo.tasks.mathematics import judging
from openrlhf_sfpo.tasks.mathematics.cleaning import clean, squash
from openrlhf_sfpo.tasks.mathematics.comparing import Readings, agree
from openrlhf_sfpo.tasks.mathematics.reading import NO_SOLUTION, UNDEFINED, read
from openrlhf_sfpo.tasks.mathematics.readings import Group, Quantity, Relation, Words

LONGEST_ANSWER = 1500  # characters; longer ones are compared as text only
DEEPEST = 25  # nested brackets
SAID_IN_WORDS = (NO_SOLUTION, UNDEFINED)


@dataclass(frozen=True)
class MathGrade:
    """The grade of a response: whether its answer is right, and whether it has a non-empty box."""

    correct: bool
    boxed: bool


def grade(response: str, label: str) -> MathGrade:
    """Grade a response against a reference answer. Call it in a process's main thread: elsewhere its time is not
    limited.

    Args:
        response: the response's text, without prompt and special tokens.
        label: the reference answer: LaTeX or plain text, with or without $ and a box; a list of quoted strings gives
            alternatives.
    """
    group = last_group(response)
    if not group:
        return MathGrade(False, False)
    answers = dict.fromkeys([", ".join(dict.fromkeys(group)), ", ".join(group)])
    everything = all_boxed(response)
    for reference in references(label):
        if any(_equal(reference, answer) for answer in answers):
            return MathGrade(True, True)
        # An answer in several boxes with words between them: one box for each part of the reference, and no others.
        if (
            1 < len(everything) <= 10
            and len(everything) == _parts(reference)
            and _equal(reference, ", ".join(everything))
        ):
            return MathGrade(True, True)
    return MathGrade(False, True)


def readable(label: str) -> bool:
    """Whether the grader can interpret a reference answer beyond comparing it character by character."""
    return any(_is_readable(reference) for reference in references(label))


def only_words(label: str) -> bool:
    """Whether a reference answer consists of words that no mathematical answer can equal, such as "see figure"."""
    readings = [one for reference in references(label) for one in _understood(reference, True)[1]]
    return bool(readings) and all(isinstance(one, Words) and one.text not in SAID_IN_WORDS for one in readings)


@lru_cache(maxsize=4096)
def references(label: str) -> tuple[str, ...]:
    """The accepted answers in a label, as text."""
    text = label.strip()
    if "####" in text:  # GSM8K has the answer after its solution
        text = text.rpartition("####")[2].strip()
    if text.startswith("[") and text.endswith("]") and re.match(r"\[\s*['\"]", text):
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            listed = None
        if isinstance(listed, list) and listed and all(isinstance(item, str) for item in listed):
            # A label written with a single backslash has turned \f, \t and \b into control characters; restore them.
            return tuple(
                _unboxed(item.replace("\f", r"\f").replace("\t", r"\t").replace("\b", r"\b")) for item in listed
            )
    return (_unboxed(text),)


def _unboxed(text: str) -> str:
    group = last_group(text)
    return (
        ", ".join(group)
        if group
        else re.sub(r"^(?:(?:the )?(?:final )?answer(?: is)?|answer)\s*[:=]?\s+(?=\S)", "", text.strip(), flags=re.I)
    )


@lru_cache(maxsize=4096)
def _understood(text: str, reference: bool) -> tuple[str, Readings]:
    """A cleaned answer and its readings; no readings if it is too long or too deep."""
    if len(text) > LONGEST_ANSWER:
        return text.strip(), ()
    try:
        cleaned = clean(text)
        depth = deepest = 0
        for character in cleaned:
            depth += (character in "([{") - (character in ")]}")
            deepest = max(deepest, depth)
        return squash(cleaned), read(cleaned, reference) if deepest <= DEEPEST else ()
    except Exception:  # odd input is a wrong answer, never an error
        return text.strip(), ()


def _equal(reference: str, answer: str) -> bool:
    gold_text, gold = _understood(reference, True)
    text, readings = _understood(answer, False)
    if text and text == gold_text:
        return True
    try:
        return agree(gold, readings)
    except Exception:  # odd input is a wrong answer, never an error
        return False


def _parts(reference: str) -> int:
    readings = _understood(reference, True)[1]
    return next((len(one.items) for one in readings if isinstance(one, Group)), 1)


def _is_readable(reference: str) -> bool:
    text, readings = _understood(reference, True)
    if not text or reference.strip().lower() in {"null", "nan", "n/a"}:
        return False
    for one in readings:
        if isinstance(one, Quantity) and judging.is_readable(one.expression):
            return True
        if isinstance(one, Relation) and judging.is_readable(one.left) and judging.is_readable(one.right):
            return True
        if isinstance(one, Group) and all(_any_readable(item) for item in one.items):
            return True
        if not isinstance(one, (Quantity, Relation, Group, Words)) or (isinstance(one, Words) and len(one.text) < 80):
            return True
    return False


def _any_readable(item: Readings) -> bool:
    return any(not isinstance(one, Quantity) or judging.is_readable(one.expression) for one in item)
