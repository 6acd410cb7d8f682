"""Wrong answers that look like a reference answer, by its kind; see `rewritings`."""

import re
from collections.abc import Callable
from fractions import Fraction

from answer_kinds import GE, Pair, bounds_of, kind_of, parts_of

_OTHER_UNIT = {
    "feet": "inches", "inches": "feet", "cm": "m", "m": "km", "km": "m", "miles": "feet", "hours": "minutes",
    "minutes": "hours", "dollars": "cents", "cents": "dollars", "days": "hours", "pounds": "ounces",
    "degrees": "radians", "gallons": "pints", "square": "cubic", "cubic": "square", "mph": "km/h", "years": "months",
    "min": "h",
}  # fmt: skip


def wrongly_boxed(label: str, kind: str) -> list[Pair]:
    """Responses that contain the reference, but do not give it as their answer."""
    made = [
        ("a later box", rf"One gets $\boxed{{{label}}}$, but this is wrong: the answer is $\boxed{{-17}}$."),
        ("not in a box", rf"The answer is ${label}$."),
        ("two answers", rf"The answer is $\boxed{{-17}}$ or $\boxed{{{label}}}$."),
        ("two answers", rf"\boxed{{{label} \text{{ or }} -17}}"),
        ("a negation", rf"\boxed{{\text{{not }} {label}}}"),
    ]
    if kind in {"integer", "large", "fraction", "radical", "decimal"}:
        made.append(("a false chain", rf"$\boxed{{-17 = {label}}}$"))
        made.append(("a multiple", rf"$\boxed{{2x = {label}}}$"))
    return made


def perturbed(label: str) -> list[Pair]:
    """The reference with a number or the sign changed, digits swapped, or a fraction inverted or rounded."""
    made: list[Pair] = []
    spots = [found for found in re.finditer(r"\d+", label) if not re.search(r"[_^]\{?$", label[: found.start()])]
    if kind_of(label) in {"clock", "choice", "words"}:
        return []
    for found in spots[:2]:
        number = int(found.group())
        for other in (number + 1, 3 * number + 8 if "." in label[: found.start()] else number * 10 or 3):
            made.append(("another number", label[: found.start()] + str(other) + label[found.end() :]))
    if re.fullmatch(r"[1-9]\d*|\\[dt]?frac\{\d+\}\{\d+\}|\d+\\sqrt\{\d+\}", label):
        made.append(("another sign", f"-{label}"))
    elif re.fullmatch(r"-(?:\d+|\\[dt]?frac\{\d+\}\{\d+\})", label) and label != "-0":
        made.append(("another sign", label[1:]))
    if re.fullmatch(r"\d{2,}", label) and label != label[::-1]:
        made.append(("digits swapped", label[::-1]))
    if re.fullmatch(r"\\[dt]?frac\{\d+\}\{\d+\}", label):
        over, under = re.findall(r"\d+", label)
        if over != under:
            made.append(("upside down", rf"\frac{{{under}}}{{{over}}}"))
            made.append(
                ("a rounded value", f"{int(over) / int(under):.2f}")
                if Fraction(f"{int(over) / int(under):.2f}") != Fraction(int(over), int(under))
                else made[-1]
            )
    return made


def wrong_of_kind(kind: str, label: str) -> list[Pair]:
    """Typical wrong answers for a kind."""
    rules: dict[str, Callable[[str], list[Pair]]] = {
        "integer": _wrong_integers, "tuple": _wrong_tuples, "interval": _wrong_intervals, "matrix": _wrong_matrices,
        "list": _wrong_lists, "degrees": _wrong_degrees, "units": _wrong_units, "money": _wrong_money,
        "percent": _wrong_percent, "base": _wrong_bases, "words": _wrong_words, "choice": _wrong_choices,
        "assignment": _wrong_assignments, "clock": _wrong_clocks, "ratio": _wrong_ratios, "large": _wrong_large,
        "formula": _wrong_formulas, "union": _wrong_unions,
    }  # fmt: skip
    return rules[kind](label) if kind in rules else []


def _wrong_integers(label: str) -> list[Pair]:
    value = int(label)
    return [
        ("a tiny difference", f"{label}.001"),
        *([("a scale", rf"{label}\text{{ million}}")] if value else []),
        ("a power", f"{label} \\times 10^{{-3}}" if value else "1"),
        ("a chain", f"{value + 1} = {value}"),
        ("a list", f"{label}, {value + 1}"),
        ("a bound", f"x > {label}"),
        ("a sum", f"{label} + x"),
    ]


def _wrong_large(label: str) -> list[Pair]:
    digits = re.sub(r"[^\d-]", "", label)
    return [
        ("a wrong power", f"{digits}e3"),
        ("digits lost", digits[:-3]),
        ("a wrong power", f"{digits[:-1]}.{digits[-1]}"),
        ("digits after a space", f"{digits} 7"),
        ("the last digit", str(int(digits) + 1)),
    ]


def _wrong_tuples(label: str) -> list[Pair]:
    parts = parts_of(label)
    made = [
        ("brackets", rf"\{{{', '.join(parts)}\}}"),
        ("a part missing", f"({', '.join(parts[:-1])})"),
        ("a part too many", f"({', '.join([*parts, '0'])})"),
    ]
    if parts != parts[::-1]:
        made.append(("the order", f"({', '.join(reversed(parts))})"))
    if len(parts) == 2:
        made.append(("brackets", f"[{', '.join(parts)}]"))
    return made


def _wrong_intervals(label: str) -> list[Pair]:
    opening, start, end, closing = bounds_of(label)
    made = []
    if "infty" not in start:
        made.append(("open or closed", f"{'(' if opening == '[' else '['}{start}, {end}{closing}"))
        made.append(
            ("the other side", rf"(-\infty, {start}{']' if opening == '[' else ')'}")
            if "infty" in end
            else ("half of it", f"x > {start}")
        )
        made.append(("open or closed", f"x {'>' if opening == '[' else GE} {start}") if "infty" in end else made[-1])
    if "infty" not in end:
        made.append(("open or closed", f"{opening}{start}, {end}{')' if closing == ']' else ']'}"))
        made.append(("half of it", f"x < {end}") if "infty" not in start or closing == "]" else made[-1])
    return made


def _wrong_unions(label: str) -> list[Pair]:
    pieces = [piece.strip() for piece in label.split(r"\cup")]
    text = re.sub(r"\\(?:left|right)", "", label)
    flipped = text[:-1] + (")" if text[-1] == "]" else "]") if "infty" not in text[-8:] else None
    return [
        ("a part missing", r" \cup ".join(pieces[:-1])),
        ("an intersection", label.replace(r"\cup", r"\cap")),
        *([("open or closed", flipped)] if flipped else []),
    ]


def _wrong_matrices(label: str) -> list[Pair]:
    made = [("a determinant", re.sub("[pb]matrix", "vmatrix", label))]
    if "&" not in label:
        made.append(("transposed", label.replace(r"\\", "&")))
    return made


def _wrong_lists(label: str) -> list[Pair]:
    parts = parts_of(label)
    return (
        [
            ("a part missing", ", ".join(parts[:-1])),
            ("a part too many", ", ".join([*parts, "1001"])),
            ("a part alone", parts[0]),
        ]
        if len(parts) > 1
        else []
    )


def _wrong_degrees(label: str) -> list[Pair]:
    found = re.match(r"-?[\d.]+", label)
    assert found
    value = found.group()
    return [
        ("another unit", rf"{value}\text{{ radians}}"),
        ("another unit", rf"{value}\text{{ cm}}"),
        ("another unit", rf"{value}\%"),
    ]


def _wrong_units(label: str) -> list[Pair]:
    made = []
    for one, other in _OTHER_UNIT.items():
        if re.search(rf"(?<![a-z]){one}(?![a-z])", label.replace(r"\text", "")):
            made.append(("another unit", re.sub(rf"(?<![a-z\\]){one}(?![a-z])", other, label)))
    return made


def _wrong_money(label: str) -> list[Pair]:
    digits = re.sub(r"[^\d.]", "", re.sub(r"\\!|\{,\}|,", "", label)).strip(".")
    return (
        [
            ("another unit", f"£{digits}"),
            ("another unit", rf"{digits}\text{{ cents}}"),
            ("another unit", rf"{digits} \text{{ euros}}"),
        ]
        if digits
        else []
    )


def _wrong_percent(label: str) -> list[Pair]:
    number = re.sub(r"\\%|\s", "", label)
    return (
        [("another scale", f"0.00{number}"), ("another scale", rf"0.{number}\%")]
        if re.fullmatch(r"\d+", number)
        else []
    )


def _wrong_bases(label: str) -> list[Pair]:
    found = re.match(r"([\dA-F]+)_\{?(\d+)\}?", label)
    assert found
    digits, base = found.groups()
    return [
        ("another base", f"{digits}_{{{other}}}")
        for other in (int(base) - 1, int(base) + 1, 10)
        if other != int(base) and other > 1
    ]


def _wrong_words(label: str) -> list[Pair]:
    found = re.match(r"\\\w+\{\s*([^{}]*?)\s*\}", label)
    assert found
    word = found.group(1)
    return [
        ("other words", rf"\text{{not {word}}}"),
        ("other words", rf"\text{{{word} or Zoe}}"),
        ("other words", rf"\text{{{word}ish}}"),
        ("other words", rf"\text{{neither {word} nor any}}"),
        ("other words", rf"\text{{{word[:-1]}}}"),
    ]


def _wrong_choices(label: str) -> list[Pair]:
    found = re.search(r"[A-Z]", label.replace(r"\text", ""))
    assert found
    letter = found.group()
    other = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"["ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(letter) - 1]
    return [
        ("another choice", other),
        ("another choice", rf"\text{{({other})}}"),
        ("another choice", f"{other}. 12"),
        ("two choices", f"{letter}, {other}"),
        ("two choices", rf"\text{{{letter} or {other}}}"),
        ("another choice", rf"\textbf{{({other})}}\ {letter}"),
    ]


def _wrong_assignments(label: str) -> list[Pair]:
    name, value = (part.strip() for part in label.split("=", 1))
    return [
        ("another variable", f"{'y' if name != 'y' else 'x'} = {value}"),
        ("not equal", rf"{name} \ne {value}"),
        ("a bound", f"{name} > {value}"),
    ]


def _wrong_clocks(label: str) -> list[Pair]:
    plain = re.sub(r"\\!|\s", "", re.sub(r"\\text\{.*\}", "", label))
    half = "am" if "p" in label.rpartition("text")[2] else "pm"
    return [
        ("am or pm", rf"{plain} \text{{ {half}}}"),
        ("am or pm", f"{plain} {half.upper()}"),
        ("another time", rf"1{plain} \text{{ {half}}}"),
    ]


def _wrong_ratios(label: str) -> list[Pair]:
    left, right = re.split(r"\s*:\s*", label)
    return [("the order", f"{right}:{left}"), ("the order", rf"\frac{{{right}}}{{{left}}}")] if left != right else []


def _wrong_formulas(label: str) -> list[Pair]:
    letter = next((one for one in re.findall(r"(?<![\\a-z])[a-z](?![a-z])", label)), None)
    made = [("a constant more", f"{label} + 1"), ("equal to 0", f"{label} = 1")]
    if letter and letter not in "ei":
        other = "q" if letter != "q" else "s"
        made += [
            ("another variable", re.sub(rf"(?<![\\a-z]){letter}(?![a-z])", other, label)),
            ("another variable", re.sub(rf"(?<![\\a-z]){letter}(?![a-z])", letter.upper(), label)),
        ]
    return made
