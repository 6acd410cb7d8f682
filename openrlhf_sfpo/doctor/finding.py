"""What `doctor` found out about one thing."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What was looked at and how it is.

    Attributes:
        check: what was looked at.
        state: "ok", "warning" (it may work) or "error" (it will not).
        found: how it is.
        fix: what to do about it, empty if nothing.
    """

    check: str
    state: State
    found: str
    fix: str = ""
