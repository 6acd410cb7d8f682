"""What `doctor` found out about one thing."""

from dataclasses import dataclass
from typing import Literal


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
    state: Literal["ok", "warning", "error"]
    found: str
    fix: str = ""
