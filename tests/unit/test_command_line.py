"""The command line is frozen in a file, so that reviewers see every change of it.

python tests/unit/test_command_line.py    rewrites the file
"""

import argparse
from pathlib import Path

from openrlhf_sfpo.cli.flags import Flags
from openrlhf_sfpo.config.flag_table import may_change_on_resume, may_change_on_reuse, ranges
from openrlhf_sfpo.config.flags import SECTIONS

FILE = Path(__file__).with_name("command_line.txt")


def command_line() -> str:
    """One line for each flag of this package: name, type, default, range, and whether a run may be resumed, or
    workers reused, with another value."""
    limits, lines = ranges(), []
    own = {*SECTIONS, "config"}
    for action in sorted(Flags().parser._actions, key=lambda action: action.dest):
        if action.dest.split(".")[0] not in own and action.dest not in limits:
            continue
        kind = "switch" if action.nargs == 0 else getattr(action.type, "__name__", "str")
        choices = f" of {', '.join(map(str, action.choices))}" if action.choices is not None else ""
        many = f" x {action.nargs}" if action.nargs not in (None, 0) else ""
        default = "" if isinstance(action, argparse._HelpAction) else f" = {action.default!r}"
        within = f" [{limits[action.dest]}]" if action.dest in limits else ""
        changes = [
            word for word, may in (("resume", may_change_on_resume), ("reuse", may_change_on_reuse)) if may(action.dest)
        ]
        lines.append(f"--{action.dest} {kind}{many}{choices}{default}{within} {' '.join(changes)}".rstrip())
    return "\n".join(lines) + "\n"


def test_the_command_line_is_that_of_the_file() -> None:
    assert command_line() == FILE.read_text(encoding="utf-8"), "python tests/unit/test_command_line.py writes it anew"


if __name__ == "__main__":
    FILE.write_text(command_line(), encoding="utf-8")
