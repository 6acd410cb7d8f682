"""Labels: the reference answers of a data set, which may be of any JSON type, as rewards and graders get them.

Built-in rewards use text. The user's own reward function, or a server, gets the labels of the data set if all are of
one type, and text otherwise.
"""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from openrlhf_sfpo.tasks.answers import expected_text, last_integer, reasoning_gym_label
from openrlhf_sfpo.tasks.code.programs import has_tests, suite_of
from openrlhf_sfpo.tasks.prompts import type_name

MISSING = object()
# Rewards that use text labels; others are the user's own.
TEXT_REWARDS = ("math", "math_boxed", "last_integer", "exact", "reasoning_gym", "code", "math_or_code")
# Floats with at most this many digits are written without an exponent.
_PLAIN_DIGITS = 30


def field(row: dict[str, Any], key: str) -> Any:
    """A row's field: by its name, or by a dotted path such as `reward_model.ground_truth`, as in verl's files; MISSING
    if it does not exist."""
    if key in row:
        return row[key]
    found: Any = row
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return MISSING
        found = found[part]
    return found


def label_text(value: object) -> str:
    """A label as text: a number without exponent and unnecessary decimals, a list's first answer, and a generated
    problem's entry as JSON.

    Raises:
        ValueError: it cannot be an answer; the message says why.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("the label is an empty list")
        if isinstance(value[0], list | tuple):
            raise ValueError("the label is a list of lists")
        return label_text(value[0])
    if isinstance(value, dict):
        if "entry" not in value:
            raise ValueError("the label is an object")
        return json.dumps(value)
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float | Decimal):
        return _number_text(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if not isinstance(value, str):
        raise ValueError(f"the label is {type_name(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("the label holds half a surrogate pair") from None
    return value


def _number_text(value: int | float | Decimal) -> str:
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise ValueError(f"the label is {value}")
    exact = Decimal(repr(value)) if isinstance(value, float) else value
    if abs(exact.adjusted()) > _PLAIN_DIGITS:
        return str(exact.normalize())
    text = f"{exact:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def label_problem(reward: str | None, value: object) -> str | None:
    """Why a reward cannot use this label; None if it can.

    Args:
        reward: the built-in reward's name, or None for the user's own, which may take anything except null.
        value: the row's label.
    """
    if value is None:
        return "the label is null"
    if reward is None:
        return None
    try:
        text = label_text(value)
    except ValueError as error:
        return str(error)
    if reward == "last_integer" and last_integer(expected_text(text)) is None:
        return f"the label {shown(text)} has no integer, which the reward last_integer needs"
    if reward == "reasoning_gym" and reasoning_gym_label(text) is None:
        return f"the label {shown(text)} was not made by reasoning_gym:NAME, as the reward reasoning_gym needs it"
    if reward == "code" or (reward == "math_or_code" and has_tests(text)):
        try:
            suite_of(text)
        except ValueError as error:
            return f"{error}, which the reward {reward} needs"
    return None


def json_value(value: object) -> Any:
    """A table's label in a form for JSON, for recordings and samples.jsonl: decimals as numbers, times as text."""
    if isinstance(value, dict):
        return {str(key): json_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return value if isinstance(value, str | int | float | None) else str(value)


def uniform(values: Sequence[Any]) -> list[Any]:
    """Labels for the user's own reward: in the types of a table's column if possible (integers mixed with decimals
    become decimals, and all objects get the same keys), else all as text (values that are not text as JSON)."""
    import pyarrow as pa

    if len({_kind(value) for value in values}) <= 1:
        with suppress(pa.ArrowException, OverflowError):  # elements of different types, or numbers over 64 bits
            return pa.array(values).to_pylist()
    return [value if isinstance(value, str) else json.dumps(value, default=str) for value in values]


def _kind(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return type(value).__name__
    return "number"


def guessed(values: Sequence[str]) -> list[Any]:
    """A CSV column for the user's own reward: numbers if all cells are numbers, as CSV loaders infer."""
    for kind in (int, float) if not any("_" in value for value in values) else ():
        try:
            numbers = [kind(value) for value in values]
        except ValueError:
            continue
        if all(map(math.isfinite, numbers)):
            return numbers
    return list(values)


def shown(text: str, limit: int = 60) -> str:
    """A text for a message: quoted and shortened."""
    return repr(text if len(text) <= limit else f"{text[:limit]}...")
