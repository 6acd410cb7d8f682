r"""Notations that math-verify does not read: \choose, {}_5C_2, units with \Omega and \mu, \pmod, transposed vectors."""

import re

_BRACED = r"((?:[^{}]|\{[^{}]*\})*)"
_CHOOSE = re.compile(rf"\{{{_BRACED}\\choose(?![a-zA-Z]){_BRACED}\}}")
_BARE_CHOOSE = re.compile(rf"{_BRACED}\\choose(?![a-zA-Z]){_BRACED}")
# {}_5C_2, ^5C_2, and P for permutations; not after anything that the first index could belong to.
_SELECTIONS = re.compile(
    r"(?:\{\s*\}\s*|(?<![\w)}\]])\s*)[_^]\{([^{}]+)\}\s*(?:\\text\{\s*)?([CP])(?:\s*\})?\s*_\{([^{}]+)\}"
)
_END = r"(?=\s*(?:$|[.,;:)=]|\\text|\\approx))"
_OHMS = re.compile(
    r"(?<=[\d})])\s*(?:\\text\{\s*([kMGm])?\s*\\Omega\s*\}|(?:\\text\{\s*([kMGm])\s*\}|([kMGm]))?\s*\\Omega)" + _END
)
_MICRO = re.compile(
    r"(?<=[\d})])\s*(?:\\text\{\s*\\mu\s*([msgL])\s*\}|\\mu\s*(?:\\text\{\s*([msgL])\s*\}|([msgL])(?![a-zA-Z])))" + _END
)
_SMALL = {"m": "micrometer", "s": "microsecond", "g": "microgram", "L": "microliter"}
_RESIDUE = re.compile(
    r"(.*?[^\s(,]),?\s*\(?\s*(?:(\\pmod)|\\mod|\\text\{\s*mod(?:ulo)?\s*\}|\bmod)(?![a-zA-Z])\s*"
    r"(?:\{([^{}]+)\}|([^{}()]+?))\s*\)?"
)
_TRANSPOSE = re.compile(
    r"(.+[)\]}])\s*\^\s*\{?\s*(?:\\(?:mathsf|mathrm|rm|sf|text)\s*\{?\s*)?(?:[Tt]|\\top|\\intercal)(?![a-zA-Z])[\s}]*"
)


def standard_notation(text: str) -> str:
    r"""Replace binomials and permutations by \binom and factorials.

    Args:
        text: with braces around every index and exponent.
    """
    if r"\choose" in text:
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
        if bare := _BARE_CHOOSE.fullmatch(text):
            text = f"\\binom{{{bare[1].strip()}}}{{{bare[2].strip()}}}"
    return _SELECTIONS.sub(_selection, text)


def greek_units(text: str) -> str:
    r"""Replace units with Greek letters after a number, 5 \Omega and 5 \mu m, by words in \text{...}."""
    if "\\Omega" in text:
        text = _OHMS.sub(lambda found: f"\\text{{ {found[1] or found[2] or found[3] or ''}ohm}}", text)
    if "\\mu" in text:
        text = _MICRO.sub(lambda found: f"\\text{{ {_SMALL[found[1] or found[2] or found[3]]}}}", text)
    return text


def _selection(found: re.Match[str]) -> str:
    above, kind, below = found.groups()
    return f"\\binom{{{above}}}{{{below}}}" if kind == "C" else f"\\frac{{({above})!}}{{({above}-({below}))!}}"


def residue_parts(text: str) -> tuple[str, str, bool] | None:
    r"""(value, modulus, whether it is a statement) of "7 \pmod{12}" or "7 mod 12".

    \pmod states what values are congruent to; \mod may also be an operation, 19 mod 12 = 7.
    """
    found = _RESIDUE.fullmatch(text) if "mod" in text else None
    return (found[1], found[3] or found[4], bool(found[2])) if found else None


def transposed_part(text: str) -> str | None:
    """The transposed expression in (1, 2)^T, as text; None if there is none."""
    found = _TRANSPOSE.fullmatch(text) if "^" in text else None
    return found[1] if found else None
