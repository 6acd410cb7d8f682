"""Decides whether two expressions are equal: math-verify reads them, and numerical evaluation checks its judgment.

math-verify compares decimals with an absolute tolerance of 1e-6 (so all tiny numbers are equal), ignores case and
subscripts of bases, and takes long to refute by simplification what one evaluation refutes. So numbers are compared
exactly, closed forms and formulas are evaluated to 50 digits (formulas at several points), and math-verify decides only
what has no value, such as equations and undefined functions.
"""

import math
import re
import threading
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import mpmath
    import sympy

Real: TypeAlias = "Fraction | mpmath.mpf"
Complex: TypeAlias = "mpmath.mpc"
Tree: TypeAlias = "sympy.Basic"

SECONDS = 5  # for reading one expression, and for comparing two
MAX_BRACKETS = 60  # expressions with more are not read
MAX_DIGITS = 6000  # larger powers and factorials are not evaluated
_DIGITS = 50
_POINTS = (0.7310585786300049, -1.3862943611198906, 2.2360679774997896, -0.4142135623730951, 3.7182818284590452)
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")
_FRACTION = re.compile(r"(-?)\s*\\frac\{\s*(-?\d+)\s*\}\{\s*(-?\d+)\s*\}|(-?\d+)\s*/\s*(\d+)")
_SCIENTIFIC = re.compile(
    r"(-?(?:\d+(?:\.\d*)?|\.\d+))\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{\s*(-?\+?\d+)\s*\}|(-?)10\^\{\s*(-?\+?\d+)\s*\}"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\{\s*(\d+)\s*\}")


def number(expression: str) -> Fraction | None:
    """The exact value of a plain number: an integer, decimal, fraction or power of ten; None for anything else."""
    text = expression.strip().replace("- ", "-")
    if text.startswith("+"):
        text = text[1:].strip()
    if len(text) > 400:
        return None
    if _NUMBER.fullmatch(text):
        return Fraction(text.removesuffix("."))
    if found := _FRACTION.fullmatch(text):
        sign, above, below, left, right = found.groups()
        numerator, denominator = int(above or left), int(below or right)
        return None if denominator == 0 else Fraction(numerator, denominator) * (-1 if sign else 1)
    if found := _SCIENTIFIC.fullmatch(text):
        mantissa, exponent, sign, bare = found.groups()
        power = int(exponent or bare)
        if abs(power) > 5000:
            return None
        return Fraction(mantissa or f"{sign}1") * Fraction(10) ** power
    return None


def equal_expressions(gold: str, answer: str, scale: Fraction = Fraction(1)) -> bool:
    """Whether two expressions in clean LaTeX are equal.

    Args:
        gold: the reference.
        answer: the expression to compare with it.
        scale: factor that converts the answer to the reference's units.
    """
    exact, other = number(gold), number(answer)
    if exact is not None and other is not None:
        return _equal_numbers(exact, other * scale, decimals(gold), decimals(answer) if scale == 1 else None)
    if scale == 1 and _tight(gold) == _tight(answer):
        return True
    first, second = parsed(gold), parsed(answer)
    if first is None or second is None:
        return False
    if scale != 1:
        second = _scaled(second, scale)
    verdict = _bounded_evaluated(first, second, decimals(gold), decimals(answer) if scale == 1 else None)
    return _math_verify(first, second) if verdict is None else verdict


def is_readable(expression: str) -> bool:
    """Whether an expression in clean LaTeX can be read at all."""
    return number(expression) is not None or parsed(expression) is not None


def is_constant(expression: str) -> bool:
    """Whether an expression in clean LaTeX is a number, and has no variables."""
    if number(expression) is not None or expression.strip() in {r"\infty", r"-\infty", r"+\infty"}:
        return True
    tree = parsed(expression)
    if tree is None or {symbol.name for symbol in tree.free_symbols} - {"i"}:
        return False
    from sympy.core.function import AppliedUndef

    return not (hasattr(tree, "atoms") and tree.atoms(AppliedUndef))


def value(expression: str) -> float | None:
    """A constant expression's value, for sorting and rough comparisons; None if it has none."""
    if expression.strip() in {r"\infty", r"+\infty", r"-\infty"}:
        return -math.inf if "-" in expression else math.inf
    exact = number(expression)
    if exact is not None:
        return float(exact) if abs(exact) < 10**300 else math.inf
    tree = parsed(expression)
    found = _values(tree, {}) if tree is not None else None
    return float(found.real) if found is not None and abs(found.imag) < 1e-12 else None


def decimals(expression: str) -> int | None:
    """The number of digits after a plain decimal's point; None for anything else."""
    text = expression.strip()
    return len(text.partition(".")[2]) if "." in text and _NUMBER.fullmatch(text.replace("- ", "-")) else None


def parsed(expression: str) -> Any | None:
    """The expression as a SymPy object, read by math-verify; None if it cannot be read or is too large to evaluate."""
    from math_verify.errors import TimeoutException

    if (
        not expression
        or expression.count("{") + expression.count("(") > MAX_BRACKETS
        or re.search(r"\d\s+\d", expression)
    ):
        return None
    try:
        return _parsed(expression)
    except TimeoutException:  # not cached: the machine may have been busy
        return None


@lru_cache(maxsize=1024)
def _parsed(expression: str) -> Any | None:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    config = NormalizationConfig(units=False, malformed_operators=False, nits=False, boxed="none")
    target = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=config)
    try:
        text = f"${_for_math_verify(expression)}$"
        found = parse(text, [target], fallback_mode="no_fallback", parsing_timeout=_seconds() or 0, raise_on_error=True)
        if len(found) != 1 or not hasattr(found[0], "free_symbols"):
            return None
        return None if _too_large(found[0]) else found[0]
    except Exception:  # the parser raises many kinds of exceptions, including RecursionError
        return None


def _equal_numbers(gold: Fraction, answer: Fraction, gold_decimals: int | None, answer_decimals: int | None) -> bool:
    if gold == answer:
        return True
    places = _rounding(gold_decimals, answer_decimals)
    if places is None:
        return False
    return _stands_for(gold, answer, places) if gold_decimals == places else _stands_for(answer, gold, places)


def _stands_for(decimal: Real, exact: Real, places: int) -> bool:
    """Whether a decimal with this many places is the other number, rounded or truncated there; zero equals only
    itself."""
    error = (exact - decimal) * 10**places
    return bool(decimal != 0 and (2 * abs(error) <= 1 or (abs(error) < 1 and (error > 0) == (exact > 0))))


def _rounding(gold: int | None, answer: int | None) -> int | None:
    """The number of places to which two unequal values are compared: the shorter decimal's; None if that is below 6.
    Two decimals of the same length are different numbers (None)."""
    places = [count for count in (gold, answer) if count is not None]
    if not places or min(places) < 6 or (len(places) == 2 and places[0] == places[1]):
        return None
    return min(places)


def _for_math_verify(expression: str) -> str:
    """Rewrite what its parser misreads: capitals (it ignores case), degrees, repeating decimals, mixed numbers."""
    text = re.sub(r"\^\\circ", r"\\cdot\\frac{\\pi}{180}", expression)
    text = _REPEATING.sub(_repeating, text)
    text = re.sub(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])", _decimal, text)
    text = re.sub(r"(?<![\d.}])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", _mixed, text)
    # The parser takes adjacent numbers for a mixed number: 2(13) is 15, 2 \\binom{3}{2} is 5.
    text = re.sub(
        r"(?<=[\d)])\s*(?=\()|(?<=\))\s*(?=\d)|(?<=\d)\s*(?=\\(?:frac|binom)(?![a-z]))"
        r"|(?<=\})\s*(?=\\binom(?![a-z]))|(?<=\\pi)\s*(?=\()",
        r" \\cdot ",
        text,
    )
    text = re.sub(r"(?<=\d)\s*\*\s*|\*", r" \\cdot ", text)
    # A capital becomes a separate variable: N is not n.
    return re.sub(r"\\[a-zA-Z]+|([A-Z])(_\{\w+\})?", _capital, text)


def _capital(found: re.Match[str]) -> str:
    if found.group(1) is None:
        return found.group()
    index = "".join(str(ord(character)) for character in (found.group(2) or "")[2:-1])
    return f"u_{{9{ord(found.group(1))}{index}}}"


def _repeating(found: re.Match[str]) -> str:
    whole, fixed, repeated = found.groups()
    value_ = Fraction(
        int(f"0{whole}{fixed}{repeated}") - int(f"0{whole}{fixed}"), 10 ** len(fixed) * (10 ** len(repeated) - 1)
    )
    return f"\\frac{{{value_.numerator}}}{{{value_.denominator}}}"


def _decimal(found: re.Match[str]) -> str:
    exact = Fraction(f"{found.group(1) or 0}.{found.group(2)}")
    return f"(\\frac{{{exact.numerator}}}{{{exact.denominator}}})"


def _mixed(found: re.Match[str]) -> str:
    whole, above, below = found.groups()
    return f"({whole}+\\frac{{{above}}}{{{below}}})" if int(above) < int(below) else found.group()


def _tight(expression: str) -> str:
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", expression)


def _scaled(tree: Tree, scale: Fraction) -> Any:
    from sympy import Mul, Rational

    return Mul(Rational(scale.numerator, scale.denominator), tree)


def _too_large(tree: Tree) -> bool:
    """Whether evaluation needs numbers of more than MAX_DIGITS digits, estimated by logarithms from the leaves up."""
    try:
        return _magnitude(tree) > MAX_DIGITS
    except (OverflowError, ValueError, TypeError):
        return True


def _magnitude(tree: Tree) -> float:
    """A bound on the digits of a subtree's value and its parts; 1 for what has no size, such as variables."""
    from sympy import Integer, Pow, Rational, factorial

    if isinstance(tree, Rational):
        return max(_digits(tree.p), _digits(tree.q))
    sizes = [_magnitude(part) for part in getattr(tree, "args", ())]
    if not sizes:
        return 16.0 if getattr(tree, "is_Float", False) else 1.0
    largest = max(sizes)
    if isinstance(tree, Pow):
        exponent = tree.args[1]
        if isinstance(exponent, Integer):
            return max(largest, sizes[0] * abs(int(exponent))) if sizes[1] < 12 else math.inf
        # A constant exponent may be as large as its digits allow; one with variables is small where it is evaluated.
        return largest if exponent.free_symbols else max(largest, sizes[0] * 10 ** min(sizes[1], 12))
    if isinstance(tree, factorial) or type(tree).__name__ in {"binomial", "subfactorial", "Sum", "Product", "gamma"}:
        return max(largest, 10.0**largest * largest if largest < 12 else math.inf)
    return sum(sizes) if len(sizes) < 50 else largest * 2


def _digits(integer: int) -> float:
    return abs(integer).bit_length() * math.log10(2)


def _evaluated(gold: Tree, answer: Tree, gold_decimals: int | None, answer_decimals: int | None) -> bool | None:
    """Whether two trees have the same values; None if numbers cannot decide."""
    names = sorted({symbol.name for tree in (gold, answer) for symbol in tree.free_symbols} - {"i"})
    compared: list[tuple[complex, complex, bool]] = []
    for shift in range(1 if not names else len(_POINTS) + 3):
        place = {
            name: _POINTS[(index + shift) % len(_POINTS)] * (1 if shift < len(_POINTS) else shift)
            for index, name in enumerate(names)
        }
        if shift >= len(_POINTS):
            place = {name: abs(number_) for name, number_ in place.items()}
        first, second = _values(gold, place), _values(answer, place)
        if first is None or second is None:
            continue
        compared.append((first, second, _is_real(first) and _is_real(second)))
    if any(real for *_, real in compared):
        compared = [one for one in compared if one[2]]
    if len(compared) < (1 if not names else 3):
        return None
    places = None if names else _rounding(gold_decimals, answer_decimals)
    rounded = gold_decimals is not None and gold_decimals == places
    return all(
        _close(first, second)
        or (places is not None and _rounds(*((first, second) if rounded else (second, first)), places))
        for first, second, _ in compared
    )


def _bounded_evaluated(gold: Tree, answer: Tree, gold_decimals: int | None, answer_decimals: int | None) -> bool | None:
    from math_verify.errors import TimeoutException
    from math_verify.utils import timeout

    try:
        return timeout(_seconds())(_evaluated)(gold, answer, gold_decimals, answer_decimals)
    except (Exception, TimeoutException):
        return None


def _seconds() -> int | None:
    """The time limit for math-verify, which uses signals; None outside a process's main thread, where they do not
    work."""
    return SECONDS if threading.current_thread() is threading.main_thread() else None


def _is_real(number_: Complex) -> bool:
    return abs(number_.imag) <= 1e-20 * max(1, abs(number_.real))


def _close(first: Complex, second: Complex) -> bool:
    return bool(abs(first - second) <= 1e-40 * max(abs(first), abs(second)))


def _rounds(decimal: Complex, exact: Complex, places: int) -> bool:
    return _is_real(exact) and _stands_for(decimal.real, exact.real, places)


def _values(tree: Tree, place: dict[str, float]) -> Any | None:
    """A tree's value as an mpmath number, with numbers for its variables; None if it has none."""
    import mpmath
    from sympy import Float, I, Rational

    try:
        with mpmath.workdps(_DIGITS):
            at = {
                symbol: I if symbol.name == "i" else Float(str(place[symbol.name]), 2 * _DIGITS)
                for symbol in tree.free_symbols
            }
            exact = (
                tree.replace(lambda part: part.is_Float, lambda part: Rational(str(part)))
                if hasattr(tree, "replace")
                else tree
            )
            found = exact.subs(at).doit().evalf(_DIGITS)
            if not found.is_number or not found.is_finite:
                return None
            real, imaginary = found.as_real_imag()
            return mpmath.mpc(str(real), str(imaginary))
    except Exception:  # SymPy raises many kinds of exceptions here
        return None


def _math_verify(gold: Tree, answer: Tree) -> bool:
    from math_verify import verify
    from math_verify.errors import TimeoutException

    try:
        return bool(verify(gold, answer, timeout_seconds=_seconds()))
    except (Exception, TimeoutException):
        return False


def common_factor(gold: tuple[str, str], answer: tuple[str, str]) -> float | None:
    """The constant c with (left - right of the reference) = c (left - right of the answer); None if there is none.

    Two equations with such a factor have the same solutions; two inequalities, if it is positive.
    """
    trees = [tree for side in (*gold, *answer) if (tree := parsed(side)) is not None]
    if len(trees) < 4:
        return None
    try:
        differences = [trees[0] - trees[1], trees[2] - trees[3]]
    except TypeError:
        return None
    names = sorted({symbol.name for tree in differences for symbol in tree.free_symbols} - {"i"})
    quotients = []
    for shift in range(len(_POINTS)):
        place = {name: _POINTS[(index + shift) % len(_POINTS)] for index, name in enumerate(names)}
        mine, others = (_values(tree, place) for tree in differences)
        if mine is not None and others is not None and abs(mine) > 1e-30 and abs(others) > 1e-30:
            quotients.append(mine / others)
    if len(quotients) < 3 or any(abs(one - quotients[0]) > 1e-12 * abs(quotients[0]) for one in quotients):
        return None
    return float(quotients[0].real) if abs(quotients[0].imag) < 1e-12 else None
