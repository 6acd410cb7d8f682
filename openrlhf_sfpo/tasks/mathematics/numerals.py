"""Reads numbers written as words."""

import re
from fractions import Fraction

_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
NUMBER_WORDS = {word: value for value, word in enumerate(_SMALL)} | _TENS
_SCALES = (("million", 10**6), ("thousand", 1000), ("hundred", 100))
_PARTS = {
    "half": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "twentieth": 20, "hundredth": 100,
}  # fmt: skip


def spoken_number(words: str) -> Fraction | None:
    """The number in lower-case words without hyphens, such as "minus twenty five", "one hundred and two" or "two
    thirds"; None for anything else."""
    for sign in ("minus ", "negative "):
        if words.startswith(sign):
            value = spoken_number(words.removeprefix(sign))
            return None if value is None else -value
    if words == "half":
        return Fraction(1, 2)
    whole, found, part = words.rpartition(" and a")
    fraction = spoken_number(f"a{part}") if found and re.match("n? ", part) else None
    if fraction is not None:  # two and a half
        count = _whole(whole)
        return None if count is None else count + fraction
    above, _, part = words.rpartition(" ")
    parts = _PARTS.get(part.replace("halves", "half").removesuffix("s"))
    if parts is None or not above:
        return _whole(words)
    count = Fraction(1) if above in ("a", "an") else _whole(above)
    return None if count is None else count / parts


def _whole(words: str) -> Fraction | None:
    for scale, size in _SCALES:
        above, found, below = f" {words} ".partition(f" {scale} ")
        if found:
            count = Fraction(1) if above.strip() in ("", "a", "one") else _whole(above.strip())
            rest = _whole(below.strip().removeprefix("and ")) if below.strip() else Fraction(0)
            if count is None or rest is None or count >= 1000 or rest >= size:
                return None
            return count * size + rest
    tens, _, ones = words.partition(" ")
    if ones:
        return Fraction(_TENS[tens] + _SMALL.index(ones)) if tens in _TENS and ones in _SMALL[1:10] else None
    value = NUMBER_WORDS.get(words)
    return None if value is None else Fraction(value)
