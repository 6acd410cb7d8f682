"""The parser: every flag of OpenRLHF's train_ppo_ray, ours beside them, and YAML files with the same names."""

import argparse
import ast
import importlib.util
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from openrlhf_sfpo.config import CHANGED_DEFAULTS, add_flags
from openrlhf_sfpo.errors import UsageError

_OPENRLHF_CLI = "openrlhf/cli/train_ppo_ray.py"


def openrlhf_parser() -> argparse.ArgumentParser:
    """OpenRLHF's own parser, without importing OpenRLHF (which takes vLLM, DeepSpeed and twenty seconds with it).

    Its parser is built by statements under `if __name__ == "__main__"`; those up to parse_args are run here.
    """
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("openrlhf", "is not installed.", "Install it (see the README).")
    source = Path(spec.submodule_search_locations[0]).parent / _OPENRLHF_CLI
    main_block = next(
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    )
    end = next(index for index, node in enumerate(main_block.body) if "parse_args" in ast.unparse(node))
    # A patched OpenRLHF adds our flags there.
    own = [node for node in main_block.body[:end] if not ast.unparse(node).startswith("if existing:")]
    building = ast.Module(body=own, type_ignores=[])
    scope: dict[str, Any] = {"argparse": argparse, "datetime": datetime}
    exec(compile(building, str(source), "exec"), scope)
    return scope["parser"]


def build_parser() -> argparse.ArgumentParser:
    """OpenRLHF's parser with our flags, defaults and help."""
    parser = openrlhf_parser()
    parser.prog = "openrlhf-sfpo train"
    parser.allow_abbrev = False
    # The usage of all these flags is several screens long and would push the error out of sight.
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message} (--help lists all flags)\n")
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    changed = "; ".join(f"--{name} {value} ({why})" for name, (value, why) in CHANGED_DEFAULTS.items())
    parser.description = (
        "Train a model with SFPO. Takes every flag of OpenRLHF's train_ppo_ray, with these defaults changed: "
        f"{changed}. --ckpt.path, --ckpt.output_dir and --logger.tensorboard_dir default to places inside --run.dir."
    )
    for action in parser._actions:
        action.help = action.help or " "  # a blank still makes argparse show the default
    add_flags(parser)
    return parser


def parse(argv: list[str]) -> tuple[argparse.Namespace, set[str]]:
    """Flags from a --config file (if any) and the command line, which has the last word.

    Returns:
        The flat namespace with dotted names, and the names that were set rather than left at their defaults.

    Raises:
        UsageError: the file is missing, not YAML, or has a name that is no flag.
        SystemExit: argparse's own errors, status 2.
    """
    config_only = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_only.add_argument("--config")
    path = config_only.parse_known_args(argv)[0].config
    settings = flatten(read_yaml("--config", Path(path))) if path else {}
    return parse_settings(settings, f"--config {path}", argv)


def parse_settings(
    settings: dict[str, Any], source: str, argv: Sequence[str] = ()
) -> tuple[argparse.Namespace, set[str]]:
    """As `parse`, with settings that are already read.

    Args:
        settings: values by dotted name.
        source: where they come from, for errors.
        argv: flags that have the last word.
    """
    parser = build_parser()
    words = [*_as_arguments(parser, settings, source), *argv]
    namespace = parser.parse_args(words)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    parser._defaults.clear()
    return namespace, set(vars(parser.parse_args(words)))


def read_yaml(flag: str, path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `flag` is who asked for it.

    Raises:
        UsageError: the file is missing, not YAML, or something else than a mapping.
    """
    if not path.is_file():
        raise UsageError(flag, f"{path} does not exist.", "Give the path of a YAML file.")
    try:
        content = yaml.load(path.read_text(), _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(flag, f"{path} is not YAML ({error}).", "Mend it.") from None
    if not isinstance(content, dict):
        raise UsageError(flag, f"{path} is not a mapping of names to values.", "Write `name: value` lines.")
    return content


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as the number it is to everybody else; YAML 1.1 wants 1.0e-4."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _as_arguments(parser: argparse.ArgumentParser, settings: dict[str, Any], source: str) -> list[str]:
    """Settings as command-line words, so that argparse checks them like flags."""
    actions = {action.dest: action for action in parser._actions}
    words: list[str] = []
    for name, value in settings.items():
        action = actions.get(name)
        if action is None or name == "config":
            raise UsageError(
                source, f"sets {name!r}, which is no flag.", "See openrlhf-sfpo train --help for the names."
            )
        words += _words(action, value)
    return words


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted names as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _words(action: argparse.Action, value: Any) -> list[str]:
    option = action.option_strings[0]
    if value is None:
        return []
    if isinstance(action, argparse.BooleanOptionalAction):
        return [option if value else action.option_strings[1]]
    if action.nargs == 0:  # store_true: there is no word for false, which is the default
        return [option] if value else []
    if isinstance(value, list):
        return [option, *map(str, value)]
    return [f"{option}={value}"]
