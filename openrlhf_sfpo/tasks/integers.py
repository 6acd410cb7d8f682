"""Finds integers in a text, in the notations of people and models."""

import re
from fractions import Fraction

_DIGITS = r"\d+"
# 1,234  1{,}234  1\,234  1'234  1_234  and thin or unbreakable spaces.
_GROUPED = r"\d{1,3}(?:(?:,|\{,\}|\\,|['_\u00a0\u2009\u202f])\d{3})+(?!\d)"
# A plain space also separates the numbers of a list; then more numbers follow or precede.
_SPACED = r"(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?! ?\d)"
_WHOLE = rf"(?:{_GROUPED}|{_SPACED}|{_DIGITS})"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d+)?|(?<![\w.)\]}}])\.\d+)"
_TIMES_TEN = r"\s*(?:\\times|\\cdot|[\u00d7\u00b7*xX])\s*10"
_POWER_OF_TEN = (
    rf"(?:{_TIMES_TEN}\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<ten>[-+]?\d+)\s*\}}|(?P<ten1>[-+]?\d+))"
    r"|[eE](?P<ten2>[-+]?\d+)(?!\w))"
)
_MINUS = r"\-\u2212\u2010\u2011\u2013\ufe63\uff0d"
# A dash after an operand is a minus between two numbers, or a hyphen; in "= - 4" it is a sign.
_SIGN = rf"(?:(?<![\w)\]}}.{_MINUS}])[{_MINUS}]|(?<==)\s*[{_MINUS}]\s*|(?<=\s)[{_MINUS}](?=[\d.\\]))"
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})?[$€£¥]?"
    rf"(?:\\[dt]?frac\s*(?:\{{\s*(?P<top>[-+]?\d+)\s*\}}|(?P<top1>\d))\s*(?:\{{\s*(?P<bottom>\d+)\s*\}}|(?P<bottom1>\d))"
    rf"|(?P<number>{_DECIMAL})(?P<rest>(?:\.\d+)+)?{_POWER_OF_TEN}?"
    rf"(?:(?P<slash>\s?/\s?)(?P<divisor>{_DECIMAL}))?"
    rf"(?:\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<power>[-+]?\d+)\s*\}}|(?P<power1>[-+]?\d+)))?"
    rf"(?P<mixed>\s+\d+/\d+)?)"
)
_SEPARATORS = re.compile(r"\{,\}|\\,|[ ,'_\u00a0\u2009\u202f]")
# Python refuses to convert longer integers, and no answer is that long.
_MAX_DIGITS = 4000


def last_integer(text: str) -> int | None:
    """The last integer in the text.

    Thousands separators, Unicode digits and minus signs, and notations of integers such as 5.0, 8/2, 1e3, 2^5 and
    $1,234.00 are understood. Digits of a number that is not an integer (3.5, 3/4, 1e-3) do not count.
    """
    found = None
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None and value.denominator == 1:
            found = int(value)
    return found


def _value(match: re.Match[str]) -> Fraction | None:
    """The number; None for something else, such as 1.2.3, or a number too long to be an answer."""
    if len(match[0]) > _MAX_DIGITS or match["rest"] or match["mixed"]:
        return None
    if match["number"] is None:
        bottom = int(match["bottom"] or match["bottom1"])
        value = Fraction(int(match["top"] or match["top1"]), bottom) if bottom else None
    else:
        value = _decimal(match["number"])
        ten = match["ten"] or match["ten1"] or match["ten2"]
        value = _raised(Fraction(10), ten, value) if ten else value
        if match["divisor"] and value is not None:
            divisor = _decimal(match["divisor"])
            value = value / divisor if divisor else None
        power = match["power"] or match["power1"]
        value = _raised(value, power) if power and value is not None else value
    return -value if value is not None and match["sign"] else value


def _decimal(text: str) -> Fraction:
    return Fraction(_SEPARATORS.sub("", text))


def _raised(base: Fraction, exponent: str, factor: Fraction = Fraction(1)) -> Fraction | None:
    """factor * base ** exponent; None if the result is too long."""
    power = int(exponent)
    digits = max(base.numerator.bit_length(), base.denominator.bit_length()) / 3.3
    if abs(power) * digits > _MAX_DIGITS or (base == 0 and power < 0):
        return None
    return factor * base**power
