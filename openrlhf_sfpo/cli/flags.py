"""All flags, OpenRLHF's train_ppo_ray's and ours, from a command line and from YAML files.

argparse holds the declarations and prints the help. Parsing is done here, because a command line and a file must give
the same values, with errors that name the flag, the place and the likely correction.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openrlhf_sfpo.cli import derived
from openrlhf_sfpo.config import suggestions
from openrlhf_sfpo.config.flag_table import add_flags
from openrlhf_sfpo.config.flags import CHANGED_DEFAULTS
from openrlhf_sfpo.config.settings_file import Section, flatten, read_yaml
from openrlhf_sfpo.config.values import value_of
from openrlhf_sfpo.orchestration.openrlhf_parser import openrlhf_parser
from openrlhf_sfpo.system.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """OpenRLHF's parser with our flags, defaults and help."""
    parser = openrlhf_parser()
    parser.prog = "openrlhf-sfpo train"
    parser.allow_abbrev = False
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    changed = "; ".join(f"--{name} {value} ({why})" for name, (value, why) in CHANGED_DEFAULTS.items())
    parser.description = (
        "Train a model with SFPO. Takes every flag of OpenRLHF's train_ppo_ray, with these defaults changed: "
        f"{changed}. --ckpt.path, --ckpt.output_dir and --logger.tensorboard_dir default to places inside --run.dir."
    )
    for action in parser._actions:
        action.help = action.help or " "  # a blank makes argparse show the default
    add_flags(parser)
    return parser


class Flags:
    """The flags by the names of their options, without dashes. The prefix "no-" switches a flag off, even one that
    OpenRLHF's own parser can only switch on."""

    def __init__(self) -> None:
        self.parser = build_parser()
        self._actions: dict[str, argparse.Action] = {}
        for action in self.parser._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            self._actions |= {option.removeprefix("--"): action for option in action.option_strings}
            if isinstance(action, argparse._StoreTrueAction):
                self._actions[f"no-{action.dest}"] = action

    @property
    def names(self) -> list[str]:
        """The names of all flags."""
        return list(self._actions)

    def defaults(self) -> dict[str, Any]:
        """Every flag's default, by dotted name."""
        return vars(self.parser.parse_args([]))

    def read_settings(self, settings: dict[str, Any], source: str = "") -> dict[str, Any]:
        """The values of settings, by dotted name; null settings are skipped.

        Args:
            settings: text, lists or values by name.
            source: where they come from, if `settings` does not record it.

        Raises:
            UsageError: a name is not a flag's, or a value is not valid for it.
        """
        found: dict[str, Any] = {}
        set_by: dict[str, str] = {}
        for name, value in settings.items():
            place = getattr(settings, "places", {}).get(name, "")
            action = self._actions.get(name)
            if action is None or name == "config" or name.startswith("no-"):
                if self._is_empty_section(name, value):
                    continue
                raise suggestions.unknown_setting(name, place or source, self.names)
            if value is None:
                continue
            if action.dest in found:
                other = set_by[action.dest]
                raise UsageError(place or source, f"sets {other!r} and {name!r}, which are one flag.", "Keep one.")
            found[action.dest], set_by[action.dest] = value_of(action, value, place), name
        return found

    def _is_empty_section(self, name: str, value: object) -> bool:
        """Whether it is a section whose lines are all commented out."""
        nothing = value is None or (isinstance(value, Section) and not value)
        return nothing and any(flag.startswith(f"{name}.") for flag in self._actions)

    def read_words(self, words: Sequence[str]) -> dict[str, Any]:
        """The values of a command line, by dotted name. If a flag is repeated, the last value counts; `config` collects
        all its values.

        Raises:
            UsageError: a word is not a flag, or a value is not valid for it.
        """
        found: dict[str, Any] = {}
        for flag, action, given in self._split(words):
            if action.nargs == 0:
                value = value_of(action, not flag.startswith("--no-"))
            else:
                value = value_of(action, given if action.nargs is not None else given[0])
            found[action.dest] = [*found.get("config", []), value] if action.dest == "config" else value
        return found

    def _split(self, words: Sequence[str]) -> Iterator[tuple[str, argparse.Action, list[str]]]:
        """Yield each flag as it was written, its action, and the words that follow it."""
        rest = list(words)
        last: str | None = None
        switch = False
        while rest:
            word = rest.pop(0)
            flag, equals, text = word.partition("=")
            if not suggestions.looks_like_a_flag(flag):
                raise suggestions.stray_word(word, last, switch, self.names)
            action = self._actions.get(flag.removeprefix("--")) if flag.startswith("--") else None
            if action is None:
                raise suggestions.unknown_flag(flag, [*self.names, "dry-run", "help"])
            last, switch = flag, action.nargs == 0
            if switch and equals:
                raise suggestions.takes_no_value(flag, text)
            given = [text] if equals else []
            limit = action.nargs if isinstance(action.nargs, int) else 1 if action.nargs in (None, "?") else len(words)
            while len(given) < limit and rest and not suggestions.ends_values(rest[0]):
                given.append(rest.pop(0))
            if action.nargs is None and not given:
                raise suggestions.lacks_value(flag, rest[0] if rest else None, self.names)
            yield flag, action, given


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, set[str]]:
    """Flags from --config files and the command line. Later files win over earlier ones, and the command line over all.

    Returns:
        The flat namespace with dotted names, and the names that were set rather than left at their defaults.

    Raises:
        UsageError: a flag or a setting is wrong; the file is missing or wrong.
    """
    flags = Flags()
    words = flags.read_words(argv)
    files = [(path, flatten(read_yaml("--config", Path(path)))) for path in words.get("config", [])]
    found: dict[str, Any] = {}
    run_dir = words.get("run.dir")
    for path, settings in reversed(files):
        layer = derived.of_this_run(Path(path), settings, {"run.dir": run_dir})
        run_dir = run_dir or layer.get("run.dir")
        found = {**flags.read_settings(layer, f"--config {path}"), **found}
    return _together(flags, {**found, **words})


def parse_settings(settings: dict[str, Any], source: str) -> tuple[argparse.Namespace, set[str]]:
    """Like `parse`, for settings that have already been read.

    Args:
        settings: text, lists or values by dotted name.
        source: where they come from, for errors.
    """
    flags = Flags()
    return _together(flags, flags.read_settings(settings, source))


def _together(flags: Flags, given: dict[str, Any]) -> tuple[argparse.Namespace, set[str]]:
    for name in given.get("run.allow_changed", []):
        if name.removeprefix("--") not in flags.names:
            advice = suggestions.unknown_setting(name, "", flags.names).fix
            raise UsageError("--run.allow_changed", f"names {name!r}, which is not a flag.", advice)
    return argparse.Namespace(**{**flags.defaults(), **given}), set(given)
