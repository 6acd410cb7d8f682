# ruff: noqa: RUF001
"""Acceptable rewritings of numbers, with and without units; see `rewritings`."""

import re
from fractions import Fraction

from answer_kinds import Pair

_UNITS = {
    "cm": "centimeters", "m": "meters", "km": "kilometers", "ft": "feet", "kg": "kilograms", "hours": "hours",
    "minutes": "minutes", "inches": "inches", "miles": "miles", "mph": "miles per hour",
}  # fmt: skip
_SPOKEN_BASES = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 16: "sixteen"}


def _named(value: str) -> list[Pair]:
    return [("x = ", f"x = {value}"), ("x = ", rf"\text{{Area}} = {value}"), ("f(2) = ", f"f(2) = {value}")]


def rewrite_integers(label: str) -> list[Pair]:
    made = [*_named(label), ("\\text", rf"\text{{{label}}}"), ("a decimal", f"{label}.0"), ("+", f"{label} + 0")]
    for short, long in _UNITS.items():
        made.append(("a unit", rf"{label} \text{{ {short}}}"))
        made.append(("a unit in words", f"{label} {long}"))
    made += [
        ("a unit", rf"{label}\ \mathrm{{cm}}^2"),
        ("a unit", rf"{label}\text{{ square units}}"),
        ("a unit", rf"{label} \text{{ m/s}}"),
        ("a unit", rf"{label}\,\mathrm{{km/h}}"),
        ("text with a unit", rf"\text{{{label} hours}}"),
        ("what is counted", rf"{label}\text{{ apples}}"),
        ("a currency", rf"\${label}"),
        ("a currency", f"{label} dollars"),
        ("a currency", f"£{label}"),
        ("a currency", f"€{label}.00"),
        ("degrees", rf"{label}^\circ"),
        ("a chain", f"{int(label) - 2} + 2 = {label}"),
        ("a chain", rf"x = \frac{{{2 * int(label)}}}{{2}} = {label}"),
        ("the answer is", rf"\text{{The answer is }} {label}"),
        ("a choice's value", rf"\textbf{{(C)}}\ {label}"),
    ]
    if abs(int(label)) >= 1000:
        made += _separated(label)
    return made


def _separated(digits: str) -> list[Pair]:
    """Thousands separators of all conventions, and scientific notation."""
    made: list[Pair] = []
    value = int(digits)
    for separator in (",", "{,}", r",\!", r"\,", " ", r"\ ", "'", "\u202f", "\u00a0", "~", r"\;", r"{\,}", "’"):
        made.append(("thousands separators", f"{value:,}".replace(",", separator)))
    if abs(value) >= 10**6:
        made.append(("thousands separators", f"{value:,}".replace(",", ".")))
    if 10**5 <= abs(value) < 10**7:
        text = str(abs(value))
        made.append(("thousands separators", ("-" if value < 0 else "") + f"{text[:-5]},{text[-5:-3]},{text[-3:]}"))
    mantissa, exponent = f"{value:.15e}".split("e")
    mantissa, power = mantissa.rstrip("0").rstrip("."), int(exponent)
    if Fraction(mantissa) * 10**power == value and len(mantissa) < 8:
        made += [("e-notation", f"{mantissa}e{power}"), ("e-notation", f"{mantissa}E+{power:02d}")]
        made += [
            ("e-notation", rf"{mantissa} \times 10^{{{power}}}"),
            ("e-notation", rf"{mantissa}\cdot 10^{power}" if power < 10 else rf"{mantissa}\cdot10^{{{power}}}"),
        ]
        superscript = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
        made += [("e-notation", f"{mantissa} × 10{superscript}"), ("e-notation", f"{mantissa} * 10^{{{power}}}")]
    return made


def rewrite_large(label: str) -> list[Pair]:
    digits = re.sub(r"[^\d-]", "", label)
    return [
        ("no separators", digits),
        *_separated(digits),
        *_named(digits),
        ("a unit", rf"{digits} \text{{ km}}"),
        ("a currency", rf"\${int(digits):,}"),
    ]


def rewrite_decimals(label: str) -> list[Pair]:
    value = Fraction(label)
    made = [
        ("a fraction", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"),
        ("trailing zeros", f"{label}00"),
        *_named(label),
    ]
    made += [("no leading zero", label.replace("0.", "."))] if label.startswith("0.") else []
    made += [
        ("a unit", rf"{label}\text{{ cm}}"),
        *(
            [("a decimal comma", label.replace(".", "{,}"))]
            if not label.startswith(".") and len(label.partition(".")[2]) != 3
            else []
        ),
        ("a currency", rf"\${label}"),
    ]
    made.append(("percent", rf"{float(value * 100):g}\%"))
    return made


def rewrite_fractions(label: str) -> list[Pair]:
    found = re.search(r"(-?)(?:\\[dt]?frac\s?\{?(\d+?)\}?\s?\{?(\d+)\}?$|(\d+)/(\d+))", label)
    if not found:
        return []
    sign, above, below, left, right = found.groups()
    value = Fraction(int(above or left), int(below or right))
    whole, rest = divmod(value.numerator, value.denominator)
    over, under = value.numerator, value.denominator
    made = [*_named(label)]
    made += [
        ("a fraction, otherwise typed", rf"{sign}{{{over} \over {under}}}"),
        ("a fraction, otherwise typed", rf"\frac{{{sign}{over}}}{{{under}}}"),
        ("a fraction, otherwise typed", f"({sign}{over})/({under})"),
        ("a fraction, otherwise typed", f"{sign}{over} / {under}"),
        ("a product", rf"{sign}{over} \cdot \frac{{1}}{{{under}}}"),
        ("not reduced", rf"{sign}\frac{{{3 * over}}}{{{3 * under}}}"),
        ("a unit", rf"{sign}\frac{{{over}}}{{{under}}} \text{{ cm}}^2"),
        ("a chain", rf"{sign}\frac{{{2 * over}}}{{{2 * under}}} = {sign}\frac{{{over}}}{{{under}}}"),
    ]
    if 0 < over < 10 and 0 < under < 10:
        made.append(("\\frac12", rf"{sign}\frac{over}{under}"))
    if whole and rest:
        made += [
            ("a mixed number", rf"{sign}{whole}\frac{{{rest}}}{{{under}}}"),
            ("a mixed number", f"{sign}{whole} {rest}/{under}"),
            ("a mixed number", rf"{sign}{whole}\ \tfrac{{{rest}}}{{{under}}}"),
        ]
    twos_and_fives = under
    for factor in (2, 5):
        while twos_and_fives % factor == 0:
            twos_and_fives //= factor
    if twos_and_fives == 1 and under < 10**6:
        decimal = f"{sign}{over / under:.10f}".rstrip("0").rstrip(".")
        if Fraction(decimal) == (-value if sign else value):
            made += [("a decimal", decimal), ("percent", f"{sign}{float(value * 100):g}\\%")]
    if (over, under) in {(1, 2), (1, 4), (3, 4), (1, 3), (2, 3), (1, 5)}:
        made.append(
            (
                "a Unicode fraction",
                sign + {(1, 2): "½", (1, 4): "¼", (3, 4): "¾", (1, 3): "⅓", (2, 3): "⅔", (1, 5): "⅕"}[over, under],
            )
        )
    return made


def rewrite_radicals(label: str) -> list[Pair]:
    made = [
        *_named(label),
        ("a unit", rf"{label} \text{{ cm}}"),
        ("a factor 1", rf"1 \cdot {label}" if label[0] != "-" else label),
    ]
    single = re.fullmatch(r"(\d+)\s?\\(sqrt\{\d+\}|pi)", label)
    if single:
        made += [
            ("the factors swapped", rf"\{single.group(2)} \cdot {single.group(1)}"),
            ("\\cdot", rf"{single.group(1)} \cdot \{single.group(2)}"),
            ("*", rf"{single.group(1)}*\{single.group(2)}"),
        ]
    square = re.fullmatch(r"(\d+)\s?\\sqrt\{(\d+)\}", label)
    if square:
        made.append(("under the root", rf"\sqrt{{{int(square.group(1)) ** 2 * int(square.group(2))}}}"))
    over = re.fullmatch(r"\\frac\{(\d*)\\sqrt\{(\d+)\}\}\{(\d+)\}", label)
    if over:
        factor, root, under = over.groups()
        made += [
            ("the root after", rf"\frac{{{factor or 1}}}{{{under}}}\sqrt{{{root}}}"),
            ("/", rf"{factor}\sqrt{{{root}}}/{under}"),
        ]
    terms = re.fullmatch(r"(\d+) ?([-+]) ?(\d*\\(?:sqrt\{\d+\}|pi))", label)
    if terms:
        first, sign, second = terms.groups()
        made.append(("the terms swapped", f"{'-' if sign == '-' else ''}{second} + {first}"))
    return made


def rewrite_degrees(label: str) -> list[Pair]:
    found = re.match(r"-?[\d.]+", label)
    assert found
    value = found.group()
    forms = [
        f"{value}°",
        rf"{value}\degree",
        rf"{value}^{{\circ}}",
        rf"{value}\text{{ degrees}}",
        f"{value} degrees",
        rf"{value}{{}}^\circ",
        rf"{value} \text{{°}}",
        rf"{value}\,^\circ",
        rf"{value}^{{\text{{o}}}}" if False else f"{value} deg",
    ]
    return [
        *(("degrees", form) for form in forms),
        ("no degrees", value),
        ("an angle's name", rf"\angle ABC = {value}^\circ"),
        ("x = ", rf"x = {value}^\circ"),
    ]


def rewrite_with_units(label: str) -> list[Pair]:
    found = re.match(r"(-?[\d.,\\!]+?)\s*(?:\\,)?\s*\\\w+\{\s*([ a-z.]*?)\s*\.?\}", label)
    assert found
    value, unit = found.groups()
    made = [
        ("no unit", value),
        ("text with a unit", rf"\text{{{value} {unit}}}"),
        ("a plain unit", f"{value} {unit}"),
        ("\\mathrm", rf"{value}\ \mathrm{{{unit}}}"),
        ("x = ", f"x = {label}"),
        ("~", rf"{value}~\text{{{unit}}}"),
    ]
    swaps = {
        "inches": "in",
        "feet": "ft",
        "miles": "mi",
        "hours": "hr",
        "minutes": "min",
        "square units": "sq. units",
        "cm": "centimeters",
        "km": "kilometers",
        "degrees": "deg",
        "pounds": "lb",
        "square feet": "ft^2",
        "gallons": "gal",
        "dollars": "USD",
    }
    if unit in swaps:
        made.append(
            (
                "another name of the unit",
                rf"{value}\text{{ {swaps[unit]}}}" if "^" not in swaps[unit] else rf"{value}\text{{ ft}}^2",
            )
        )
    if unit == "degrees":
        made += [("degrees", rf"{value}^\circ"), ("degrees", f"{value}°")]
    if re.fullmatch(r"\d+", value) and unit in {"feet", "hours", "km", "cm", "minutes"}:
        factor, other = {
            "feet": (12, "inches"),
            "hours": (60, "minutes"),
            "km": (1000, "meters"),
            "cm": (10, "mm"),
            "minutes": (60, "seconds"),
        }[unit]
        made.append(("converted units", rf"{int(value) * factor}\text{{ {other}}}"))
    return made


def rewrite_money(label: str) -> list[Pair]:
    digits = re.sub(r"[^\d.]", "", re.sub(r"\\!|\{,\}|,", "", label)).strip(".")
    if not digits:
        return []
    grouped = f"{int(digits):,}" if "." not in digits else digits
    made = [
        ("no currency", digits),
        ("dollars", f"{digits} dollars"),
        ("dollars", rf"{digits} \text{{ dollars}}"),
        ("dollars", rf"\${digits}"),
        ("dollars", f"${digits}"),
        ("USD", rf"{digits}\text{{ USD}}"),
        ("dollars", rf"\$ {grouped}"),
        ("dollars", rf"\text{{\${digits}}}"),
        ("x = ", rf"x = \${digits}"),
    ]
    made += [("cents", f"{digits}.00"), ("cents", rf"\${grouped}.00")] if "." not in digits else []
    return made


def rewrite_percent(label: str) -> list[Pair]:
    number = re.sub(r"\\%|\s", "", label)
    if not re.fullmatch(r"-?[\d.]+", number):
        return []
    made = [
        ("percent", f"{number}%"),
        ("percent", rf"{number} \text{{ percent}}"),
        ("percent", f"{number} percent"),
        ("percent", rf"{number}\ \%"),
        ("no percent", number),
    ]
    if re.fullmatch(r"[\d.]+", number):
        value = Fraction(number) / 100
        made += [
            ("a fraction", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"),
            ("a decimal", f"{float(value):g}"),
        ]
        if Fraction(number) < 1:
            made.remove(("no percent", number))
    return made


def rewrite_bases(label: str) -> list[Pair]:
    found = re.match(r"([\dA-F]+)_\{?(\d+)\}?", label)
    assert found
    digits, base = found.groups()
    made = [
        ("a base", f"{digits}_{{{base}}}"),
        ("a base", rf"({digits})_{{{base}}}"),
        ("a base", f"{digits}_{base}" if len(base) == 1 else label),
        ("a base", rf"{digits}_{{\text{{base }}{base}}}"),
        ("a base", rf"{digits} \text{{ base }} {base}"),
        ("a base", rf"{digits}_{{({base})}}"),
        ("x = ", f"x = {digits}_{{{base}}}"),
        ("no base", digits),
    ]
    if int(base) in _SPOKEN_BASES:
        made.append(("a base in words", rf"{digits}_{{\text{{{_SPOKEN_BASES[int(base)]}}}}}"))
    return made


def rewrite_clocks(label: str) -> list[Pair]:
    plain = re.sub(r"\\!|\s", "", re.sub(r"\\text\{.*\}", "", label))
    half = "pm" if "p" in label.rpartition("text")[2] else "am"
    return [
        ("a time", f"{plain} {half.upper()}"),
        ("a time", rf"{plain} \text{{ {half}}}"),
        ("a time", rf"{plain}\text{{ {half[0]}.m.}}"),
        ("a time", rf"\text{{{plain} {half.upper()}}}"),
        ("a time", f"{plain}{half}"),
        ("no am or pm", plain),
    ]


def rewrite_ratios(label: str) -> list[Pair]:
    left, right = re.split(r"\s*:\s*", label)
    return [
        ("a ratio", f"{left} : {right}"),
        ("a ratio", rf"{left} \text{{ to }} {right}"),
        ("a ratio", f"{left} to {right}"),
        ("a ratio", rf"{left}\colon {right}"),
        ("a ratio", rf"\frac{{{left}}}{{{right}}}"),
        ("a ratio", f"{left}/{right}"),
    ]
