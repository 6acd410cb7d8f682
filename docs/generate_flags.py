"""Writes docs/flags.md, the flag reference, from the flags' declarations.

    python docs/generate_flags.py            writes it
    python docs/generate_flags.py --check    fails if it is not up to date

Flags of this package have the help text of their declaration (openrlhf_sfpo/config/flags.py). OpenRLHF's come from its
parser, with the descriptions of openrlhf_sfpo/config/flag_descriptions.py.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from openrlhf_sfpo.cli.flags import build_parser
from openrlhf_sfpo.config.flag_descriptions import DEFAULTS, DESCRIPTIONS, NO_EFFECT, TOPICS
from openrlhf_sfpo.config.flag_table import may_change_on_resume, may_change_on_reuse, path_flags, ranges
from openrlhf_sfpo.config.flags import SECTIONS
from openrlhf_sfpo.config.openrlhf_flags import CHOICES

_FLAG = re.compile(r"--[a-z][a-z_.-]*[a-z_](?:\.\*)?(?: [a-z]+(?=[,;:)]))?")
PAGE = Path(__file__).with_name("flags.md")

_INTRODUCTION = """\
# Flags

<!-- Written by docs/generate_flags.py: change the declarations, not this file. -->

Every flag of this package, and OpenRLHF's flags that matter in a run. `openrlhf-sfpo train --help all` lists all of
OpenRLHF's, in its own words. How values are written, in files too: [Flags and files](configuration.md).

The last column says what a flag may change without making it another run: **resume**, a run may be
[continued](faults-and-resuming.md) with another value; **reuse**, the runs of a
[comparison](evaluating-and-comparing.md) may share engines and actors across different values. OpenRLHF's flags have
the names and meanings that they have in its `train_ppo_ray`.
"""


def page() -> str:
    """The page's text."""
    actions = {action.dest: action for action in build_parser()._actions}
    own = {f"{section}.{field.name}" for section, config in SECTIONS.items() for field in dataclasses.fields(config)}
    own.add("actor.backend")
    unknown = [name for name in [*DESCRIPTIONS, *NO_EFFECT] if name not in actions]
    assert not unknown, f"no flags of OpenRLHF: {', '.join(unknown)}"
    parts = [_INTRODUCTION]
    for section, title in TOPICS.items():
        if section != "critic":
            parts.append(f"## {section}: {title}\n")
        for heading, known in (("", own), ("OpenRLHF's:\n\n", DESCRIPTIONS)):
            names = sorted(name for name in actions if name.startswith(f"{section}.") and name in known)
            if names:
                table = _table([_row(actions[name]) for name in names])
                parts.append(f"{heading}{table}\n")
    rest = sorted(set(actions) - own - set(DESCRIPTIONS) - {"help", "config", "local_rank"})
    parts.append(_remaining(rest))
    return "\n".join(parts)


def _remaining(rest: list[str]) -> str:
    return (
        "## Other flags\n\n`--config FILE.yaml` reads flags from a file; it may be given several times.\n\n"
        "With the Megatron actor these flags change nothing:\n\n"
        f"{_listed(NO_EFFECT)}\n\nFurther flags of OpenRLHF, some of which are refused "
        "(see [what is refused](index.md#what-works)):\n\n"
        f"{_listed([name for name in rest if name not in NO_EFFECT])}\n"
    )


def _listed(names: list[str]) -> str:
    """Flags in lines of at most 120 characters."""
    lines = [""]
    for name in names:
        word = f"`--{name}`" + ("," if name != names[-1] else ".")
        if len(lines[-1]) + 1 + len(word) > 120:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return "\n".join(lines)


def _table(rows: list[tuple[str, ...]]) -> str:
    header = ("flag", "takes", "default", "what it does", "may change on")
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))


def _row(action: argparse.Action) -> tuple[str, ...]:
    name = action.dest
    text = DESCRIPTIONS.get(name) or _FLAG.sub(r"`\g<0>`", (action.help or "").strip())
    changes = [word for word, may in (("resume", may_change_on_resume), ("reuse", may_change_on_reuse)) if may(name)]
    text = text.replace("|", "\\|").replace(" * ", " \\* ")
    return f"`--{name}`", _takes(action), _default(action), text, ", ".join(changes)


def _takes(action: argparse.Action) -> str:
    """What follows the flag on a command line."""
    choices = action.choices or CHOICES.get(action.dest)
    if choices is not None:
        return ", ".join(f"`{choice}`" for choice in choices)
    if action.nargs == 0:
        return "on or off"
    limits = ranges().get(action.dest)
    kinds: dict[object, str] = {int: "a whole number", float: "a number"}
    kind = "a path" if action.dest in path_flags() else kinds.get(action.type, "text")
    if limits is not None:
        # "a number above 0" names the kind already, except that of whole numbers.
        within = str(limits).removeprefix("a number ").removeprefix("a ")
        kind = f"{kind}, {within}" if str(limits)[0].isdigit() or str(limits)[0] == "-" else f"{kind} {within}"
        kind = kind.replace("a number finite number", "a finite number")
    many = {2: "two of: ", "+": "one or more of: ", "*": "any number of: "}
    return f"{many.get(action.nargs, '')}{kind}"


def _default(action: argparse.Action) -> str:
    value = action.default
    if action.dest in DEFAULTS:
        return DEFAULTS[action.dest]
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return f"`{' '.join(str(one) for one in value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _stale_lines(text: str) -> Iterator[str]:
    """The first lines in which the page differs from the declarations."""
    found = PAGE.read_text(encoding="utf-8").split("\n") if PAGE.exists() else []
    for number, line in enumerate(text.split("\n"), 1):
        if number > len(found) or found[number - 1] != line:
            yield f"line {number}: {line[:100]}"
            return


def main() -> int:
    """Write or check the page; return the exit status."""
    text = page()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(
        f"{PAGE.name} is not up to date ({', '.join(_stale_lines(text))}): run .venv/bin/python docs/generate_flags.py"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
