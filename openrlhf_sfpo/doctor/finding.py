"""The result of one of `doctor`'s checks."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked.
        state: "ok", "warning" (it may work) or "error" (it will not).
        found: the result.
        fix: what to do about it; empty if nothing.
    """

    check: str
    state: State
    found: str
    fix: str = ""
