"""Flags by dotted name ("a.b"), and as the nested namespaces (args.a.b) that OpenRLHF passes around."""

import argparse
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

# What OpenRLHF passes around: a namespace for each section of the flags' names.
NestedFlags: TypeAlias = argparse.Namespace | SimpleNamespace


class HoldsFlags(Protocol):
    """The part of OpenRLHF's strategy objects that this package uses."""

    @property
    def args(self) -> Any:
        """The nested flags."""


def nested(flat: argparse.Namespace) -> SimpleNamespace:
    """Dotted names as nested namespaces: `a.b` becomes args.a.b, as OpenRLHF does it."""
    root: dict[str, Any] = {}
    for name, value in vars(flat).items():
        *sections, leaf = name.split(".")
        node = root
        for part in sections:
            node = node.setdefault(part, {})
        node[leaf] = value

    def build(node: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(**{k: build(v) if isinstance(v, dict) else v for k, v in node.items()})

    return build(root)


def dotted(args: NestedFlags, prefix: str = "") -> dict[str, Any]:
    """The inverse of `nested`: values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in vars(args).items():
        if isinstance(value, argparse.Namespace | SimpleNamespace):
            flat.update(dotted(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def value_of(args: NestedFlags, name: str, *default: Any) -> Any:
    """A flag's value in nested arguments, by dotted name; `default` if there is no such flag."""
    value = args
    for part in name.split("."):
        value = getattr(value, part, *default)
    return value
