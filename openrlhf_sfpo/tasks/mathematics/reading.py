"""Finds what a cleaned answer may mean: a quantity, a list, a set, an interval, a choice, words, ...

`read` returns all plausible readings, because the same characters can mean several things: (1, 2) is a point or an open
interval, 1,241 one number or two, and C a variable or a choice. The comparison shows which one was meant.
"""

import re
from dataclasses import replace
from functools import lru_cache

from openrlhf_sfpo.tasks.mathematics import judging
from openrlhf_sfpo.tasks.mathematics.brackets import hide_brackets, inside_brackets, is_bracketed
from openrlhf_sfpo.tasks.mathematics.cleaning import split_top, words_of
from openrlhf_sfpo.tasks.mathematics.notations import transposed_part
from openrlhf_sfpo.tasks.mathematics.quantities import (
    read_based,
    read_clock,
    read_compound,
    read_quantities,
    read_ratio,
    read_residue,
    read_spoken,
)
from openrlhf_sfpo.tasks.mathematics.readings import (
    Choice,
    Group,
    Letters,
    Matrix,
    Quantity,
    Reading,
    Region,
    Relation,
    Residue,
    Words,
)
from openrlhf_sfpo.tasks.mathematics.relations import (
    all_but,
    combine,
    intersect,
    is_consistent,
    may_be_name,
    name_of,
    numeric_part,
    read_inequality,
)

_AND = r"(?:[,;]\s*)?\\text\{(?:and|&)\}"
_OR = r"(?:[,;]\s*)?\\text\{or\}"
_COMMA = re.compile(rf"{_AND}|{_OR}|[,;]|\\cup(?=\s*\\\{{)|\\q?quad")
_ONLY_OR = re.compile(_OR)
_CUP = re.compile(r"\\cup(?![a-zA-Z])|\bU\b(?=\s*[(\[])")
_RELATION = re.compile(r"\\(?:le|ge|ne|approx|in|equiv)(?![a-zA-Z])|[=<>]")
_EQUALS = {"=", r"\approx", r"\equiv"}
_THOUSANDS = re.compile(r"(-?(?!0)\d{1,3}(?:,\d{3})+|-?\d{1,2}(?:,\d{2})+,\d{3})(\.\d+)?")
_DOTTED = re.compile(r"(-?\d{1,3}(?:\.\d{3}){2,}|-?\d{1,3}(?:\.\d{3})+(?=,)|-?\d{1,3}(?: \d{3})+(?=,))(?:,(\d+))?")
# Readings for the next two sets.
NO_SOLUTION, UNDEFINED = "no solution", "undefined"
_NOTHING = {
    "no solution", "no solutions", "no real solution", "no real solutions", "none", "empty set", "empty", r"\emptyset",
    r"\{\}",
}  # fmt: skip
_UNDEFINED = {"undefined", "dne", "does not exist"}
_MATRIX = re.compile(
    r"(.*?)([(\[|]?)\s*\\begin\{([pbvBV]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\3\}\s*([)\]|]?)",
    re.DOTALL,
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
        reference: whether it is the reference answer, which is read literally; a response's answer is read more
            leniently, such as with a decimal comma, or a single letter after a number as a unit.
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
    if re.search(r"\\(?:pm|mp)(?![a-zA-Z])", text):
        return tuple(_both_signs(text, reference))
    found += _bracketed(text, reference)
    if not is_bracketed(text):
        is_number = reference and "," in text and "," not in _without_thousands(text)
        found += (not is_number and _listed(text, reference)) or _single(text, reference)
    found += _words(text, reference)
    return tuple(dict.fromkeys(found))


def _special(text: str, reference: bool) -> tuple[Reading, ...]:
    """Readings of unambiguous forms."""
    plain = words_of(text)
    if plain in _NOTHING or text in _NOTHING:
        return (Words(NO_SOLUTION),)
    if plain in _UNDEFINED:
        return (Words(UNDEFINED),)
    if plain in _REALS or text in _REALS:
        return (Region(((r"-\infty", False, r"\infty", False),)),)
    if found := (read_based(text) or _matrix(text, reference)):
        return (found,)
    if (base := transposed_part(text)) and (turned := _transposed(read(base, reference))):
        return (turned,)
    if (value := read_spoken(text, plain)) is not None:
        return (Words(plain), value)
    if letters := re.fullmatch(r"(?:\\(?:text|overline|overrightarrow|overleftrightarrow)\{)?([A-Z]{2,}'*)\}?", text):
        return (Letters(letters.group(1)),)
    clock = read_clock(text)
    return (clock,) if clock else ()


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


def _transposed(readings: tuple[Reading, ...]) -> Reading | None:
    """A matrix transposed, or a row of numbers as a column, which is a tuple; None if there is neither."""
    for one in readings:
        if isinstance(one, Matrix) and len({len(row) for row in one.rows}) == 1:
            return Matrix(tuple(zip(*one.rows, strict=True)), one.determinant)
        if isinstance(one, Group) and one.kind in {"tuple", "brackets"}:
            nested = any(isinstance(inner, Group) for item in one.items for inner in item)
            return None if nested else Group("tuple", one.items)
    return None


def _choices(text: str, reference: bool) -> list[Reading]:
    plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    if bare := re.fullmatch(r"([(\[]?)\s*([A-Za-z])\s*[)\].:]*", plain):
        return [Choice(bare.group(2), (), bool(bare.group(1)))]
    if (spaced := re.fullmatch(r"\\text\{([A-Z])\}\s+([\d\\(-].*)", text)) and not re.match(r"\\text", spaced.group(2)):
        return [Choice(spaced.group(1), read(spaced.group(2), reference))]
    if named := _NAMED_CHOICE.fullmatch(text):
        return [Choice(named.group(1))]
    labelled = _LABELLED.fullmatch(text)
    if labelled and labelled.group(4) and (labelled.group(1) or labelled.group(3)[:1] in ").:"):
        after = labelled.group(4).strip()
        if labelled.group(3).startswith(":") and not labelled.group(1) and re.match(r"[A-Z]\s*:", after):
            return []
        if (
            re.match(r"[-+*/^=<>,|]|\\(?:cdot|times|cup|cap|le|ge|in)(?![a-zA-Z])", after)
            and labelled.group(1)
            and r"\text" not in text
        ):
            return []
        if re.match(r"\\text\{(?:or|and)\b", after):
            return []
        rest = read(after, reference) if not re.fullmatch(r"(?:\\text\{)?\(?[A-Za-z]\)?\}?", after) else ()
        return [Choice(labelled.group(2), rest), *(rest if not reference else ())]
    return []


def _separated_number(text: str, reference: bool) -> list[Reading]:
    """Readings of commas and dots inside numbers as thousands separators or as a decimal comma."""
    found: list[Reading] = []
    joined = _without_thousands(text)
    if joined != text and not (is_bracketed(text) and "," not in joined) and _are_thousands(joined, text):
        found += read(joined, reference)
    if dotted := _DOTTED.fullmatch(text):
        whole, part = dotted.groups()
        found.append(Quantity(re.sub(r"[. ]", "", whole) + (f".{part}" if part else "")))
    if not reference and (comma := re.fullmatch(r"(-?\d+),(\d+)(.*)", text)) and "," not in comma.group(3):
        whole, part, after = comma.groups()
        if len(part) != 3 or whole in {"0", "-0"}:
            found += [one for one in read(f"{whole}.{part}{after}", reference) if isinstance(one, Quantity)]
    return found


def _without_thousands(text: str) -> str:
    return re.sub(
        rf"(?<![\d.,])(?:{_THOUSANDS.pattern})(?!\d)(?!,\d)(?!\.\d)", lambda one: one.group().replace(",", ""), text
    )


def _are_thousands(joined: str, text: str) -> bool:
    """Whether commas without a space are thousands separators: the text is one number, or its other commas are followed
    by spaces."""
    return "," not in joined or bool(re.search(r",\s", text))


def _bracketed(text: str, reference: bool) -> list[Reading]:
    parts = inside_brackets(text)
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
        joined = [read(part, reference) for part in split_top(re.sub(r"^[a-zA-Z]\s*\\in", "", text), _CUP)]
        united = [region for part in joined if (region := _region(part) or _points(part))]
        if len(joined) > 1 and len(united) == len(joined):
            return [Region(tuple(interval for region in united for interval in region.intervals))]
    if without := re.fullmatch(r"(?:([a-zA-Z])\s*\\in\s*)?(.+?)\s*(?:\\setminus|-|\\backslash)\s*\\\{(.*)\\\}", text):
        others = all_but([part.strip() for part in without.group(3).split(",")], without.group(1))
        whole = [one for one in read(without.group(2), reference) if isinstance(one, Region)]
        return [Region(intersect(one.intervals, others.intervals), without.group(1)) for one in whole[:1]]
    if unequal := re.fullmatch(r"([a-zA-Z])\s*\\ne\s*((?:(?!\\ne)[^=<>])+)", text):
        points = split_top(unequal.group(2), _COMMA)
        if len(points) > 1 and all(map(_is_bound, points)):
            return [all_but(points, unequal.group(1))]
    excepted = re.fullmatch(r"\\text\{all real(?: number| value)?s?(?: of x| x)? except(?: for)?\}\s*(.*)", text)
    if excepted:
        points = split_top(re.sub(r"[a-z]\s*=", "", excepted.group(1)), _COMMA)
        return [all_but(points, None)] if all(map(_is_bound, points)) else []
    parts = split_top(text, _COMMA)
    if len(parts) == 1:
        return []
    if any(not part for part in parts):
        return []
    found: list[Reading] = []
    readings = tuple(read(part, reference) for part in parts)
    regions = [region for part in readings if (region := _region(part))]
    if len(regions) == len(parts):
        found += combine(regions, _joint(text, parts))
    constants = [constant for part in parts if (constant := numeric_part(part))]
    if (
        len(constants) == len(parts)
        and _joint(text, parts) == "or"
        and all(judging.equal_expressions(constants[0], other) for other in constants[1:])
    ):
        found += readings[0]  # one value in two forms
    if compound := read_compound(text):
        found.append(compound)
    found.append(Group("list", readings))
    if found_mixed := re.fullmatch(r"(-?\d+)\s*\\text\{and\}\s*(\\frac\{\d+\}\{\d+\}|\d+/\d+)(.*)", text):
        found += read(f"{found_mixed.group(1)} {found_mixed.group(2)}{found_mixed.group(3)}", reference)
    return found


def _joint(text: str, parts: list[str]) -> str:
    """What joins the parts of a list: "or", "and", or a comma. Intervals in a list make a union, with "and" too."""
    if len(split_top(text, _ONLY_OR)) == len(parts) or all(is_bracketed(part) for part in parts):
        return "or"
    return "and" if r"\text{and}" in text else ","


def _region(readings: tuple[Reading, ...]) -> Region | None:
    """The first reading that is a region."""
    return next((one for one in readings if isinstance(one, Region)), None)


def _points(readings: tuple[Reading, ...]) -> Region | None:
    """A finite set of numbers as a region, to be joined with intervals."""
    group = next((one for one in readings if isinstance(one, Group) and one.kind == "set"), None)
    if group is None:
        return None
    firsts = [next((one.expression for one in item if isinstance(one, Quantity)), None) for item in group.items]
    values = [value for value in firsts if value]
    return Region(tuple((value, True, value, True) for value in values)) if len(values) == len(firsts) else None


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


def _single(text: str, reference: bool) -> list[Reading]:
    """Readings of a text with a single answer: a relation, a ratio, or a quantity."""
    if builder := re.fullmatch(r"[a-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:]\s*(.+)", text):
        return [one for one in read(builder.group(1), reference) if isinstance(one, Region)]
    parts = split_top(text, _RELATION)
    if len(parts) > 1:
        signs = _RELATION.findall(hide_brackets(text))
        if len(signs) == len(parts) - 1:
            return _relation(parts, signs, reference)
    if (named := re.fullmatch(r"\\text\{([^{}]{2,})\}\s*:\s*(.+)", text)) and not _NEGATION.search(text):
        return list(read(named.group(2), reference))
    sentence = re.fullmatch(
        r"\\text\{(?:(?:[A-Za-z' ]+ )?(?:is|are|equals|be)|approximately|about|roughly)\}\s*(.+)", text
    )
    if sentence and not _NEGATION.search(text):
        return list(read(sentence.group(1), reference))
    if residue := read_residue(text):
        return residue
    if ratio := read_ratio(text):
        return ratio
    if compound := read_compound(text):
        return [compound]
    return read_quantities(text, reference)


def _relation(parts: list[str], signs: list[str], reference: bool) -> list[Reading]:
    if any(not part for part in parts) or _NEGATION.search(" ".join(parts[:-1])):
        return []
    if len(parts) == 2 and signs == ["="] and numeric_part(parts[0]) is not None and numeric_part(parts[1]) is None:
        parts = parts[::-1]
    if signs[0] == r"\in" and len(parts) == 2:
        inner = read(parts[1], reference)
        regions = [Region(one.intervals, name_of(parts[0])) for one in inner if isinstance(one, Region)]
        return [*regions, *(one for one in inner if isinstance(one, Group) and one.kind == "set")]
    if set(signs) <= _EQUALS:
        return _equality(parts, signs, reference)
    if region := read_inequality(parts, signs):
        return [region]
    if len(parts) == 2:
        return [Relation(parts[0], signs[0], parts[1])]
    return []


def _equality(parts: list[str], signs: list[str], reference: bool) -> list[Reading]:
    """A value with a name, a chain of equal values, or an equation. A chain whose values differ has no reading."""
    if not is_consistent(parts, signs):
        return []
    found: list[Reading] = []
    name = name_of(parts[0]) if numeric_part(parts[0]) is None else None
    if len(parts) == 2 and name is not None and r"\text" not in parts[0]:
        found.append(Relation(parts[0], "=", parts[1]))
    if name is not None and not may_be_name(parts[0], reference):
        return found
    values = parts[-1:]
    if r"\approx" in signs:
        values = parts if name is None else parts[1:]
    for value in values:
        for one in read(value, reference):
            found.append(replace(one, name=name) if isinstance(one, Quantity | Residue) else one)
    return found


def _words(text: str, reference: bool) -> list[Reading]:
    """The text as words, if it consists of words, not counting numbers."""
    rest = re.sub(r"\\text\{[^{}]*\}", " ", text)
    if re.fullmatch(r"[A-Za-z]{3,}" if reference else r"[A-Za-z]{2,}", text):
        return [Words(text.lower())]
    if r"\text" not in text or re.search(r"[\\=<>^_]|[a-zA-Z]{2,}", rest):
        return []
    plain = words_of(text)
    if len(re.sub(r"[^a-z]", "", plain)) < 2:
        return []
    return [Words(plain)]
