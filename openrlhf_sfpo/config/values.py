"""Converts text of a command line or a file to flag values, with errors that name the flag and the place."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openrlhf_sfpo.config.flag_table import path_flags
from openrlhf_sfpo.config.openrlhf_flags import SOURCES
from openrlhf_sfpo.config.settings_file import Section, flow_list
from openrlhf_sfpo.config.suggestions import meant, truth
from openrlhf_sfpo.system.errors import UsageError

# Text flags for which the empty text is a valid value.
_MAY_BE_EMPTY = frozenset({"ckpt.best_metric_key"})
_KINDS: dict[Any, tuple[str, str]] = {
    int: ("not a whole number", "Write one, such as 8."),
    float: ("not a number", "Write one, such as 0.5 or 1e-6."),
}
_YAML_FLOATS = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def value_of(action: argparse.Action, given: object, place: str = "") -> Any:
    """Convert a flag's value.

    Args:
        action: the flag.
        given: text, or texts in a list; numbers and booleans are accepted, too. A flag without a value on a command
            line is given as True.
        place: where it was read, if in a file.

    Raises:
        UsageError: naming the flag, the value and the place.
    """
    flag = action.option_strings[0]
    if isinstance(given, Section | dict):
        fix = "" if given or action.type in _KINDS else " If {} is meant as text, put it in quotes: '{}'."
        raise _error(flag, "is given a mapping", place, f"Give it a value.{fix}")
    if action.nargs == 0:
        return _boolean(action, given, place)
    convert = _converter(action, place)
    if action.nargs is None:
        if isinstance(given, list | tuple):
            joined = ",".join(map(_text, given))
            many = action.dest in SOURCES
            fix = f"Separate them with commas: {joined}" if many else "Write one without brackets."
            raise _error(flag, "is given a list, and takes one value", place, fix)
        value = convert(_text(given))
        # A few floats have integer defaults: 1 and 1.0 must not look like different settings.
        return action.default if action.type is float and value == action.default else value
    if isinstance(given, str):
        if action.default == given and isinstance(action.default, str):
            return given  # a default that is not a list, as written to config.yaml
        given = flow_list(given) or ([given] if action.nargs in ("*", "+") else given.replace(",", " ").split())
    items = list(given) if isinstance(given, list | tuple) else [given]
    _check_count(action, items, place)
    values = [convert(_text(item)) for item in items]
    same = isinstance(action.default, list | tuple) and list(action.default) == values
    return type(action.default)(action.default) if same else values


def _check_count(action: argparse.Action, items: list[Any], place: str) -> None:
    flag, count = action.option_strings[0], len(items)
    if any(isinstance(item, list | dict) or item is None for item in items):
        raise _error(flag, "is given a list with something else than values in it", place, "Give it plain values.")
    if isinstance(action.nargs, int) and count != action.nargs:
        raise _error(flag, f"takes {action.nargs} values, and has {count}", place, f"Give it {action.nargs}.")
    if action.nargs == "+" and not count:
        raise _error(flag, "has no value", place, "Give it one or more.")


def _boolean(action: argparse.Action, given: object, place: str) -> bool:
    asked = given if isinstance(given, bool) else truth(_text(given)) if not isinstance(given, list) else None
    if asked is None:
        raise _error(action.option_strings[0], f"is {given!r}, which is not a boolean", place, "Write true or false.")
    # --muon.no_nesterov sets the flag without "no_" to false.
    return asked if action.const is None or action.const else not asked


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _converter(action: argparse.Action, place: str) -> Callable[[str], Any]:
    flag, kind = action.option_strings[0], action.type
    name = action.dest

    def convert(text: str) -> Any:
        if kind in _KINDS:
            try:
                return kind(_YAML_FLOATS.get(text.lower(), text) if kind is float else text)  # type: ignore[operator, misc]
            except ValueError:
                what, fix = _KINDS[kind]
                raise _error(flag, f"is {text!r}, which is {what}", place, fix) from None
        if action.choices is not None and text not in action.choices:
            hint = meant(name, text, map(str, action.choices))
            fix = f"Use one of {', '.join(map(str, action.choices))}."
            raise _error(flag, f"is {text!r}", place, f"{hint} {fix}".strip())
        if not text.strip() and name not in _MAY_BE_EMPTY:
            hint = "" if place else " (is a variable of the shell not set?)"
            raise _error(flag, f"is empty{hint}", place, "Give it a value, or drop it.")
        if name in path_flags():
            return expanded(flag, text, place)
        if name in SOURCES:
            return _sources(flag, text, place)
        return text

    return convert


def _sources(flag: str, text: str, place: str) -> str:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise _error(flag, f"is {text!r}, with nothing between two commas or at an end", place, "Drop the comma.")
    # Generated data sets and URLs have no home directory.
    return ",".join(
        part if "://" in part or ":" in part.split(".")[0] else expanded(flag, part, place) for part in parts
    )


def expanded(flag: str, text: str, place: str = "") -> str:
    """A path with the home directory and environment variables expanded.

    Args:
        flag: the flag that names it.
        text: the path.
        place: where it was read, if in a file.

    Raises:
        UsageError: there is no such home directory or variable.
    """

    def variable(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        if not os.environ.get(name):
            raise _error(flag, f"is {text!r}, and the variable {name} is not set", place, "Set it, or write the path.")
        return os.environ[name]

    path = _VARIABLE.sub(variable, text)
    if not path.startswith("~"):
        return path
    home = os.path.expanduser(path)
    if home.startswith("~"):
        raise _error(
            flag, f"is {text!r}, and {path.split('/')[0]} has no home directory here", place, "Write the path."
        )
    return home


def as_path(text: str) -> Path:
    """A path on a command line, for argparse: not empty, with the home directory expanded."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty (is a variable of the shell not set?)")
    try:
        return Path(expanded("", text))
    except UsageError as error:
        raise argparse.ArgumentTypeError(error.problem) from None


def _error(flag: str, problem: str, place: str, fix: str) -> UsageError:
    return UsageError(flag, f"{problem} ({place})." if place else f"{problem}.", fix)
