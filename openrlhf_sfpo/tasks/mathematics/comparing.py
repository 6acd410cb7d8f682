"""Compares readings of answers."""

import re
from fractions import Fraction

from openrlhf_sfpo.tasks.mathematics import judging
from openrlhf_sfpo.tasks.mathematics.readings import (
    Based,
    Choice,
    Clock,
    Group,
    Letters,
    Matrix,
    Quantity,
    Ratio,
    Reading,
    Region,
    Relation,
    Residue,
    Words,
)
from openrlhf_sfpo.tasks.mathematics.units import compatible, same_size

Readings = tuple[Reading, ...]
_LONGEST = 60  # lists with more items are compared in order only


def agree(gold: Readings, answer: Readings) -> bool:
    """Whether any reading of the answer equals any reading of the reference."""
    lettered = [one for one in gold if isinstance(one, Choice)], [one for one in answer if isinstance(one, Choice)]
    if all(lettered) and any(one.rest for one in lettered[0]) and any(one.rest for one in lettered[1]):
        return any(_choices(one, other) for one in lettered[0] for other in lettered[1])
    return any(_equal(one, other) for one in gold for other in answer)


def _equal(gold: Reading, answer: Reading) -> bool:
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return _quantities(gold, answer)
    if isinstance(gold, (Words, Letters)) and isinstance(answer, (Words, Letters)):
        # Words ignore case; a few capitals are names of points.
        return gold == answer or (
            type(gold) is not type(answer) and len(gold.text) > 3 and gold.text.lower() == answer.text.lower()
        )
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        return _choices(gold, answer)
    if isinstance(gold, Group) and isinstance(answer, Group):
        return _groups(gold, answer)
    for group, other in ((gold, answer), (answer, gold)):
        if isinstance(group, Group) and group.kind == "set" and len(group.items) == 1:  # the only solution
            return any(_equal(*((one, other) if group is gold else (other, one))) for one in group.items[0])
    if isinstance(gold, Region) and isinstance(answer, Region):
        return _regions(gold, answer)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        return _matrices(gold, answer)
    if isinstance(gold, Matrix) and isinstance(answer, Group):
        return _vector(gold, answer, matrix_is_gold=True)
    if isinstance(gold, Group) and isinstance(answer, Matrix):
        return _vector(answer, gold, matrix_is_gold=False)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _relations(gold, answer)
    if isinstance(gold, Residue) or isinstance(answer, Residue):
        return _residues(gold, answer)
    if isinstance(gold, Clock) and isinstance(answer, Clock):
        return _clocks(gold, answer)
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        return _ratios(gold, answer)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return _based(gold, answer)
    return False


def _quantities(gold: Quantity, answer: Quantity) -> bool:
    if not _same_name(gold.name, answer.name):
        return False
    one, other = gold.unit, answer.unit
    if one is None and other is None:
        return judging.equal_expressions(gold.expression, answer.expression)
    if one is not None and other is not None:
        if not compatible(one, other):
            return False
        return judging.equal_expressions(gold.expression, answer.expression, 1 / same_size(one, other))
    unit = one or other
    if unit is not None and unit.percent:
        return _percent(gold, answer)
    return judging.equal_expressions(gold.expression, answer.expression)


def _percent(gold: Quantity, answer: Quantity) -> bool:
    """25 % equals 1/4, and 25 if the question asks for percent. Below 1, a bare number is not in percent."""
    percent, bare = (gold, answer) if gold.unit is not None else (answer, gold)
    if judging.equal_expressions(bare.expression, percent.expression, Fraction(1, 100)):
        return True
    size = judging.value(bare.expression)
    return size is not None and abs(size) >= 1 and judging.equal_expressions(bare.expression, percent.expression)


def _same_name(gold: str | None, answer: str | None) -> bool:
    """Whether two names may denote the same value: x is not y or xy, and AB is not CD; but y may be f(x), x may be x_1,
    and A may be Area."""
    if gold is None or answer is None or gold == answer:
        return True
    variables = r"[a-zA-Z]{1,3}|\\[a-z]+"
    if not all(re.fullmatch(r"\\?[a-zA-Z]+'*(?:_\w+)?(?:\([a-z0-9,]+\))?", name) for name in (gold, answer)):
        return False
    if "_" in gold and "_" in answer:
        return False
    return not (re.fullmatch(variables, gold) and re.fullmatch(variables, answer))


def _choices(gold: Choice, answer: Choice) -> bool:
    same = gold.letter == answer.letter or (
        (gold.in_parentheses or answer.in_parentheses) and gold.letter.upper() == answer.letter.upper()
    )
    return same and (not gold.rest or not answer.rest or agree(gold.rest, answer.rest))


def _groups(gold: Group, answer: Group) -> bool:
    kinds = {gold.kind, answer.kind}
    if kinds == {"set", "tuple"} or kinds == {"set", "brackets"}:
        return False
    # Two numbers in brackets are an interval; more are a list as programs print it.
    if "brackets" in kinds and len(kinds) == 2 and len(gold.items) < 3:
        return False
    if kinds == {"set"}:
        return all(any(agree(one, other) for other in answer.items) for one in gold.items) and all(
            any(agree(one, other) for one in gold.items) for other in answer.items
        )
    if len(gold.items) != len(answer.items):
        return False
    if kinds & {"tuple"} or kinds == {"brackets"} or len(gold.items) > _LONGEST:
        pairs = zip(_by_name(gold, answer), _by_name(answer, gold), strict=True)
        return all(agree(one, other) for one, other in pairs)
    if _are_different_things(gold) and not any(_names(answer)):
        return any(  # in their written order, or in that of their names
            all(agree(one, other) for one, other in zip(items, answer.items, strict=True))
            for items in (gold.items, _by_name(gold, Group("tuple", answer.items)))
        )
    left = list(answer.items)
    for one in gold.items:
        found = next((index for index, other in enumerate(left) if agree(one, other)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _by_name(group: Group, other: Group) -> tuple[Readings, ...]:
    """A list's items sorted by their names (y = 2, x = 1) for comparison with a tuple; without names, in their own
    order."""
    if group.kind != "list" or other.kind != "tuple":
        return group.items
    names = [name for name in _names(group) if name]
    if len(set(names)) < len(group.items):
        return group.items
    return tuple(item for _, item in sorted(zip(names, group.items, strict=True), key=lambda pair: pair[0]))


def _names(group: Group) -> list[str | None]:
    """Each item's name; None if it has none."""
    return [next((one.name for one in item if isinstance(one, Quantity) and one.name), None) for item in group.items]


def _are_different_things(group: Group) -> bool:
    """Whether all items have names, as in a = 1, b = 2, and the names are not just numbered, as the solutions x_1 and
    x_2 are."""
    names = [name and name.partition("_")[0] for name in _names(group)]
    return all(names) and len(set(names)) == len(names)


def _regions(gold: Region, answer: Region) -> bool:
    if not _same_name(gold.variable, answer.variable) or len(gold.intervals) != len(answer.intervals):
        return False
    left = list(answer.intervals)
    for interval in gold.intervals:
        found = next((other for other in left if _same_interval(interval, other)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _same_interval(gold: tuple[str, bool, str, bool], answer: tuple[str, bool, str, bool]) -> bool:
    ends = [(gold[0], gold[1], answer[0], answer[1]), (gold[2], gold[3], answer[2], answer[3])]
    return all(_same_end(*end) for end in ends)


def _same_end(gold: str, gold_in: bool, answer: str, answer_in: bool) -> bool:
    infinite = [_infinity(gold), _infinity(answer)]
    if any(infinite):
        return infinite[0] == infinite[1]
    return gold_in == answer_in and judging.equal_expressions(gold, answer)


def _infinity(end: str) -> str | None:
    tight = re.sub(r"\s+|[+]", "", end)
    return tight if tight in {r"\infty", r"-\infty"} else None


def _matrices(gold: Matrix, answer: Matrix) -> bool:
    if gold.determinant != answer.determinant or [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
        return False
    pairs = [pair for rows in zip(gold.rows, answer.rows, strict=True) for pair in zip(*rows, strict=True)]
    return all(agree(one, other) for one, other in pairs)


def _vector(matrix: Matrix, group: Group, matrix_is_gold: bool) -> bool:
    """Whether a column (or, in brackets, a row) of numbers equals a tuple."""
    if matrix.determinant or group.kind not in {"tuple", "brackets"} or len(matrix.rows) != len(group.items):
        return False
    if all(len(row) == 1 for row in matrix.rows):
        cells: list[Readings] = [row[0] for row in matrix.rows]
    elif group.kind == "brackets":
        cells = [(Group("brackets", row),) for row in matrix.rows]
    else:
        return False
    return all(
        agree(cell, item) if matrix_is_gold else agree(item, cell)
        for cell, item in zip(cells, group.items, strict=True)
    )


def _relations(gold: Relation, answer: Relation) -> bool:
    flipped = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
    sides = [(gold.left, gold.right, gold.sign), (gold.right, gold.left, flipped.get(gold.sign, gold.sign))]
    for left, right, sign in sides:
        if (
            sign == answer.sign
            and judging.equal_expressions(left, answer.left)
            and judging.equal_expressions(right, answer.right)
        ):
            return True
    factor = judging.common_factor((gold.left, gold.right), (answer.left, answer.right))
    if factor is None:
        return False
    if gold.sign in {"=", r"\ne"}:
        return gold.sign == answer.sign
    return answer.sign == (gold.sign if factor > 0 else flipped.get(gold.sign))


def _clocks(gold: Clock, answer: Clock) -> bool:
    if (gold.minute, gold.second) != (answer.minute, answer.second):
        return False
    if gold.half is None or answer.half is None:
        if gold.hour == answer.hour:
            return True
        half = gold.half or answer.half
        return half is not None and _hours(gold, half) == _hours(answer, half)
    return gold.half == answer.half and gold.hour % 12 == answer.hour % 12


def _hours(clock: Clock, half: str) -> int:
    return clock.hour if clock.half is None else clock.hour % 12 + (12 if half == "pm" else 0)


def _residues(gold: Reading, answer: Reading) -> bool:
    """With two moduli, congruent numbers are equal. A number alone is the residue itself: 7, not 19, for 7 (mod 12)."""
    if isinstance(gold, Residue) and isinstance(answer, Residue):
        if not _same_name(gold.name, answer.name) or not judging.equal_expressions(gold.modulus, answer.modulus):
            return False
        numbers = [judging.number(part) for part in (gold.value, answer.value, gold.modulus)]
        if all(number is not None and number.denominator == 1 for number in numbers):
            first, second, modulus = (int(number or 0) for number in numbers)
            return first == second or (modulus != 0 and (first - second) % modulus == 0)
        return judging.equal_expressions(gold.value, answer.value)
    plain = [Quantity(one.value, None, one.name) if isinstance(one, Residue) else one for one in (gold, answer)]
    return all(isinstance(one, Quantity) and one.unit is None for one in plain) and _equal(*plain)


def _ratios(gold: Ratio, answer: Ratio) -> bool:
    if len(gold.parts) != len(answer.parts):
        return False
    first = [f"\\frac{{{part}}}{{{gold.parts[-1]}}}" for part in gold.parts[:-1]]
    second = [f"\\frac{{{part}}}{{{answer.parts[-1]}}}" for part in answer.parts[:-1]]
    return all(judging.equal_expressions(one, other) for one, other in zip(first, second, strict=True))


def _based(gold: Reading, answer: Reading) -> bool:
    """A number in a base equals the same digits in the same base; without one, the base is the question's."""
    if isinstance(gold, Based) and isinstance(answer, Based):
        return gold == answer
    based, other = (gold, answer) if isinstance(gold, Based) else (answer, gold)
    digits = getattr(other, "expression", getattr(other, "text", "")).replace(" ", "")
    return isinstance(based, Based) and bool(digits) and (digits.lstrip("0") or "0") == based.digits
