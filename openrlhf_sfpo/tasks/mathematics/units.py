"""Reads units of measure and of money, such as "square feet" or "km/h", and decides whether two are compatible."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

_LENGTHS: dict[str, int | str] = {
    "m": 1, "meter": 1, "metre": 1, "km": 1000, "kilometer": 1000, "kilometre": 1000, "cm": "0.01",
    "centimeter": "0.01", "centimetre": "0.01", "dm": "0.1", "decimeter": "0.1", "mm": "0.001", "millimeter": "0.001",
    "millimetre": "0.001", "nm": "1e-9", "nanometer": "1e-9", "micrometer": "1e-6", "micron": "1e-6",
    "in": "0.0254", "inch": "0.0254", "inches": "0.0254", "ft": "0.3048", "foot": "0.3048", "feet": "0.3048",
    "yd": "0.9144", "yard": "0.9144", "mi": "1609.344", "mile": "1609.344",
}  # fmt: skip
_TIMES: dict[str, int | str] = {
    "s": 1, "sec": 1, "second": 1, "ms": "0.001", "millisecond": "0.001", "microsecond": "1e-6", "min": 60,
    "minute": 60, "h": 3600, "hr": 3600, "hour": 3600, "day": 86400, "week": 604800,
}  # fmt: skip
_MASSES: dict[str, int | str] = {
    "g": 1, "gram": 1, "kg": 1000, "kilogram": 1000, "mg": "0.001", "milligram": "0.001", "microgram": "1e-6",
    "lb": "453.59237", "pound": "453.59237", "oz": "28.349523125", "ounce": "28.349523125", "ton": 1000000,
    "tonne": 1000000,
}  # fmt: skip
_VOLUMES: dict[str, int | str] = {
    "L": "0.001", "l": "0.001", "liter": "0.001", "litre": "0.001", "mL": "1e-6", "ml": "1e-6", "milliliter": "1e-6",
    "millilitre": "1e-6", "cc": "1e-6", "gallon": "0.003785411784", "gal": "0.003785411784",
}  # fmt: skip
_MONEY: dict[str, tuple[str, int | str]] = {
    "¤": ("dollar", 1), "usd": ("dollar", 1), "dollar": ("dollar", 1), "buck": ("dollar", 1),
    "cent": ("dollar", "0.01"), "penny": ("dollar", "0.01"), "pennies": ("dollar", "0.01"), "¢": ("dollar", "0.01"),
    "gbp": ("sterling", 1), "£": ("sterling", 1), "pence": ("sterling", "0.01"), "eur": ("euro", 1), "€": ("euro", 1),
    "euro": ("euro", 1), "¥": ("yen", 1), "yen": ("yen", 1), "jpy": ("yen", 1), "₹": ("rupee", 1), "rs": ("rupee", 1),
    "rupee": ("rupee", 1), "inr": ("rupee", 1), "yuan": ("yuan", 1), "rmb": ("yuan", 1), "cny": ("yuan", 1),
}  # fmt: skip
_OTHER: dict[str, tuple[str, int | str]] = {
    "month": ("month", 1), "year": ("month", 12), "yr": ("month", 12), "decade": ("month", 120),
    "century": ("month", 1200), "centuries": ("month", 1200),
    "degree": ("degree", 1), "deg": ("degree", 1), "°": ("degree", 1), "radian": ("radian", 1), "rad": ("radian", 1),
    "K": ("kelvin", 1), "kelvin": ("kelvin", 1), "celsius": ("celsius", 1), "fahrenheit": ("fahrenheit", 1),
    "°C": ("celsius", 1), "°F": ("fahrenheit", 1),
    "Hz": ("hertz", 1), "kHz": ("hertz", 1000), "N": ("newton", 1), "newton": ("newton", 1), "J": ("joule", 1),
    "joule": ("joule", 1), "kJ": ("joule", 1000), "eV": ("joule", "1.602176634e-19"), "W": ("watt", 1),
    "watt": ("watt", 1), "kW": ("watt", 1000), "V": ("volt", 1), "volt": ("volt", 1), "A": ("ampere", 1),
    "Pa": ("pascal", 1), "pascal": ("pascal", 1), "kPa": ("pascal", 1000), "MPa": ("pascal", 10**6), "mol": ("mole", 1),
    "ohm": ("ohm", 1), "mohm": ("ohm", "0.001"), "kohm": ("ohm", 1000), "Mohm": ("ohm", 10**6), "Gohm": ("ohm", 10**9),
    "kilohm": ("ohm", 1000), "megohm": ("ohm", 10**6), "MHz": ("hertz", 10**6), "GHz": ("hertz", 10**9),
    "mA": ("ampere", "0.001"), "mV": ("volt", "0.001"), "kV": ("volt", 1000), "MW": ("watt", 10**6),
    "MJ": ("joule", 10**6),
    "acre": ("acre", 1), "hectare": ("hectare", 1), "unit": ("unit", 1),
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_PERCENT = {"%", "percent", "percentage", "pct"}
_RATES = {"mph": ("mile", "hour"), "kmph": ("km", "hour"), "kph": ("km", "hour"), "kmh": ("km", "hour")}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_SUFFIXES = {"squared": 2, "cubed": 3}
# Symbols that may also be variables after a number, with or without a space.
_LIKE_VARIABLES = {"m", "s", "h", "g", "L", "l", "K", "N", "J", "W", "V", "A", "rs"}
# With one of these words, the text after a number is more than the name of what is counted.
_SAYS_MORE = {
    "not", "no", "or", "and", "except", "if", "when", "where", "for", "than", "without", "but", "is", "are", "wrong",
    "incorrect", "false", "unknown", "maybe", "perhaps", "possibly", "more", "less", "fewer", "at", "least", "most",
    "between", "either", "neither", "nor", "plus", "minus", "times", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten",
}  # fmt: skip
_FILLERS = {"a", "an", "the", "of", "in", "total", "about", "each", "different", "distinct", "possible", "old", "long"}


@dataclass(frozen=True)
class Unit:
    """A unit: powers of its dimensions, and its size in their base units.

    Attributes:
        powers: pairs of a dimension's name and its power, sorted. Counted things ("apples") are dimensions, too.
        factor: its size in base units; for percent, 1/100.
        percent: whether it is percent, which many answers omit.
        scale: factor on the number before it: "million" is a part of the number.
    """

    powers: tuple[tuple[str, int], ...]
    factor: Fraction
    percent: bool = False
    scale: int = 1


@cache
def _known() -> dict[str, tuple[str, int, Fraction]]:
    """Every unit with its dimension, the dimension's power, and its size."""
    table: dict[str, tuple[str, int, Fraction]] = {}
    for group, dimension, power in (
        (_LENGTHS, "length", 1),
        (_TIMES, "time", 1),
        (_MASSES, "mass", 1),
        (_VOLUMES, "length", 3),
    ):
        table.update({name: (dimension, power, Fraction(size)) for name, size in group.items()})
    for named in (_MONEY, _OTHER):
        table.update({name: (dimension, 1, Fraction(size)) for name, (dimension, size) in named.items()})
    return table


def is_unit_symbol(word: str, separated: bool) -> bool:
    """Whether letters after a number outside \\text are a unit instead of variables.

    Args:
        word: the letters.
        separated: whether a space precedes them.
    """
    if word in _LIKE_VARIABLES or (word == "in" and not separated):
        return False
    return word in _SCALES or word in _PERCENT or word in _RATES or _lookup(word) is not None


@cache
def parse_unit(phrase: str) -> Unit | None:
    """The unit that a phrase after a number means; None if it is more than a unit or a counted thing.

    Args:
        phrase: plain words and symbols, powers as `^2`, such as `km/h`, `square feet`, `sq. units` or `apples`.
    """
    return _PhraseReader().read(phrase)


class _PhraseReader:
    """Reads one phrase, word by word.

    Attributes:
        powers: the dimensions' powers so far.
        sign: -1 after "per" or a slash.
        pending: the power that "square" or "cubic" gives the next unit.
        last: the previous unit, which a following power refers to: dimension, its power in it, size, and sign.
    """

    def __init__(self) -> None:
        self.powers: dict[str, int] = {}
        self.factor, self.scale, self.percent = Fraction(1), 1, False
        self.counted: list[str] = []
        self.sign, self.pending = 1, 1
        self.last: tuple[str, int, Fraction, int] | None = None

    def read(self, phrase: str) -> Unit | None:
        phrase = re.sub(r"\^\{(-?\d)\}", r"^\1", phrase.replace("*", " ").replace("per cent", "percent").strip(" .,"))
        for token in re.findall(r"/|°[CF]\b|[°%¢£€¥₹¤]|\^-?\d|[A-Za-z]+(?:-[A-Za-z]+)*|\S", phrase):
            if not self._take(token, token.lower()):
                return None
        if self.percent and "point" in self.counted:
            self.counted = []
        if len(self.counted) > 3:
            return None
        if self.counted:
            self.powers[f"counted {' '.join(self.counted)}"] = 1
        powers = tuple(sorted((name, power) for name, power in self.powers.items() if power))
        return Unit(powers, self.factor, self.percent, self.scale)

    def _take(self, token: str, word: str) -> bool:
        """Process one word; return False if the phrase is then not a unit."""
        if word in _SAYS_MORE and word != "in":
            return False
        if token == "/" or word == "per":
            self.sign, self.last = -1, None
        elif word in _POWERS:
            self.pending = _POWERS[word]
        elif word in _SUFFIXES or token.startswith("^"):
            return self._raise(_SUFFIXES[word] if word in _SUFFIXES else int(token[1:]))
        elif word in _PERCENT:
            self.factor, self.percent = self.factor / 100, True
        elif word in _SCALES:
            self.scale *= _SCALES[word]
        elif word in _RATES:
            distance, time = _RATES[word]
            self._multiply(_lookup(distance))
            self.sign = -1
            self._multiply(_lookup(time))
        elif (found := _lookup(token)) is not None:
            self._multiply(found)
        elif re.fullmatch(r"[A-Za-z]+(?:-[A-Za-z]+)*", token):
            self.counted += [] if word in _FILLERS else [_stem(word)]
        else:
            return token == "."
        return True

    def _multiply(self, found: tuple[str, int, Fraction] | None) -> None:
        assert found is not None
        dimension, exponent, size = found
        self.powers[dimension] = self.powers.get(dimension, 0) + self.sign * exponent * self.pending
        self.factor *= size ** (self.sign * self.pending)
        self.last = (dimension, exponent, size, self.sign)
        self.pending = 1

    def _raise(self, power: int) -> bool:
        if self.last is None:
            return False
        dimension, exponent, size, sign = self.last
        self.powers[dimension] += sign * exponent * (power - 1)
        self.factor *= size ** (sign * (power - 1))
        return True


def compatible(one: Unit, other: Unit) -> bool:
    """Whether quantities in the two units are comparable: same dimensions; plain "units" match any length; and one of
    two counted things may be named more precisely ("ways", "different ways")."""
    first, second = dict(one.powers), dict(other.powers)
    if first == second:
        return True
    for generic, exact in ((first, second), (second, first)):
        if set(generic) == {"unit"} and set(exact) == {"length"} and generic["unit"] == exact["length"]:
            return True
    counted = [set(name.split()[1:]) for powers in (first, second) for name in powers if name.startswith("counted ")]
    return (
        len(first) == len(second) == 1 and len(counted) == 2 and (counted[0] <= counted[1] or counted[1] <= counted[0])
    )


def same_size(one: Unit, other: Unit) -> Fraction:
    """The ratio of the two units' sizes; 1 if one of them is plain "units", which have no size."""
    return (
        Fraction(1)
        if {"unit"} & ({name for name, _ in one.powers} ^ {name for name, _ in other.powers})
        else (one.factor / other.factor)
    )


def _lookup(word: str) -> tuple[str, int, Fraction] | None:
    known = _known()
    if word in known:
        return known[word]
    lower = word.lower()
    for name in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        # Symbols of one or two letters are case-sensitive; words are not.
        if name in known and (len(name) > 2 or name in {"ft", "lb", "hr", "yd", "yr", "oz", "rs", "in"}):
            return known[name]
    return None


def _stem(word: str) -> str:
    """A noun without its plural ending, roughly; used for comparing only."""
    irregular = {"people": "person", "children": "child", "men": "man", "women": "woman", "feet": "foot"}
    if word in irregular:
        return irregular[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ses", "xes", "ches", "shes"):
        if word.endswith(ending):
            return word[:-2]
    return word.removesuffix("s") if len(word) > 3 else word
