"""The types of answers that `reading` creates and `comparing` compares."""

from dataclasses import dataclass

from openrlhf_sfpo.tasks.mathematics.units import Unit


@dataclass(frozen=True)
class Quantity:
    """An expression in clean LaTeX, its unit, and its name (x in x = 5)."""

    expression: str
    unit: Unit | None = None
    name: str | None = None


@dataclass(frozen=True)
class Words:
    """Plain lower-case words."""

    text: str


@dataclass(frozen=True)
class Letters:
    """Two or more capitals, such as the name of a segment: not a product."""

    text: str


@dataclass(frozen=True)
class Choice:
    """The letter of a choice, and the text after it in the answer."""

    letter: str
    rest: "tuple[Reading, ...]" = ()
    in_parentheses: bool = False


@dataclass(frozen=True)
class Group:
    """Several answers. `kind` is list (any order, no brackets), set, tuple or brackets (in order)."""

    kind: str
    items: "tuple[tuple[Reading, ...], ...]"


@dataclass(frozen=True)
class Region:
    """A union of intervals, each (start, start is in it, end, end is in it), of a variable that may be unknown."""

    intervals: tuple[tuple[str, bool, str, bool], ...]
    variable: str | None = None


@dataclass(frozen=True)
class Matrix:
    """Rows of cells; `determinant` for a matrix between vertical lines."""

    rows: "tuple[tuple[tuple[Reading, ...], ...], ...]"
    determinant: bool = False


@dataclass(frozen=True)
class Relation:
    """An equation or inequality as the whole answer: left side, sign, right side."""

    left: str
    sign: str
    right: str


@dataclass(frozen=True)
class Based:
    """A number's digits in a base."""

    digits: str
    base: int


@dataclass(frozen=True)
class Clock:
    """A time of day: hours, minutes, seconds; `half` is am, pm or None."""

    hour: int
    minute: int
    second: int
    half: str | None


@dataclass(frozen=True)
class Residue:
    """A value modulo another, as expressions, and its name."""

    value: str
    modulus: str
    name: str | None = None


@dataclass(frozen=True)
class Ratio:
    """Parts of a ratio such as 3:1, as expressions."""

    parts: tuple[str, ...]


Reading = Quantity | Words | Letters | Choice | Group | Region | Matrix | Relation | Based | Clock | Ratio | Residue
