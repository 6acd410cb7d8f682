"""Reads an answer that is one number or expression: its unit, and special notations of numbers."""

import re
from fractions import Fraction

from openrlhf_sfpo.tasks.mathematics import judging
from openrlhf_sfpo.tasks.mathematics.cleaning import words_of
from openrlhf_sfpo.tasks.mathematics.notations import residue_parts
from openrlhf_sfpo.tasks.mathematics.numerals import NUMBER_WORDS, spoken_number
from openrlhf_sfpo.tasks.mathematics.readings import Based, Clock, Quantity, Ratio, Reading, Residue
from openrlhf_sfpo.tasks.mathematics.units import Unit, parse_unit

_BASED = re.compile(r"\(?\s*(\d[\dA-F]*|[A-F][\dA-F]*\d[\dA-F]*)\s*\)?\s*_\s*(?:\{(.*)\}|\((\d+)\)|(\\text\{[^{}]*\}))")
_BASE_WORDS = re.compile(r"\(?\s*(\d[\dA-F]*)\s*\)?\s*\(?\s*\\text\{(?:in )?base\s?(\w*)\}\s*(\d*)\s*\)?")
# One letter after a number, which may be a unit or a variable.
_BARE_UNIT = re.compile(
    r"((?:[^A-Za-z\\]|\\(?:times|cdot|frac|sqrt|pi)(?![a-z]))+?)(\s*)"
    r"([mshgLlKNJWVA](?:\^\{-?\d\})?(?:\s*/\s*(?:min|hr|kg|[smhL])(?:\^\{\d\})?)?)"
)
_CLOCK = re.compile(
    r"(\d{1,2})(?:\s*:\s*(\d\d))?(?:\s*:\s*(\d\d))?\s*(?:\\text\{\s*([apAP])\.?\s*[mM]\.?\s*\}|\b([AaPp])[mM]\b)?"
)


def read_quantities(text: str, reference: bool) -> list[Reading]:
    """Read as an expression, with a unit after it or a currency before it."""
    currency = None
    money = re.match(r"(-?\s*)\\text\{([¤£€¥₹¢]|Rs|USD|EUR|GBP|INR|CNY|RMB)\}\s*", text)
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
    """The possible splits into expression and unit, the unit as plain words."""
    number_end = r"(.*?(?:[\d)}\]!]|\\pi|\\infty|\b[a-z])\.?)\s*"
    suffix = r"((?:\^\\circ|\\?%|\\text\{[^{}]*\}|\^\{-?\d\}|[/.*]|\\cdot|[A-Za-z]|\(|\)|-|\s)+)"
    found = re.fullmatch(number_end + rf"(?=\^\\circ|\\?%|\\text|[(]\s*\\text){suffix}", text)
    if found and all(found.group(1).count(one) == found.group(1).count(other) for one, other in ("()", "{}")):
        phrase = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", found.group(2)).replace(r"^\circ", "°").replace(r"\%", "%")
        phrase = re.sub(r"\\cdot|[()]", " ", phrase).strip()
        return [(found.group(1), re.sub(r"°\s+([CF])\b", r"°\1", phrase))]
    bare = _BARE_UNIT.fullmatch(text)
    if bare and (bare.group(2) or not reference):
        return [(bare.group(1), bare.group(3)), (text, "")]
    return [(text, "")]


def _mixed(expression: str) -> str:
    """A mixed number such as 2 2/3 or 2\\frac{2}{3} as a fraction; other expressions unchanged."""
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


def read_compound(text: str) -> Quantity | None:
    """A quantity in several units of one dimension, such as 1 hour and 30 minutes: their sum, in the smallest."""
    number = r"(\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\})\s*\\text\{([^{}]+)\}"
    if not re.fullmatch(rf"{number}(?:\s*(?:,|\\text\{{and\}})?\s*{number})+", text):
        return None
    pairs = [(value, phrase) for value, phrase in re.findall(number, text) if phrase != "and"]
    values = [exact for value, _ in pairs if (exact := judging.number(value)) is not None]
    units = [unit for _, phrase in pairs if (unit := parse_unit(phrase)) is not None]
    if len(pairs) < 2 or len(values) < len(pairs) or len(units) < len(pairs):
        return None
    if any(not unit.powers or unit.powers != units[0].powers for unit in units):
        return None
    sizes = [unit.factor for unit in units]
    if sorted(set(sizes), reverse=True) != sizes:
        return None
    total = sum((value * size for value, size in zip(values, sizes, strict=True)), Fraction(0)) / sizes[-1]
    return Quantity(f"\\frac{{{total.numerator}}}{{{total.denominator}}}", units[-1])


def read_spoken(text: str, plain: str) -> Quantity | None:
    """A number written as words. Without its article, "a third" would be an ordinal."""
    if re.sub(r"\\text\{[^{}]*\}|[aA]n?(?![a-zA-Z])|[-\s]", "", text):
        return None
    value = spoken_number(f"a {plain}" if re.match(r"(?:\\text\{\s*)?an?\b", text, re.IGNORECASE) else plain)
    if value is None:
        return None
    above, below = value.as_integer_ratio()
    return Quantity(str(above) if below == 1 else f"\\frac{{{above}}}{{{below}}}")


def read_residue(text: str) -> list[Reading]:
    r"""A value with its modulus: 7 \pmod{12}. An operation, 19 mod 12, is also a number."""
    parts = residue_parts(text)
    if parts is None or not all(judging.is_readable(part) for part in parts[:2]):
        return []
    value, modulus, is_statement = parts
    return [Residue(value, modulus), *([] if is_statement else read_quantities(text, True))]


def read_ratio(text: str) -> list[Reading]:
    parts = [part.strip() for part in re.split(r":|\\text\{to\}", text)]
    if len(parts) < 2 or not all(part and judging.is_readable(part) for part in parts):
        return []
    found: list[Reading] = [Ratio(tuple(parts))]
    clock = _CLOCK.fullmatch(text)
    if clock and clock.group(2):
        hour, minute, second = (int(part or 0) for part in clock.groups()[:3])
        found.append(Clock(hour, minute, second, None))
    if len(parts) == 2:
        found.append(Quantity(f"\\frac{{{parts[0]}}}{{{parts[1]}}}"))
    return found


def read_based(text: str) -> Based | None:
    """A number in a base: 385_9, (385)_{9}, 385_{nine}, 385 base 9."""
    found = _BASED.fullmatch(text) or _BASE_WORDS.fullmatch(text)
    if not found:
        return None
    digits, *bases = found.groups()
    base = words_of(next((part for part in bases if part), "")).removeprefix("base").strip()
    value = int(base) if base.isdigit() else NUMBER_WORDS.get(base)
    if value is None or not 2 <= value <= 36:
        return None
    return Based(digits.lstrip("0") or "0", value)


def read_clock(text: str) -> Clock | None:
    """A time of day with am or pm."""
    found = _CLOCK.fullmatch(text)
    if not found or not (found.group(4) or found.group(5)):
        return None
    hour, minute, second = (int(part or 0) for part in found.groups()[:3])
    return Clock(hour, minute, second, (found.group(4) or found.group(5)).lower() + "m")
