"""Every flag that the code reads from nested arguments exists: mypy sees only that sections have attributes."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

from openrlhf_sfpo.cli.flags import build_parser

PACKAGE = ROOT / "openrlhf_sfpo"
# Objects that hold the nested flags, by the names that the code gives them.
HOLDERS = ("args", "self.args", "self._args", "strategy.args", "self.strategy.args", "trainer.args", "generator.args")


@cache
def destinations() -> frozenset[str]:
    return frozenset(action.dest for action in build_parser()._actions)


def reads(source: str) -> Iterator[tuple[int, str]]:
    """The longest chains of attributes of the flags' holders, without the holder: `sfpo.k` of `args.sfpo.k`."""
    tree = ast.parse(source)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            text = ast.unparse(node)
            holder = next((one for one in HOLDERS if text.startswith(f"{one}.")), None)
            if holder is not None:
                yield node.lineno, text.removeprefix(f"{holder}.")


def unknown(source: str) -> list[str]:
    """The reads of flags that do not exist. What follows a flag is an attribute of its value."""
    sections = {name[: name.index(".")] for name in destinations() if "." in name}
    found = []
    for line, read in reads(source):
        parts = read.split(".")
        prefixes = {".".join(parts[: index + 1]) for index in range(len(parts))}
        is_section = any(name.startswith(f"{read}.") for name in destinations())
        if parts[0] in sections and not is_section and not prefixes & destinations():
            found.append(f"line {line}: {read}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_flags_that_exist_are_read(path: Path) -> None:
    assert unknown(path.read_text(encoding="utf-8")) == []


def test_a_flag_that_does_not_exist_is_found() -> None:
    code = "args.rollout.engin_timeout + self.args.sfpo.k\nstrategy.args.sfpo\nargs.model.parent\nargs.ckpt.path.name"
    assert unknown(code) == ["line 1: rollout.engin_timeout"]
    found = {read for _, read in reads(code)}
    assert found == {"rollout.engin_timeout", "sfpo.k", "sfpo", "model.parent", "ckpt.path.name"}
