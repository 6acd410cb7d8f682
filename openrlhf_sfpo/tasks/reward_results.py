"""Reads the results of reward functions, with error messages for invalid ones."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsFloat, SupportsIndex

WANTED = 'Return {"rewards": [one number for each query]}, or just that list'
_WRONG_KEYS = ("reward", "score", "scores", "acc")


class BadResult(ValueError):
    """A reward function returned an invalid result; the message, in one line, says what was returned and what is
    expected."""


class NotFinite(BadResult):
    """A reward function returned NaN or infinity."""


@dataclass(frozen=True)
class RewardResult:
    """One number per sample.

    Attributes:
        rewards: used for training.
        scores: used for evaluation and dynamic filtering; equal to the rewards if the function returns no scores.
        extra_logs: further numbers, by name.
    """

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]] = field(default_factory=dict)


def read_result(result: object, count: int, finite: bool = True) -> RewardResult:
    """Read a reward function's result.

    Args:
        result: {"rewards": ..., "scores": ..., "extra_logs": {...}} with numbers as lists, tensors or arrays, as in
            OpenRLHF (the last two are optional), or the rewards alone, as in TRL and verl.
        count: the number of samples.
        finite: refuse rewards and scores that are NaN or infinite.

    Raises:
        BadResult: the result is invalid; `NotFinite` for NaN or infinity.
    """
    if isinstance(result, Mapping):
        if "rewards" not in result:
            raise BadResult(_without_rewards(result))
        rewards = _numbers(result["rewards"], count, "rewards", finite)
        scores = result.get("scores")
        extra = result.get("extra_logs")
        if extra is not None and not isinstance(extra, Mapping):
            raise BadResult(f'it returned "extra_logs" as {_what(extra)}. It must be a dictionary of numbers')
        return RewardResult(
            rewards,
            rewards if scores is None else _numbers(scores, count, "scores", finite),
            {str(key): _numbers(values, count, str(key), False) for key, values in (extra or {}).items()},
        )
    rewards = _numbers(result, count, "rewards", finite)
    return RewardResult(rewards, rewards)


def _without_rewards(result: Mapping[Any, Any]) -> str:
    keys = ", ".join(map(repr, result)) or "no keys"
    meant = next((key for key in _WRONG_KEYS if key in result), None)
    hint = f"; is {meant!r} meant?" if meant else ""
    return f"it returned a dictionary without 'rewards' (it has {keys}{hint}). {WANTED}"


def _numbers(values: object, count: int, key: str, finite: bool) -> list[float]:
    """One float per sample, from a list, tensor or array, or (for one sample) a number."""
    given = values
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, (int, float)) or (hasattr(values, "__float__") and not isinstance(values, Iterable)):
        values = [values]
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping, set, frozenset)):
        raise BadResult(f"it returned {_what(given)}{_for(key)}. {WANTED}")
    items = list(values)
    if items and all(isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 1 for item in items):
        items = [item[0] for item in items]  # a column
    numbers = [_number(item, key) for item in items]
    if len(numbers) != count:
        raise BadResult(f"it returned {len(numbers)} {key!r} for {count} sample{'s' * (count != 1)}. {WANTED}")
    if finite and not all(map(math.isfinite, numbers)):
        raise NotFinite(f"it returned {key!r} = {numbers}; rewards must be finite numbers")
    return numbers


def _number(item: object, key: str) -> float:
    if hasattr(item, "tolist"):
        item = item.tolist()
    if not isinstance(item, SupportsFloat | SupportsIndex):
        wanted = WANTED if key in ("rewards", "scores") else "Only numbers can be logged"
        raise BadResult(f"it returned {_what(item)} among the {key!r}. {wanted}")
    return float(item)


def _for(key: str) -> str:
    return "" if key == "rewards" else f" as {key!r}"


def _what(value: object) -> str:
    if value is None:
        return "None (is a return missing?)"
    if inspect.iscoroutine(value):
        value.close()
        return "a coroutine: it is an async function, and must be a plain one (asyncio.run can call the other)"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
