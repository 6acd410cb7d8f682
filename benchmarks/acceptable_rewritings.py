# ruff: noqa: RUF001
"""Acceptable rewritings of a reference answer, by its kind; see `rewritings`."""

import re
from collections.abc import Callable
from fractions import Fraction

from answer_kinds import GEQSLANT, LEQSLANT, Pair, bounds_of, parts_of, styled, turned

_UNITS = {
    "cm": "centimeters", "m": "meters", "km": "kilometers", "ft": "feet", "kg": "kilograms", "hours": "hours",
    "minutes": "minutes", "inches": "inches", "miles": "miles", "mph": "miles per hour",
}  # fmt: skip
_SPOKEN_BASES = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 16: "sixteen"}


def boxed(label: str, kind: str) -> list[Pair]:
    """Acceptable ways to box."""
    made = [
        ("\\boxed with a space", rf"The answer is $\boxed {{{label}}}$."),
        ("\\fbox", rf"The answer is $\fbox{{{label}}}$."),
        ("an earlier box", rf"First I thought $\boxed{{-17}}$, but with the second case it is $\boxed{{{label}}}$."),
        ("an empty box after", rf"It is $\boxed{{{label}}}$. I put it into \boxed{{}} as asked."),
        ("the same box twice", rf"$\boxed{{{label}}}$" + "\n\n" + rf"Final answer: $\boxed{{{label}}}$"),
        ("a box in a box", rf"$\boxed{{\boxed{{{label}}}}}$"),
    ]
    if kind == "list" and r"\text" not in label:
        parts = parts_of(label)
        made.append(("several boxes", " and ".join(rf"$\boxed{{{part}}}$" for part in parts)))
        made.append(("several boxes", ", ".join(rf"$x = \boxed{{{part}}}$" for part in parts)))
    if re.fullmatch(r"\d", label):
        made.append(("\\boxed without braces", rf"Thus $\boxed {label}$."))
    return made


def typeset(label: str) -> list[Pair]:
    """Other ways to type the same LaTeX, for any answer."""
    made: list[Pair] = [
        ("a full stop", label + "."),
        ("dollars inside", f"${label}$"),
        ("\\displaystyle", rf"\displaystyle {label}"),
        ("spaces", rf"\,{label}\ "),
        ("Answer:", rf"\text{{Answer: }} {label}"),
    ]
    if not label.startswith("\\text"):
        made.append(("\\mathbf", rf"\mathbf{{{label}}}"))
    if re.search(r"\\[dt]?frac", label):
        made += [
            ("\\dfrac", re.sub(r"\\[dt]?frac", r"\\dfrac", label)),
            ("\\tfrac", re.sub(r"\\[dt]?frac", r"\\tfrac", label)),
        ]
    plain = re.sub(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", label)
    if plain != label and not re.search(r"/\d+\s*(?:\\[a-z]|[a-z])", plain):
        made.append(("a/b", plain))
    if r"\left" in label:
        made.append(("no \\left", re.sub(r"\\(?:left|right)", "", label)))
    elif re.match(r"[(\[].*[)\]]$", label) and r"\cup" not in label:
        made.append(("\\left \\right", rf"\left{label[:-1]}\right{label[-1]}"))
        made.append(("\\big", rf"\big{label[:-1]}\big{label[-1]}"))
    minus = re.sub(r"-(?=[\d\\a-z\s(])", "−", label)
    if minus != label:
        made.append(("a Unicode minus", minus))
    root = re.sub(r"\\sqrt(?:\{(\d+)\}|(\d))", lambda found: f"√{found.group(1) or found.group(2)}", label)
    if root != label:
        made += [("a Unicode root", root), ("sqrt()", re.sub(r"\\sqrt\{(\d+)\}", r"sqrt(\1)", label))]
    if r"\pi" in label:
        made.append(("a Unicode pi", re.sub(r"\\pi\s?", "π", label)))
    if r"\infty" in label:
        made.append(("a Unicode infinity", label.replace(r"\infty", "∞")))
    if re.search(r"\\text\{", label):
        made += [("\\mbox", label.replace(r"\text{", r"\mbox{")), ("\\mathrm", label.replace(r"\text{", r"\mathrm{"))]
        made.append(("\\textbf", label.replace(r"\text{", r"\textbf{")))
    if re.fullmatch(r"[\dx+\-^ ]+", label):
        wide = label.translate({ord(str(digit)): chr(0xFF10 + digit) for digit in range(10)})
        made += [("full-width digits", wide)] if "^" not in label else []
    if re.fullmatch(r"[^&]*", label) and r"\begin" not in label:
        made.append(("aligned", rf"\begin{{aligned}}{label}\end{{aligned}}"))
    return made


def of_kind(kind: str, label: str) -> list[Pair]:
    """Acceptable rewritings that a kind of answer has."""
    rules: dict[str, Callable[[str], list[Pair]]] = {
        "integer": _integers, "large": _large, "decimal": _decimals, "fraction": _fractions, "radical": _radicals,
        "tuple": _tuples, "interval": _intervals, "union": _unions, "matrix": _matrices, "list": _lists,
        "degrees": _degrees, "units": _with_units, "money": _money, "percent": _percent, "base": _bases,
        "words": _words, "choice": _choices, "assignment": _assignments, "equation": _equations, "clock": _clocks,
        "ratio": _ratios, "formula": _formulas, "complex": _complex_numbers,
    }  # fmt: skip
    return rules[kind](label) if kind in rules else []


def _named(value: str) -> list[Pair]:
    return [("x = ", f"x = {value}"), ("x = ", rf"\text{{Area}} = {value}"), ("f(2) = ", f"f(2) = {value}")]


def _integers(label: str) -> list[Pair]:
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
    """Thousands separators of every habit, and powers of ten."""
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


def _large(label: str) -> list[Pair]:
    digits = re.sub(r"[^\d-]", "", label)
    return [
        ("no separators", digits),
        *_separated(digits),
        *_named(digits),
        ("a unit", rf"{digits} \text{{ km}}"),
        ("a currency", rf"\${int(digits):,}"),
    ]


def _decimals(label: str) -> list[Pair]:
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


def _fractions(label: str) -> list[Pair]:
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


def _radicals(label: str) -> list[Pair]:
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


def _tuples(label: str) -> list[Pair]:
    parts = parts_of(label)
    return [
        ("semicolons", f"({'; '.join(parts)})"),
        ("no spaces", f"({','.join(parts)})"),
        ("thin spaces", "(" + r",\,".join(parts) + ")"),
        ("(x, y) =", f"({', '.join('xyzwuv'[: len(parts)])}) = ({', '.join(parts)})"),
        ("P = ", f"P = ({', '.join(parts)})"),
        ("angle brackets", rf"\langle {', '.join(parts)} \rangle"),
        *(
            [("coordinates by name", ", ".join(f"{name} = {part}" for name, part in zip("xyz", parts, strict=False)))]
            if len(parts) <= 3
            else []
        ),
    ]


def _intervals(label: str) -> list[Pair]:
    opening, start, end, closing = bounds_of(label)
    made = [
        ("x in", rf"x \in {label}"),
        ("no spaces", f"{opening}{start},{end}{closing}"),
        ("a semicolon", f"{opening}{start}; {end}{closing}"),
    ]
    left, right = (r"\le" if opening == "[" else "<"), (r"\le" if closing == "]" else "<")
    if "infty" in start and "infty" in end:
        return [*made, ("all reals", r"\mathbb{R}"), ("all reals", r"\text{all real numbers}")]
    if "infty" in end:
        sign = {"<": ">", r"\le": r"\ge"}[left]
        made += [
            ("an inequality", f"x {sign} {start}"),
            ("an inequality", f"{start} {left} x"),
            ("a set by condition", rf"\{{x \mid x {sign} {start}\}}"),
        ]
        made.append(("an inequality", f"t {styled(sign, '≥')} {start}"))
        made.append(("\\geqslant", f"x {styled(sign, GEQSLANT)} {start}"))
    elif "infty" in start:
        made += [
            ("an inequality", f"x {right} {end}"),
            ("an inequality", f"m {styled(right, '≤')} {end}"),
            ("a set by condition", rf"\{{ x : x {right} {end} \}}"),
        ]
        made.append(("\\leqslant", f"x {styled(right, LEQSLANT)} {end}"))
    else:
        made += [
            ("an inequality", f"{start} {left} x {right} {end}"),
            ("an inequality", rf"x {turned(left)} {start} \text{{ and }} x {right} {end}"),
        ]
        made += [("an inequality", f"{end} {turned(right)} x {turned(left)} {start}")]
        made.append(("plain signs", f"{start} {styled(left, '<=')} x {styled(right, '<=')} {end}"))
        made.append(
            ("French brackets", f"{']' if opening == '(' else '['}{start}, {end}{'[' if closing == ')' else ']'}")
        )
    return made


def _unions(label: str) -> list[Pair]:
    pieces = [piece.strip() for piece in label.split(r"\cup")]
    made = [
        ("a Unicode union", " ∪ ".join(pieces)),
        ("x in", rf"x \in {label}"),
        ("the other order", r" \cup ".join(reversed(pieces))),
    ]
    conditions = []
    for piece in pieces:
        opening, start, end, closing = bounds_of(piece)
        left, right = (r"\le" if opening == "[" else "<"), (r"\le" if closing == "]" else "<")
        if "infty" in start:
            conditions.append(f"x {right} {end}")
        elif "infty" in end:
            conditions.append(f"x {turned(left)} {start}")
        else:
            conditions.append(f"{start} {left} x {right} {end}")
    made.append(("inequalities", r" \text{ or } ".join(conditions)))
    return made


def _matrices(label: str) -> list[Pair]:
    other = label.replace("pmatrix", "bmatrix") if "pmatrix" in label else label.replace("bmatrix", "pmatrix")
    made = [
        ("other brackets", other),
        (
            "\\left( matrix",
            re.sub(
                r"\\begin\{.matrix\}(.*)\\end\{.matrix\}",
                r"\\left(\\begin{matrix}\1\\end{matrix}\\right)",
                label,
                flags=re.DOTALL,
            ),
        ),
    ]
    made.append(("no spaces", re.sub(r"\s+", "", label)))
    columns = label.count("&") // max(1, label.count(r"\\") + 1) + 1
    made.append(
        (
            "array",
            re.sub(
                r"\\begin\{.matrix\}(.*)\\end\{.matrix\}",
                rf"\\left[\\begin{{array}}{{{'c' * columns}}}\1\\end{{array}}\\right]",
                label,
                flags=re.DOTALL,
            ),
        )
    )
    made.append(("\\dfrac in cells", re.sub(r"(-?\d+)/(\d+)", r"\\dfrac{\1}{\2}", label)))
    made.append(("A = ", f"A = {label}"))
    if "&" not in label:
        cells = [cell.strip() for cell in re.sub(r"\\(?:begin|end)\{.matrix\}", "", label).split(r"\\")]
        made.append(("a column as a tuple", f"({', '.join(cells)})"))
    return made


def _lists(label: str) -> list[Pair]:
    parts = parts_of(re.sub(r"^\\text\{(.*)\}$", r"\1", label))
    if len(parts) < 2 or any(not part for part in parts):
        return []
    made = [
        ("the other order", ", ".join(reversed(parts))),
        ("a set", rf"\{{{', '.join(parts)}\}}"),
        ("a set", rf"\left\{{ {', '.join(parts)} \right\}}"),
        ("and", f"{', '.join(parts[:-1])} and {parts[-1]}"),
        ("and", rf"{', '.join(parts[:-1])} \text{{ and }} {parts[-1]}"),
        ("semicolons", "; ".join(parts)),
        ("x in", rf"x \in \{{{', '.join(parts)}\}}"),
    ]
    if not re.search("[A-Z]", label):
        made.append(("x = ... or x = ...", r" \text{ or } ".join(f"x = {part}" for part in parts)))
        made.append(("x_1 = ...", ", ".join(f"x_{index} = {part}" for index, part in enumerate(parts, 1))))
    opposite = len(parts) == 2 and {parts[0].lstrip("-"), parts[1].lstrip("-")} == {parts[0].lstrip("-")}
    if opposite and parts[0] != parts[1]:
        made += [
            ("plus or minus", rf"\pm {parts[0].lstrip('-')}"),
            ("plus or minus", rf"x = \pm {parts[0].lstrip('-')}"),
            ("plus or minus", f"±{parts[0].lstrip('-')}"),
        ]
    return made


def _degrees(label: str) -> list[Pair]:
    value = re.match(r"-?[\d.]+", label).group()
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


def _with_units(label: str) -> list[Pair]:
    value, unit = re.match(r"(-?[\d.,\\!]+?)\s*(?:\\,)?\s*\\\w+\{\s*([ a-z.]*?)\s*\.?\}", label).groups()
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


def _money(label: str) -> list[Pair]:
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


def _percent(label: str) -> list[Pair]:
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


def _bases(label: str) -> list[Pair]:
    digits, base = re.match(r"([\dA-F]+)_\{?(\d+)\}?", label).groups()
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


def _words(label: str) -> list[Pair]:
    word = re.match(r"\\\w+\{\s*([^{}]*?)\s*\}", label).group(1)
    return [
        ("plain words", word),
        ("capitals", word.upper() if len(word) > 4 else word),
        ("capitals", rf"\text{{{word.capitalize()}}}"),
        ("lower case", rf"\text{{{word.lower()}}}"),
        ("a full stop in the text", rf"\text{{{word}.}}"),
        ("an article", rf"\text{{the {word}}}"),
        ("the answer is", rf"\text{{The answer is {word}}}"),
        ("spaces", rf"\text{{ {word} }}"),
        ("quotes", f'"{word}"'),
    ]


def _choices(label: str) -> list[Pair]:
    letter = re.search(r"[A-Z]", label.replace(r"\text", "")).group()
    forms = [
        letter,
        f"({letter})",
        rf"\text{{{letter}}}",
        rf"\text{{({letter})}}",
        f"{letter})",
        f"{letter}.",
        rf"\textbf{{({letter})}}",
        rf"\textbf{{({letter})}}\ 12",
        rf"\text{{({letter}) }} 12",
        f"{letter}: 12",
        f"{letter}. 12",
        rf"\mathrm{{{letter}}}",
        rf"\mathbf{{{letter}}}",
        rf"\text{{Option {letter}}}",
        rf"\text{{{letter}. }} x^2 + 1",
        rf"({letter}) \frac{{1}}{{2}}",
        f"[{letter}]",
        f"**{letter}**",
        rf"\text{{{letter}) Friday}}",
    ]
    return [("a choice", form) for form in forms]


def _assignments(label: str) -> list[Pair]:
    name, value = (part.strip() for part in label.split("=", 1))
    return [("no name", value), ("no spaces", f"{name}={value}"), ("the sides swapped", f"{value} = {name}")]


def _equations(label: str) -> list[Pair]:
    if label.count("=") != 1 or "," in label:
        return []
    left, right = (part.strip() for part in label.split("="))
    made = [
        ("no spaces", re.sub(r"(?<![a-z])\s+|\s+(?=[=+-])", "", label)),
        ("the sides swapped", f"{right} = {left}"),
        ("everything on one side", f"{left} - ({right}) = 0"),
        ("doubled", f"2({left}) = 2({right})"),
    ]
    if left in {"y", "x"}:
        made.append(("no y =", right))
    return made


def _clocks(label: str) -> list[Pair]:
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


def _ratios(label: str) -> list[Pair]:
    left, right = re.split(r"\s*:\s*", label)
    return [
        ("a ratio", f"{left} : {right}"),
        ("a ratio", rf"{left} \text{{ to }} {right}"),
        ("a ratio", f"{left} to {right}"),
        ("a ratio", rf"{left}\colon {right}"),
        ("a ratio", rf"\frac{{{left}}}{{{right}}}"),
        ("a ratio", f"{left}/{right}"),
    ]


def _formulas(label: str) -> list[Pair]:
    made = [
        ("f(x) = ", f"f(x) = {label}"),
        ("y = ", f"y = {label}"),
        ("no spaces", re.sub(r"(?<![a-zA-Z])\s+|\s+(?=[-+])", "", label)),
        ("plus 0", f"{label} + 0"),
        ("in parentheses", f"({label})"),
    ]
    if re.fullmatch(r"[-+*^{}()\d\sa-z]+", label):
        made.append(("**", re.sub(r"\^\{?(\d+)\}?", r"**\1", label)))
        made.append(("\\cdot", re.sub(r"(?<=\d)(?=[a-z(])", r" \\cdot ", label)))
    terms = re.fullmatch(r"(-?\d*[a-z](?:\^\{?\d+\}?)?)\s*([-+])\s*(\d+)", label)
    if terms:
        first, sign, last = terms.groups()
        made.append(
            (
                "the terms swapped",
                f"{'-' if sign == '-' else ''}{last} + {first}"
                if first[0] != "-"
                else f"{'-' if sign == '-' else ''}{last} {first}",
            )
        )
        made.append(("factored", f"1 \\cdot ({label})"))
    factors = re.fullmatch(r"\((\d*)x\s*([-+])\s*(\d+)\)\((\d*)x\s*([-+])\s*(\d+)\)", label)
    if factors:
        a, s, b, c, t, d = factors.groups()
        a, c = int(a or 1), int(c or 1)
        b, d = int(s + b), int(t + d)
        made.append(("expanded", f"{a * c}x^2 {a * d + b * c:+d}x {b * d:+d}"))
    return made


def _complex_numbers(label: str) -> list[Pair]:
    made = [("z = ", f"z = {label}"), ("no spaces", re.sub(r"(?<![a-z])\s+", "", label))]
    terms = re.fullmatch(r"(-?\d+)\s*([-+])\s*(\d*i)", label)
    if terms:
        real, sign, imaginary = terms.groups()
        made += [
            (
                "the terms swapped",
                f"{'-' if sign == '-' else ''}{imaginary} + {real}"
                if real[0] != "-"
                else f"{'-' if sign == '-' else ''}{imaginary} - {real[1:]}",
            ),
            ("\\cdot i", f"{real} {sign} {imaginary[:-1] or 1} \\cdot i"),
            ("\\mathrm{i}", f"{real} {sign} {imaginary[:-1]}\\mathrm{{i}}"),
        ]
    return made
