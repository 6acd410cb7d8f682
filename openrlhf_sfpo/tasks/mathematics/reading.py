"""What a cleaned answer may mean: a quantity, a list, a set, an interval, a choice, words, ...

`read` returns all readings that make sense, since the same characters can mean several things: (1, 2) is a point or an
open interval, 1,241 a number or two, and C a variable or a choice. Which one was meant shows when it is compared.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from openrlhf_sfpo.tasks.mathematics import judging
from openrlhf_sfpo.tasks.mathematics.cleaning import split_top, words_of
from openrlhf_sfpo.tasks.mathematics.units import Unit, parse_unit


@dataclass(frozen=True)
class Quantity:
    """An expression in clean LaTeX, its unit, and the name that it was given (x in x = 5)."""

    expression: str
    unit: Unit | None = None
    name: str | None = None


@dataclass(frozen=True)
class Words:
    """Plain lower-case words."""

    text: str


@dataclass(frozen=True)
class Letters:
    """Two or more capitals, such as the name of a segment: not a product."""

    text: str


@dataclass(frozen=True)
class Choice:
    """The letter of a choice, and what stands after it in the answer."""

    letter: str
    rest: "tuple[Reading, ...]" = ()
    in_parentheses: bool = False


@dataclass(frozen=True)
class Group:
    """Several answers. `kind` is list (any order, no brackets), set, tuple or brackets (in order)."""

    kind: str
    items: "tuple[tuple[Reading, ...], ...]"


@dataclass(frozen=True)
class Region:
    """A union of intervals, each (start, start is in it, end, end is in it), of a variable that may be unknown."""

    intervals: tuple[tuple[str, bool, str, bool], ...]
    variable: str | None = None


@dataclass(frozen=True)
class Matrix:
    """Rows of cells; `determinant` for a matrix between vertical lines."""

    rows: "tuple[tuple[tuple[Reading, ...], ...], ...]"
    determinant: bool = False


@dataclass(frozen=True)
class Relation:
    """An equation or inequality that is an answer as a whole: left side, sign, right side."""

    left: str
    sign: str
    right: str


@dataclass(frozen=True)
class Based:
    """A number's digits in a base."""

    digits: str
    base: int


@dataclass(frozen=True)
class Clock:
    """A time of day: hours, minutes, seconds; `half` is am, pm or None."""

    hour: int
    minute: int
    second: int
    half: str | None


@dataclass(frozen=True)
class Ratio:
    """Parts of a ratio such as 3:1, as expressions."""

    parts: tuple[str, ...]


Reading = Quantity | Words | Letters | Choice | Group | Region | Matrix | Relation | Based | Clock | Ratio

_AND = r"(?:[,;]\s*)?\\text\{(?:and|&)\}"
_OR = r"(?:[,;]\s*)?\\text\{or\}"
_COMMA = re.compile(rf"{_AND}|{_OR}|[,;]|\\cup(?=\s*\\\{{)|\\q?quad")
_ONLY_OR = re.compile(_OR)
_ONLY_AND = re.compile(rf"{_AND}|[,;]")
_CUP = re.compile(r"\\cup(?![a-zA-Z])|\bU\b(?=\s*[(\[])")
_RELATION = re.compile(r"\\(?:le|ge|ne|approx|in|equiv)(?![a-zA-Z])|[=<>]")
_EQUALS = {"=", r"\approx", r"\equiv"}
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}
_THOUSANDS = re.compile(r"(-?\d{1,3}(?:,\d{3})+|-?\d{1,2}(?:,\d{2})+,\d{3})(\.\d+)?")
_DOTTED = re.compile(r"(-?\d{1,3}(?:\.\d{3}){2,}|-?\d{1,3}(?:\.\d{3})+(?=,)|-?\d{1,3}(?: \d{3})+(?=,))(?:,(\d+))?")
_NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty".split()
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}
_NOTHING = {
    "no solution", "no solutions", "no real solution", "no real solutions", "none", "empty set", "empty", "dne",
    "does not exist", r"\emptyset", r"\{\}", "undefined", "no such",
}  # fmt: skip
_MATRIX = re.compile(
    r"(.*?)([(\[|]?)\s*\\begin\{([pbvBV]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\3\}\s*([)\]|]?)",
    re.DOTALL,
)
_BASED = re.compile(r"\(?\s*(\d[\dA-F]*|[A-F][\dA-F]*\d[\dA-F]*)\s*\)?\s*_\s*(?:\{(.*)\}|\((\d+)\))")
_BASE_WORDS = re.compile(r"\(?\s*(\d[\dA-F]*)\s*\)?\s*\(?\s*\\text\{(?:in )?base\s?(\w*)\}\s*(\d*)\s*\)?")
_CLOCK = re.compile(
    r"(\d{1,2})(?:\s*:\s*(\d\d))?(?:\s*:\s*(\d\d))?\s*(?:\\text\{\s*([apAP])\.?\s*[mM]\.?\s*\}|\b([AaPp])[mM]\b)?"
)
_LABELLED = re.compile(r"(?:\\text\{)?([\[(]?)\s*(?:\\text\{)?\s*([A-Z])\s*\}?\s*([)\].:]+)\s*\}?\s*(.*)", re.DOTALL)
_NAMED_CHOICE = re.compile(
    r"(?:\\text\{)?\s*(?:[Tt]he\s+)?(?:\\text\{)?(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*\}?\s*:?\s*(?:\\text\{)?\(?\s*(?:\\text\{)?([A-Z])\}?\)?\}?[.:]?"
)
_INDEX_RANGE = re.compile(
    r"\s*(?:,|\(|\\text\{(?:for|where|with)(?: all| any)?\})\s*[nkm]\s*(?:\\in\s*\\mathbb\{[A-Z]\}|\\ge\s*\d+)\s*\)?$"
)
_NEGATION = re.compile(r"\\text\{[^{}]*\b(?:not?|never|neither|nor|except|isn't)\b")
_REALS = {r"\mathbb{R}", "all real numbers", "all reals", "real numbers", "all real", "all real values"}


@lru_cache(maxsize=1024)
def read(text: str, reference: bool) -> tuple[Reading, ...]:
    """All readings of a cleaned answer, the likeliest first; none if it contradicts itself or is empty.

    Args:
        text: from `clean`.
        reference: it is the reference answer, which is read as it stands; a response's answer gets more benefit of the
            doubt, such as a decimal comma, or a single letter after a number as a unit.
    """
    text = text.strip()
    if not text:
        return ()
    if not reference:
        text = _INDEX_RANGE.sub("", text)
    special = _special(text, reference)
    if special:
        return special
    found: list[Reading] = []
    found += _choices(text, reference)
    found += _separated_number(text, reference)
    if re.search(r"\\pm|\\mp", text):
        return tuple(_both_signs(text, reference))
    found += _bracketed(text, reference)
    if not _is_bracketed(text):
        found += _listed(text, reference) or _single(text, reference)
    found += _words(text, reference)
    return tuple(dict.fromkeys(found))


def _special(text: str, reference: bool) -> tuple[Reading, ...]:
    """Readings of forms that cannot be anything else."""
    plain = words_of(text)
    if plain in _NOTHING or text in _NOTHING:
        return (Words("no solution"),)
    if plain in _REALS or text in _REALS:
        return (Region(((r"-\infty", False, r"\infty", False),)),)
    if found := (_based(text) or _matrix(text, reference)):
        return (found,)
    if letters := re.fullmatch(r"(?:\\(?:text|overline|overrightarrow|overleftrightarrow)\{)?([A-Z]{2,}'*)\}?", text):
        return (Letters(letters.group(1)),)
    clock = _CLOCK.fullmatch(text)
    if clock and (clock.group(4) or clock.group(5)):
        hour, minute, second = (int(part or 0) for part in clock.groups()[:3])
        return (Clock(hour, minute, second, (clock.group(4) or clock.group(5)).lower() + "m"),)
    return ()


def _based(text: str) -> Based | None:
    numbers = dict(zip(_NUMBER_WORDS, _NUMBER_WORDS.values(), strict=True))
    found = _BASED.fullmatch(text) or _BASE_WORDS.fullmatch(text)
    if not found:
        return None
    digits, *bases = found.groups()
    base = words_of(next((part for part in bases if part), "")).removeprefix("base").strip()
    value = int(base) if base.isdigit() else numbers.get(base)
    if value is None or not 2 <= value <= 36:
        return None
    return Based(digits.lstrip("0") or "0", value)


def _matrix(text: str, reference: bool) -> Matrix | None:
    found = _MATRIX.fullmatch(text)
    if not found:
        return None
    before, opening, kind, body, _ = found.groups()
    before = re.sub(r"^.*=", "", before).strip().removesuffix(r"\cdot").strip()
    if re.search(r"\\begin|[,;]", body if "\\begin" in body else before):
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-zA-Z])|\\hline", body) if row.strip()]
    factor = f"({before}) \\cdot " if before and before != "-" else before
    cells = tuple(
        tuple(read(f"{factor}({cell.strip()})" if factor else cell.strip(), reference) for cell in row.split("&"))
        for row in rows
    )
    return Matrix(cells, determinant=kind in {"vmatrix", "Vmatrix"} or opening == "|")


def _choices(text: str, reference: bool) -> list[Reading]:
    plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    if bare := re.fullmatch(r"([(\[]?)\s*([A-Za-z])\s*[)\].:]*", plain):
        return [Choice(bare.group(2), (), bool(bare.group(1)))]
    if named := _NAMED_CHOICE.fullmatch(text):
        return [Choice(named.group(1))]
    labelled = _LABELLED.fullmatch(text)
    if labelled and labelled.group(4) and (labelled.group(1) or labelled.group(3)[:1] in ").:"):
        after = labelled.group(4).strip()
        if labelled.group(3).startswith(":") and not labelled.group(1) and re.match(r"[A-Z]\s*:", after):
            return []
        if re.match(r"[-+*/^=<>,|]|\\(?:cdot|times|cup|cap|le|ge|in)(?![a-zA-Z])", after) and labelled.group(1) and r"\text" not in text:
            return []
        if re.match(r"\\text\{(?:or|and)\b", after):
            return []
        rest = read(after, reference) if not re.fullmatch(r"(?:\\text\{)?\(?[A-Za-z]\)?\}?", after) else ()
        return [Choice(labelled.group(2), rest), *(rest if not reference else ())]
    return []


def _separated_number(text: str, reference: bool) -> list[Reading]:
    """Readings of commas and dots inside numbers as thousands separators or as a decimal comma."""
    found: list[Reading] = []
    body = text
    joined = re.sub(
        rf"(?<![\d.,])(?:{_THOUSANDS.pattern})(?![\d,])(?!\.\d)", lambda one: one.group().replace(",", ""), body
    )
    if joined != body and not (_is_bracketed(text) and "," not in joined) and judging_number_like(joined, text):
        found += read(joined, reference)
    if dotted := _DOTTED.fullmatch(text):
        whole, part = dotted.groups()
        found.append(Quantity(re.sub(r"[. ]", "", whole) + (f".{part}" if part else "")))
    if not reference and (comma := re.fullmatch(r"(-?\d+),(\d+)(.*)", text)) and "," not in comma.group(3):
        whole, part, after = comma.groups()
        if len(part) != 3 or whole in {"0", "-0"}:
            found += [one for one in read(f"{whole}.{part}{after}", reference) if isinstance(one, Quantity)]
    return found


def judging_number_like(joined: str, text: str) -> bool:
    """Whether commas without a space are thousands separators: the text is one number, or its other commas have one."""
    return "," not in joined or bool(re.search(r",\s", text))


def _is_bracketed(text: str) -> bool:
    """Whether one pair of brackets encloses the whole text."""
    return _inside(text) is not None


def _inside(text: str) -> tuple[str, str, str] | None:
    """The opening bracket, what it encloses and the closing one, if they enclose the whole text."""
    for opening, closing in (
        (r"\{", r"\}"),
        (r"\langle", r"\rangle"),
        ("(", ")"),
        ("[", "]"),
        ("(", "]"),
        ("[", ")"),
        ("]", "["),
        ("]", "]"),
        ("[", "["),
        ("<", ">"),
    ):
        if not (text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)):
            continue
        inside = text[len(opening) : len(text) - len(closing)]
        if "]" in (opening,) or "[" == closing or _balanced(inside):
            return opening, inside.strip(), closing
    return None


def _balanced(text: str) -> bool:
    depth = 0
    for character in text.replace(r"\{", "(").replace(r"\}", ")"):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def _bracketed(text: str, reference: bool) -> list[Reading]:
    parts = _inside(text)
    if parts is None:
        return []
    opening, inside, closing = parts
    if opening == r"\{":
        builder = re.fullmatch(r"(.+?)(?:\||:)(.+)", inside)
        if builder and not _COMMA.search(builder.group(1)):
            condition = read(builder.group(2).strip(), reference)
            return [one for one in condition if isinstance(one, Region)]
        return [Group("set", tuple(read(item, reference) for item in split_top(inside, _COMMA)))]
    items = split_top(inside, re.compile("[,;]"))
    if len(items) == 1:
        return list(read(inside, reference)) if opening in "([" and closing in ")]" else []
    found: list[Reading] = []
    if len(items) == 2 and opening in "()[]" and closing in "()[]":
        start, end = items
        if _is_bound(start) and _is_bound(end):
            found.append(Region(((start, opening == "[", end, closing == "]"),)))
    kind = {"()": "tuple", r"\langle\rangle": "tuple", "<>": "tuple", "[]": "brackets"}.get(opening + closing)
    if kind:
        found.append(Group(kind, tuple(read(item, reference) for item in items)))
    return found


def _is_bound(text: str) -> bool:
    return bool(text) and (
        judging.number(text) is not None or (not re.search(r"\\text|[=<>]", text) and judging.is_readable(text))
    )


def _listed(text: str, reference: bool) -> list[Reading]:
    """Readings of a text with several parts: unions, and lists by commas, "and" and "or"."""
    if r"\cup" in text or re.search(r"\)\s*U\s*[(\[]", text):
        parts = [read(part, reference) for part in split_top(re.sub(r"^[a-zA-Z]\s*\\in", "", text), _CUP)]
        regions = [next((one for one in part if isinstance(one, Region)), None) or _points(part) for part in parts]
        if len(parts) > 1 and all(regions):
            return [Region(tuple(interval for region in regions for interval in region.intervals))]
    without = re.fullmatch(r"(?:([a-zA-Z])\s*\\in\s*)?\\mathbb\{R\}\s*(?:\\setminus|-)\s*\\\{(.*)\\\}", text)
    if without:
        return [_all_but([part.strip() for part in without.group(2).split(",")], without.group(1))]
    excepted = re.fullmatch(r"\\text\{all real(?: number| value)?s?(?: of x| x)? except(?: for)?\}\s*(.*)", text)
    if excepted:
        points = split_top(re.sub(r"[a-z]\s*=", "", excepted.group(1)), _COMMA)
        return [_all_but(points, None)] if all(map(_is_bound, points)) else []
    parts = split_top(text, _COMMA)
    if len(parts) == 1:
        return []
    if any(not part for part in parts):
        return []
    found: list[Reading] = []
    readings = tuple(read(part, reference) for part in parts)
    regions = [next((one for one in part if isinstance(one, Region)), None) for part in readings]
    if all(regions):
        found += _combined([region for region in regions if region], union=len(split_top(text, _ONLY_OR)) == len(parts))
    if compound := _compound(text):
        found.append(compound)
    found.append(Group("list", readings))
    if found_mixed := re.fullmatch(r"(-?\d+)\s*\\text\{and\}\s*(\\frac\{\d+\}\{\d+\}|\d+/\d+)(.*)", text):
        found += read(f"{found_mixed.group(1)} {found_mixed.group(2)}{found_mixed.group(3)}", reference)
    return found


def _points(readings: tuple[Reading, ...]) -> Region | None:
    """A finite set of numbers as a region, to be joined with intervals."""
    group = next((one for one in readings if isinstance(one, Group) and one.kind == "set"), None)
    if group is None:
        return None
    values = [next((one.expression for one in item if isinstance(one, Quantity)), None) for item in group.items]
    return Region(tuple((value, True, value, True) for value in values)) if all(values) else None


def _all_but(points: list[str], variable: str | None) -> Region:
    ends = [r"-\infty", *sorted(points, key=lambda point: judging.value(point) or 0.0), r"\infty"]
    return Region(tuple((start, False, end, False) for start, end in zip(ends, ends[1:], strict=False)), variable)


def _both_signs(text: str, reference: bool) -> list[Reading]:
    plus = re.sub(r"\\mp(?![a-zA-Z])", "-", re.sub(r"\\pm(?![a-zA-Z])", "+", text))
    minus = re.sub(r"\\mp(?![a-zA-Z])", "+", re.sub(r"\\pm(?![a-zA-Z])", "-", text))
    found: list[Reading] = []
    items: list[tuple[Reading, ...]] = []
    for variant in (plus, minus):
        readings = read(re.sub(r"(^|[=,({])\s*\+\s*", r"\1", variant.strip()), reference)
        inner = next((one for one in readings if isinstance(one, Group) and one.kind in {"list", "set"}), None)
        items += inner.items if inner else [readings]
    found.append(Group("list", tuple(dict.fromkeys(items))))
    return found


def _combined(regions: list[Region], union: bool) -> list[Reading]:
    """Conditions on one variable, all of which (or any of which) must hold."""
    everything = ((r"-\infty", False, r"\infty", False),)
    regions = [region for region in regions if region.intervals != everything] or regions
    names = {region.variable for region in regions if region.variable}
    if len(names) > 1:
        return []
    variable = next(iter(names), None)
    if union or any(len(region.intervals) > 1 for region in regions):
        return _punctured(regions, variable) or [
            Region(tuple(interval for region in regions for interval in region.intervals), variable)
        ]
    if len(regions) == 2:
        first, second = (region.intervals[0] for region in regions)
        for lower, upper in ((first, second), (second, first)):
            if lower[2] == r"\infty" and upper[0] == r"-\infty" and lower[0] != r"-\infty":
                start, end = judging.value(lower[0]), judging.value(upper[2])
                if start is not None and end is not None and start < end:
                    return [Region(((lower[0], lower[1], upper[2], upper[3]),), variable)]
    return [Region(tuple(interval for region in regions for interval in region.intervals), variable)]


def _punctured(regions: list[Region], variable: str | None) -> list[Reading]:
    """x != 1 and x != 2: everything but both."""
    points = [
        region.intervals[0][2]
        for region in regions
        if len(region.intervals) == 2 and region.intervals[0][2] == region.intervals[1][0]
    ]
    return [_all_but(points, variable)] if len(points) == len(regions) else []


def _single(text: str, reference: bool) -> list[Reading]:
    """Readings of a text that is one answer: a relation, a ratio, or a quantity."""
    if builder := re.fullmatch(r"[a-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:]\s*(.+)", text):
        return [one for one in read(builder.group(1), reference) if isinstance(one, Region)]
    parts = split_top(text, _RELATION)
    if len(parts) > 1:
        signs = _RELATION.findall(_hide_brackets(text))
        if len(signs) == len(parts) - 1:
            return _relation(parts, signs, reference)
    if (named := re.fullmatch(r"\\text\{([^{}]{2,})\}\s*:\s*(.+)", text)) and not _NEGATION.search(text):
        return list(read(named.group(2), reference))
    if ratio := _ratio(text):
        return ratio
    if compound := _compound(text):
        return [compound]
    return _quantities(text, reference)


def _hide_brackets(text: str) -> str:
    """The text with everything inside brackets as dots, so that only outer signs are found."""
    shown, depth, index = [], 0, 0
    while index < len(text):
        two = text[index : index + 2]
        opening, closing = two == r"\{" or text[index] in "([{", two == r"\}" or text[index] in ")]}"
        step = 2 if two in (r"\{", r"\}") else 1
        depth -= closing
        shown.append("." * step if depth or opening or closing else text[index])
        depth += opening
        index += step
    return "".join(shown)


def _relation(parts: list[str], signs: list[str], reference: bool) -> list[Reading]:
    if any(not part for part in parts) or _NEGATION.search(" ".join(parts[:-1])):
        return []
    if len(parts) == 2 and signs == ["="] and _numeric_part(parts[0]) is not None and _numeric_part(parts[1]) is None:
        parts = parts[::-1]
    if signs[0] == r"\in" and len(parts) == 2:
        inner = read(parts[1], reference)
        regions = [Region(one.intervals, _name(parts[0])) for one in inner if isinstance(one, Region)]
        return [*regions, *(one for one in inner if isinstance(one, Group) and one.kind == "set")]
    if set(signs) <= _EQUALS:
        return _equality(parts, signs, reference)
    if region := _inequality(parts, signs):
        return [region]
    if len(parts) == 2:
        return [Relation(parts[0], signs[0], parts[1])]
    return []


def _equality(parts: list[str], signs: list[str], reference: bool) -> list[Reading]:
    """A value with a name, a chain of equal values, or an equation. A chain whose values differ has no reading."""
    constants = [(part, _numeric_part(part)) for part in parts]
    exact = [number for _, number in constants if number is not None]
    if len(exact) > 1 and "\\equiv" not in signs:
        for (first, second), sign in zip(
            zip(exact, exact[1:], strict=False), [*signs, "="] if False else signs[-(len(exact) - 1) :], strict=False
        ):
            if sign == "=" and not judging.equal_expressions(first, second):
                return []
            if sign == r"\approx" and not _roughly_equal(first, second):
                return []
    found: list[Reading] = []
    name = _name(parts[0]) if _numeric_part(parts[0]) is None else None
    if len(parts) == 2 and _numeric_part(parts[0]) is None and not re.search(r"\\text", parts[0]):
        found.append(Relation(parts[0], "=", parts[1]))
    if _may_be_name(parts[0], reference) or name is None:
        values = parts[1:] if r"\approx" in signs or len(parts) > 2 else parts[-1:]
        if name is None and r"\approx" in signs:
            values = parts
        for part in values if r"\approx" in signs else values[-1:]:
            for one in read(part, reference):
                found.append(Quantity(one.expression, one.unit, name) if isinstance(one, Quantity) else one)
    return found


def _numeric_part(part: str) -> str | None:
    """A chain's member without its unit, if it is a constant."""
    for one in _quantities(part, True):
        if isinstance(one, Quantity) and judging.is_constant(one.expression):
            scale = one.unit.factor if one.unit is not None and not one.unit.powers else 1
            return one.expression if scale == 1 else f"({one.expression}) \\cdot \\frac{{{scale.numerator}}}{{{scale.denominator}}}"
    return None


def _roughly_equal(first: str, second: str) -> bool:
    left, right = judging.value(first), judging.value(second)
    return left is not None and right is not None and abs(left - right) <= 0.01 * max(abs(left), abs(right))


def _name(text: str) -> str | None:
    """A left side as a name that can be compared: spaces and \\text gone."""
    return re.sub(r"\s+|\\text\{|[{}]", "", text) or None


def _may_be_name(text: str, reference: bool) -> bool:
    """Whether a left side can name the right side's value. Of a reference, only what is plainly a name can; 2x = 18 and
    x + 1 = 18 give x another value than 18."""
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


def _inequality(parts: list[str], signs: list[str]) -> Region | None:
    """Bounds on one variable as a region; None for other inequalities."""
    if absolute := _absolute(parts, signs):
        return absolute
    constant = [judging.is_constant(_strip_unit(part)) for part in parts]
    if constant == [False, True] or constant == [True, False]:
        variable, bound, sign = (
            (parts[0], parts[1], signs[0]) if constant[1] else (parts[1], parts[0], _FLIPPED.get(signs[0], ""))
        )
        if not _is_variable(variable):
            return None
        bound = _strip_unit(bound)
        name = _name(variable)
        if sign == r"\ne":
            return _all_but([bound], name)
        if sign in (">", r"\ge"):
            return Region(((bound, sign == r"\ge", r"\infty", False),), name)
        if sign in ("<", r"\le"):
            return Region(((r"-\infty", False, bound, sign == r"\le"),), name)
    if constant == [True, False, True] and _is_variable(parts[1]):
        ups, downs = {"<", r"\le"}, {">", r"\ge"}
        low, high = _strip_unit(parts[0]), _strip_unit(parts[2])
        if set(signs) <= ups:
            return Region(((low, signs[0] == r"\le", high, signs[1] == r"\le"),), _name(parts[1]))
        if set(signs) <= downs:
            return Region(((high, signs[1] == r"\ge", low, signs[0] == r"\ge"),), _name(parts[1]))
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


def _is_variable(text: str) -> bool:
    return bool(re.fullmatch(r"\s*(?:\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\s*\([a-z]\))?|\\text\{[^{}]*\})\s*", text))


def _strip_unit(text: str) -> str:
    return next(
        (one.expression for one in _quantities(text, True) if isinstance(one, Quantity) and one.unit is not None), text
    )


def _ratio(text: str) -> list[Reading]:
    parts = [part.strip() for part in re.split(r":|\\text\{to\}", text)]
    if len(parts) < 2 or not all(part and judging.is_readable(part) for part in parts):
        return []
    found: list[Reading] = [Ratio(tuple(parts))]
    clock = _CLOCK.fullmatch(text)
    if clock and clock.group(2):
        found.append(Clock(*(int(part or 0) for part in clock.groups()[:3]), None))
    if len(parts) == 2:
        found.append(Quantity(f"\\frac{{{parts[0]}}}{{{parts[1]}}}"))
    return found


def _compound(text: str) -> Quantity | None:
    """A quantity in several units of one dimension, such as 1 hour and 30 minutes: their sum, in the smallest."""
    number = r"(\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\})\s*\\text\{([^{}]+)\}"
    if not re.fullmatch(rf"{number}(?:\s*(?:,|\\text\{{and\}})?\s*{number})+", text):
        return None
    parts = [(judging.number(value), parse_unit(phrase)) for value, phrase in re.findall(number, text) if phrase != "and"]
    units = [unit for _, unit in parts]
    if len(units) < 2 or any(unit is None or not unit.powers or unit.powers != units[0].powers for unit in units):
        return None
    sizes = [unit.factor for unit in units]
    if sorted(set(sizes), reverse=True) != sizes:
        return None
    total = sum(value * size for (value, _), size in zip(parts, sizes, strict=True)) / sizes[-1]
    return Quantity(f"\\frac{{{total.numerator}}}{{{total.denominator}}}", units[-1])


def _quantities(text: str, reference: bool) -> list[Reading]:
    """Readings as an expression, with a unit after it or a currency before it."""
    currency = None
    money = re.match(r"(-?\s*)\\text\{([¤£€¥₹]|Rs|USD|EUR|GBP|INR|CNY|RMB)\}\s*", text)
    if money:
        currency = parse_unit(money.group(2))
        text = money.group(1).strip() + text[money.end() :]
    found: list[Reading] = []
    for expression, phrase in _unit_splits(text, reference):
        unit = parse_unit(phrase) if phrase else None
        if phrase and unit is None:
            continue
        if unit is not None and unit.scale != 1:
            expression = _scaled(expression, unit.scale)
            unit = Unit(unit.powers, unit.factor, unit.percent) if unit.powers else None
        if currency is not None:
            if unit is not None and unit.powers not in ((), currency.powers):
                continue
            unit = currency
        if expression and r"\text" not in expression:
            found.append(Quantity(_mixed(expression), unit))
            if phrase in {"pound", "pounds"}:
                found.append(Quantity(_mixed(expression), parse_unit("£")))
    return found


def _scaled(expression: str, scale: int) -> str:
    exact = judging.number(expression)
    if exact is None:
        return f"({expression}) \\cdot {scale}"
    exact *= scale
    return str(exact.numerator) if exact.denominator == 1 else f"\\frac{{{exact.numerator}}}{{{exact.denominator}}}"


def _unit_splits(text: str, reference: bool) -> list[tuple[str, str]]:
    """Where an expression may end and its unit begin: pairs of both, the unit as plain words."""
    number_end = r"(.*?(?:[\d)}\]!]|\\pi|\\infty|\b[a-z])\.?)\s*"
    suffix = r"((?:\^\\circ|\\?%|\\text\{[^{}]*\}|\^\{-?\d\}|[/.*]|\\cdot|[A-Za-z]+|\(|\)|-|\s)+)"
    found = re.fullmatch(number_end + rf"(?=\^\\circ|\\?%|\\text|[(]\s*\\text){suffix}", text)
    splits = []
    if found:
        phrase = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", found.group(2))
        phrase = (
            phrase.replace(r"^\circ", "°")
            .replace(r"\%", "%")
            .replace(r"\cdot", " ")
            .replace("(", " ")
            .replace(")", " ")
        )
        splits.append((found.group(1), re.sub(r"°\s+([CF])\b", r"°\1", phrase.strip())))
    elif not reference and (bare := re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*([mshgLlKNJWVA])(?:\^\{(\d)\})?", text)):
        splits.append((bare.group(1), bare.group(2) + (f"^{bare.group(3)}" if bare.group(3) else "")))
        splits.append((text, ""))
    else:
        splits.append((text, ""))
    return splits


def _mixed(expression: str) -> str:
    """A mixed number such as 2 2/3 or 2\\frac{2}{3} as a sum; other expressions as they are."""
    found = re.fullmatch(
        r"(-?)\s*(\d+)(?:\s+(\d+)\s*/\s*(\d+)|\s*\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\})", expression.strip()
    )
    if not found:
        return expression
    sign, whole, above, below, over, under = found.groups()
    numerator, denominator = int(above or over), int(below or under)
    if denominator == 0 or numerator >= denominator:
        return expression
    return f"{sign}\\frac{{{int(whole) * denominator + numerator}}}{{{denominator}}}"


def _words(text: str, reference: bool) -> list[Reading]:
    """The text as words, if words are what it consists of, not counting numbers."""
    rest = re.sub(r"\\text\{[^{}]*\}", " ", text)
    if re.fullmatch(r"[A-Za-z]{3,}" if reference else r"[A-Za-z]{2,}", text):
        return [Words(text.lower())]
    if r"\text" not in text or re.search(r"[\\=<>^_]|[a-zA-Z]{2,}", rest):
        return []
    plain = words_of(text)
    if len(re.sub(r"[^a-z]", "", plain)) < 2:
        return []
    found: list[Reading] = [Words(plain)]
    value = _NUMBER_WORDS.get(plain)
    if value is not None:
        found.append(Quantity(str(value)))
    return found
