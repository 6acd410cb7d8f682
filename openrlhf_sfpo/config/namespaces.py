"""Flags by dotted name ("a.b"), and as the nested namespaces (args.a.b) that OpenRLHF passes around."""

import argparse
from types import SimpleNamespace
from typing import Any


def nested(flat: argparse.Namespace) -> SimpleNamespace:
    """Dotted names as nested namespaces: `a.b` becomes args.a.b, as OpenRLHF does it."""
    root: dict[str, Any] = {}
    for name, value in vars(flat).items():
        *sections, leaf = name.split(".")
        node = root
        for part in sections:
            node = node.setdefault(part, {})
        node[leaf] = value

    def build(node: Any) -> Any:
        return SimpleNamespace(**{k: build(v) for k, v in node.items()}) if isinstance(node, dict) else node

    return build(root)


def dotted(args: Any, prefix: str = "") -> dict[str, Any]:
    """The opposite of `nested`: values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in vars(args).items():
        if isinstance(value, argparse.Namespace | SimpleNamespace):
            flat.update(dotted(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def value_of(args: Any, name: str, *default: Any) -> Any:
    """A flag's value in nested arguments, by dotted name; `default` where there is no such flag."""
    value = args
    for part in name.split("."):
        value = getattr(value, part, *default)
    return value
