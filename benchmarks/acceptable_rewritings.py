# ruff: noqa: RUF001
"""Acceptable rewritings of a reference answer, by its kind; see `rewritings`."""

import re
from collections.abc import Callable

from acceptable_numbers import (
    rewrite_bases,
    rewrite_clocks,
    rewrite_decimals,
    rewrite_degrees,
    rewrite_fractions,
    rewrite_integers,
    rewrite_large,
    rewrite_money,
    rewrite_percent,
    rewrite_radicals,
    rewrite_ratios,
    rewrite_with_units,
)
from answer_kinds import GEQSLANT, LEQSLANT, Pair, bounds_of, parts_of, styled, turned


def boxed(label: str, kind: str) -> list[Pair]:
    """Acceptable ways to box the answer."""
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
    """The acceptable rewritings specific to a kind of answer."""
    rules: dict[str, Callable[[str], list[Pair]]] = {
        "integer": rewrite_integers,
        "large": rewrite_large,
        "decimal": rewrite_decimals,
        "fraction": rewrite_fractions,
        "radical": rewrite_radicals,
        "tuple": _tuples,
        "interval": _intervals,
        "union": _unions,
        "matrix": _matrices,
        "list": _lists,
        "degrees": rewrite_degrees,
        "units": rewrite_with_units,
        "money": rewrite_money,
        "percent": rewrite_percent,
        "base": rewrite_bases,
        "words": _words,
        "choice": _choices,
        "assignment": _assignments,
        "equation": _equations,
        "clock": rewrite_clocks,
        "ratio": rewrite_ratios,
        "formula": _formulas,
        "complex": _complex_numbers,
    }
    return rules[kind](label) if kind in rules else []


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


def _words(label: str) -> list[Pair]:
    found = re.match(r"\\\w+\{\s*([^{}]*?)\s*\}", label)
    assert found
    word = found.group(1)
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
    found = re.search(r"[A-Z]", label.replace(r"\text", ""))
    assert found
    letter = found.group()
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
