"""Ranges of flags, declared with the flag and checked in one place.

Importing this file imports nothing heavy.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from openrlhf_sfpo.system.errors import UsageError


@dataclass(frozen=True)
class Range:
    """The numbers that a flag accepts. NaN is never accepted, and infinity only if `infinite`.

    Attributes:
        low, high: the limits.
        open_low, open_high: the limit itself is not in the range.
        also: special values outside the range, with their meaning.
        infinite: infinity is accepted.
        advice: the fix to suggest instead of the range.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: tuple[tuple[float, str], ...] = ()
    infinite: bool = False
    advice: str = ""

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or math.isnan(value):
            return False
        if any(value == single for single, _ in self.also):
            return True
        if math.isinf(value):
            return self.infinite and value > 0
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low, high = f"{self.low:.10g}", f"{self.high:.10g}"
        if math.isinf(self.low) and math.isinf(self.high):
            text = "a finite number"
        elif math.isinf(self.high):
            text = f"a number above {low}" if self.open_low else f"{low} or more"
        elif math.isinf(self.low):
            text = f"a number below {high}" if self.open_high else f"{high} or less"
        elif self.open_low or self.open_high:
            start = "above" if self.open_low else "from"
            text = f"a number {start} {low} and {'below' if self.open_high else 'up to'} {high}"
        elif self.high - self.low == 1 and isinstance(self.low, int):
            text = f"{low} or {high}"
        else:
            text = f"a number from {low} to {high}"
        return ", ".join([text, *(f"or {single:.10g} {meaning}" for single, meaning in self.also)])

    @property
    def fix(self) -> str:
        """The fix to suggest for a value outside."""
        return self.advice or f"Use {self}."


def at_least(low: float, advice: str = "", also: Mapping[float, str] | None = None) -> Range:
    """`low` or more; `also` are single values with a meaning of their own."""
    return Range(low=low, advice=advice, also=tuple((also or {}).items()))


def above(low: float, advice: str = "", infinite: bool = False) -> Range:
    """More than `low`."""
    return Range(low=low, open_low=True, advice=advice, infinite=infinite)


def between(low: float, high: float, advice: str = "", also: Mapping[float, str] | None = None) -> Range:
    """From `low` to `high`, both included."""
    return Range(low=low, high=high, advice=advice, also=tuple((also or {}).items()))


def share(zero: bool = False, one: bool = True) -> Range:
    """A number between 0 and 1, with or without the ends."""
    return Range(low=0.0, high=1.0, open_low=not zero, open_high=not one)


FINITE = Range()


def check_ranges(values: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Check the numbers of flags, one by one.

    Args:
        values: by dotted name; None means that a flag has no value.
        ranges: by dotted name. Names that `values` lacks are skipped.

    Raises:
        UsageError: for the first value out of its range, with the value and the range.
    """
    for name, limits in ranges.items():
        value = values.get(name)
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(number is not None and number not in limits for number in numbers):
            raise UsageError(f"--{name}", f"is {shown(value)}.", limits.fix)


def check_choices(values: Mapping[str, Any], choices: Mapping[str, Iterable[str]]) -> None:
    """Check flags whose parser accepts any text although only some values have a meaning.

    Raises:
        UsageError: for the first value that is not one of its choices.
    """
    for name, allowed in choices.items():
        value = values.get(name)
        if value is not None and value not in allowed:
            raise UsageError(f"--{name}", f"is {value!r}.", f"Use one of {', '.join(allowed)}.")


def shown(value: object) -> str:
    """A flag's value as it is written on a command line."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
