"""Reads names, chains of equal values, and inequalities as regions of the real line."""

import math
import re
from itertools import pairwise

from openrlhf_sfpo.tasks.mathematics import judging
from openrlhf_sfpo.tasks.mathematics.quantities import read_quantities
from openrlhf_sfpo.tasks.mathematics.readings import Quantity, Reading, Region

_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


def read_inequality(parts: list[str], signs: list[str]) -> Region | None:
    """Bounds on one variable as a region; None for other inequalities."""
    if absolute := _absolute(parts, signs):
        return absolute
    constant = [judging.is_constant(_strip_unit(part)) for part in parts]
    if constant == [False, True] or constant == [True, False]:
        variable, bound, sign = (
            (parts[0], parts[1], signs[0]) if constant[1] else (parts[1], parts[0], _FLIPPED.get(signs[0], ""))
        )
        if not is_variable(variable):
            return None
        bound = _strip_unit(bound)
        name = name_of(variable)
        if sign == r"\ne":
            return all_but([bound], name)
        if sign in (">", r"\ge"):
            return Region(((bound, sign == r"\ge", r"\infty", False),), name)
        if sign in ("<", r"\le"):
            return Region(((r"-\infty", False, bound, sign == r"\le"),), name)
    if (
        len(parts) == 3
        and is_variable(parts[1])
        and not any(_mentions(part, parts[1]) for part in (parts[0], parts[2]))
    ):
        ups, downs = {"<", r"\le"}, {">", r"\ge"}
        low, high = _strip_unit(parts[0]), _strip_unit(parts[2])
        if set(signs) <= ups:
            return Region(((low, signs[0] == r"\le", high, signs[1] == r"\le"),), name_of(parts[1]))
        if set(signs) <= downs:
            return Region(((high, signs[1] == r"\ge", low, signs[0] == r"\ge"),), name_of(parts[1]))
    return None


def _absolute(parts: list[str], signs: list[str]) -> Region | None:
    """|x - a| < b and the like as a region."""
    if len(parts) != 2:
        return None
    if parts[1].startswith("|"):
        parts, signs = parts[::-1], [_FLIPPED.get(signs[0], "")]
    found = re.fullmatch(r"\|\s*([a-zA-Z])\s*(?:([-+])\s*([^|]+))?\|", parts[0])
    size = judging.value(parts[1]) if found and judging.is_constant(parts[1]) else None
    if not found or size is None or size <= 0:
        return None
    variable, side, shift = found.groups()
    centre = f"{'-' if side == '+' else ''}({shift})" if shift else "0"
    if shift and not judging.is_constant(shift):
        return None
    low, high = f"{centre} - ({parts[1]})", f"{centre} + {parts[1]}"
    closed = signs[0] in (r"\le", r"\ge")
    if signs[0] in ("<", r"\le"):
        return Region(((low, closed, high, closed),), variable)
    if signs[0] in (">", r"\ge"):
        return Region(((r"-\infty", False, low, closed), (high, closed, r"\infty", False)), variable)
    return None


def _mentions(text: str, variable: str) -> bool:
    """Whether a bound contains the variable."""
    return bool(re.search(rf"(?<![a-zA-Z\\]){re.escape(variable.strip())}(?![a-zA-Z])", text))


def is_variable(text: str) -> bool:
    return bool(re.fullmatch(r"\s*(?:\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\s*\([a-z]\))?|\\text\{[^{}]*\})\s*", text))


def _strip_unit(text: str) -> str:
    return next(
        (one.expression for one in read_quantities(text, True) if isinstance(one, Quantity) and one.unit is not None),
        text,
    )


def name_of(text: str) -> str | None:
    """A left side as a comparable name, without spaces and \\text."""
    return re.sub(r"\s+|\\text\{|[{}]", "", text) or None


def may_be_name(text: str, reference: bool) -> bool:
    """Whether a left side can name the right side's value. In a reference, only an obvious name can: in 2x = 18 and x +
    1 = 18, x is not 18."""
    tight = re.sub(r"\s+", "", text)
    if reference:
        return bool(
            re.fullmatch(
                r"[a-zA-Z]'?(?:_\{?\w+\}?)?|[a-zA-Z]\([a-z]\)|\\?[a-zA-Z]+|\\text\{[^{}]*\}|[A-Z]+|\([a-z](?:,[a-z])+\)",
                tight,
            )
        )
    letters = set(
        re.findall(
            r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z(])", re.sub(r"\\text\{[^{}]*\}|\\[a-zA-Z]+|_\{\w+\}", " ", tight)
        )
    )
    return not (
        len(letters) == 1
        and re.fullmatch(r"[-+*/]?\d*\*?[a-z](?:[-+]\d+)?", tight)
        and not re.fullmatch(r"[a-z]", tight)
    )


def numeric_part(part: str) -> str | None:
    """A chain's part without its unit, if it is a constant."""
    for one in read_quantities(part, True):
        if isinstance(one, Quantity) and judging.is_constant(one.expression):
            scale = one.unit.factor if one.unit is not None and not one.unit.powers else 1
            return (
                one.expression
                if scale == 1
                else f"({one.expression}) \\cdot \\frac{{{scale.numerator}}}{{{scale.denominator}}}"
            )
    return None


def is_consistent(parts: list[str], signs: list[str]) -> bool:
    """Whether the constants in a chain such as x = 36/2 = 18 are equal, or nearly so if a sign says so."""
    last: tuple[int, str] | None = None
    for index, part in enumerate(parts):
        constant = numeric_part(part)
        if constant is None:
            continue
        if last is not None and r"\equiv" not in signs:
            nearly = r"\approx" in signs[last[0] : index]
            if not (_roughly_equal if nearly else judging.equal_expressions)(last[1], constant):
                return False
        last = (index, constant)
    return True


def _roughly_equal(first: str, second: str) -> bool:
    left, right = judging.value(first), judging.value(second)
    return left is not None and right is not None and abs(left - right) <= 0.01 * max(abs(left), abs(right))


def all_but(points: list[str], variable: str | None) -> Region:
    ends = [r"-\infty", *sorted(points, key=lambda point: judging.value(point) or 0.0), r"\infty"]
    return Region(tuple((start, False, end, False) for start, end in pairwise(ends)), variable)


def combine(regions: list[Region], joint: str) -> list[Reading]:
    """Combine conditions on one variable: any holds ("or"), or all ("and", a comma). With a comma, conditions that
    exclude each other are alternatives (x < 1, x > 3).

    Args:
        regions: where each condition holds.
        joint: the word between them: "or", "and" or ",".
    """
    names = {region.variable for region in regions if region.variable}
    if len(names) > 1:
        return []
    variable = next(iter(names), None)
    if joint != "or":
        common = regions[0].intervals
        for region in regions[1:]:
            common = intersect(common, region.intervals)
        if common or joint == "and":
            return [Region(common, variable)] if common else []
    return [Region(tuple(interval for region in regions for interval in region.intervals), variable)]


Intervals = tuple[tuple[str, bool, str, bool], ...]


def intersect(first: Intervals, second: Intervals) -> Intervals:
    """The intersection of two unions of intervals; an end without a value counts as unbounded."""
    common = []
    for one in first:
        for other in second:
            starts = [(_bound(part[0], -math.inf), not part[1], part[0]) for part in (one, other)]
            ends = [(_bound(part[2], math.inf), part[3], part[2]) for part in (one, other)]
            start, opened, left = max(starts)
            end, closed, right = min(ends)
            if start < end or (start == end and closed and not opened):
                common.append((left, not opened, right, closed))
    return tuple(common)


def _bound(end: str, otherwise: float) -> float:
    value = judging.value(end)
    return otherwise if value is None else value
