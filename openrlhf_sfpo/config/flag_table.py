"""What is derived from the declarations in `flags`: the parser, ranges, what may change, and the actor's settings.

Importing this file imports nothing heavy, so that --help and bad flags are answered at once.
"""

import argparse
import dataclasses
import functools
import types
import typing
from collections.abc import Collection, Iterator
from typing import Any, Literal

from openrlhf_sfpo.config import openrlhf_flags
from openrlhf_sfpo.config.flags import CHANGED_DEFAULTS, SECTIONS
from openrlhf_sfpo.config.namespaces import NestedFlags, value_of
from openrlhf_sfpo.config.ranges import Range


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --config, --actor.backend and a flag for every field of `SECTIONS`, and set the changed defaults."""
    parser.add_argument(
        "--config",
        metavar="FILE.yaml",
        help="settings with the same names as the flags, nested or not; given several times, later files win",
    )
    add_sections(parser, SECTIONS, backend="megatron")
    parser.set_defaults(**{name: value for name, (value, _) in CHANGED_DEFAULTS.items()})


def add_sections(parser: argparse.ArgumentParser, names: Collection[str], backend: str) -> None:
    """Add --actor.backend, and the flags of some of the sections.

    Args:
        parser: with OpenRLHF's own flags.
        names: of sections.
        backend: the default.
    """
    parser.add_argument(
        "--actor.backend",
        choices=("megatron", "deepspeed"),
        default=backend,
        help="what trains the policy: Megatron-Core (--megatron.*), or OpenRLHF's own actor on DeepSpeed ZeRO (--ds.*)",
    )
    for section in names:
        config = SECTIONS[section]
        group = parser.add_argument_group(f"openrlhf_sfpo: {section}", config.__doc__)
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            group.add_argument(
                f"--{section}.{field.name}",
                default=field.default,
                help=field.metadata["help"],
                **_argument_type(hints[field.name]),
            )


def ranges() -> dict[str, Range]:
    """The range of every flag that takes numbers, by dotted name."""
    own = {name: field.metadata["limits"] for name, field in _fields() if field.metadata["limits"] is not None}
    return {**openrlhf_flags.RANGES, **own}


def path_flags() -> frozenset[str]:
    """The flags whose value is a path, by dotted name."""
    return openrlhf_flags.PATHS | {name for name, field in _fields() if field.metadata["is_path"]} | {"config"}


def may_change_on_resume(name: str) -> bool:
    """Whether a run may be continued with another value of a flag. `name` is the dotted name of any flag."""
    return _may_change("resume", openrlhf_flags.RESUME, name)


def may_change_on_reuse(name: str) -> bool:
    """Whether a run may reuse workers that ran with another value of a flag. `name` is the dotted name of any flag."""
    return _may_change("reuse", openrlhf_flags.REUSE, name)


@functools.cache
def _may_change(what: str, of_openrlhf: tuple[str, ...], name: str) -> bool:
    own = {flag: field.metadata[what] for flag, field in _fields()}
    return own[name] if name in own else openrlhf_flags.is_one_of(name, of_openrlhf)


def _fields() -> Iterator[tuple[str, Any]]:
    for section_name, config in SECTIONS.items():
        for field in dataclasses.fields(config):
            yield f"{section_name}.{field.name}", field


def device_defaults(cuda: bool) -> dict[str, Any]:
    """The meaning of None, by dotted name, for flags whose default depends on the device."""
    return {
        name: field.metadata["by_device"][0 if cuda else 1]
        for name, field in _fields()
        if field.metadata["by_device"] is not None
    }


def setting_flags() -> dict[str, str]:
    """The flag for each setting of the Megatron actor: dotted name by name of the setting."""
    own = {field.metadata["setting"]: name for name, field in _fields() if field.metadata["setting"] is not None}
    return {**openrlhf_flags.SETTINGS, **own}


def settings(args: NestedFlags) -> dict[str, Any]:
    """The values of the Megatron actor's settings, by the name of the setting."""
    values = {setting: value_of(args, flag) for setting, flag in setting_flags().items()}
    for _, field in _fields():
        if field.metadata["convert"] is not None:
            values[field.metadata["setting"]] = field.metadata["convert"](values[field.metadata["setting"]])
    if args.actor.gradient_checkpointing_enable:  # OpenRLHF's flag for recomputation
        values["recompute"] = "full"
    return values


def defaults(name: str) -> dict[str, Any]:
    """The defaults of a section's flags, by dotted name."""
    return {f"{name}.{field.name}": field.default for field in dataclasses.fields(SECTIONS[name])}


@functools.cache
def own_defaults() -> dict[str, Any]:
    """The defaults of all flags declared in `flags`, by dotted name: what a run of a version without them has."""
    return {name: field.default for name, field in _fields()}


def section(config: type[Any], args: NestedFlags) -> Any:
    """A section's namespace as a dataclass whose fields are flags of it, such as SFPOConfig from args.sfpo."""
    return config(**{field.name: getattr(args, field.name) for field in dataclasses.fields(config)})


def _argument_type(hint: object) -> dict[str, Any]:
    """argparse keywords for a field's type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return {"choices": typing.get_args(hint)}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple:
        return {"type": typing.get_args(hint)[0], "nargs": "*"}
    return {"type": hint}
