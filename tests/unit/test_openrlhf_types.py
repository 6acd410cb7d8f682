"""The declarations of OpenRLHF's classes for the type checker must match the installed OpenRLHF."""

import ast
import dataclasses
import inspect
import textwrap
from typing import Any

import pytest

from openrlhf_sfpo.orchestration import openrlhf_types
from openrlhf_sfpo.orchestration.openrlhf_types import NAMES
from openrlhf_sfpo.rollout.engine_handle import EngineHandle
from openrlhf_sfpo.system import flash_attn_stub
from openrlhf_sfpo.system.replacements import MISSING, parameters, resolve


def declared_classes() -> set[type]:
    found = {one for one in vars(openrlhf_types).values() if isinstance(one, type)}
    return {
        one for one in found if one.__module__ == openrlhf_types.__name__ and not getattr(one, "_is_protocol", False)
    }


def assigned_to_self(theirs: type) -> set[str]:
    """The attributes that the methods of a class and of its bases set."""
    found = set()
    for base in inspect.getmro(theirs):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # implemented in C
            continue
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            ):
                found.add(node.attr)
    return found


def missing(ours: type, path: str) -> list[str]:
    """What a class declares and the installed one does not have, or has with other parameters."""
    theirs = resolve(path)
    wrong = []
    methods = {name: value for name, value in vars(ours).items() if inspect.isfunction(value)}
    if dataclasses.is_dataclass(ours):
        methods = {}
    for name, method in methods.items():
        found, declared = parameters(path, name), tuple(inspect.signature(method).parameters)
        if found == MISSING or (found != declared and found is not None):
            wrong.append(f"{name}{declared}, but it is {found}")
        elif inspect.iscoroutinefunction(method) != inspect.iscoroutinefunction(getattr(theirs, name)):
            wrong.append(f"async {name}")
    known = assigned_to_self(theirs)
    known |= {one.name for one in dataclasses.fields(theirs)} if dataclasses.is_dataclass(theirs) else set()
    wrong += [name for name in ours.__annotations__ if name not in known and not hasattr(theirs, name)]
    return wrong


def test_every_declared_class_has_its_names_listed() -> None:
    assert declared_classes() == NAMES.keys()


@pytest.mark.parametrize("ours", NAMES, ids=lambda one: one.__name__)
def test_the_installed_openrlhf_has_what_is_declared(ours: type) -> None:
    flash_attn_stub.install_if_missing()
    assert missing(ours, NAMES[ours]) == []


def test_classes_derive_as_openrlhfs_do() -> None:
    flash_attn_stub.install_if_missing()
    for ours in NAMES:
        for base in ours.__bases__:
            if base in NAMES:
                assert issubclass(resolve(NAMES[ours]), resolve(NAMES[base])), ours


def test_an_engine_has_the_methods_that_are_called_through_its_handle() -> None:
    flash_attn_stub.install_if_missing()
    from openrlhf_sfpo.orchestration.engine import RolloutEngine

    declared = EngineHandle.__annotations__.keys()
    assert {name for name in declared if not inspect.isfunction(getattr(RolloutEngine, name, None))} == set()


def test_names_that_openrlhf_lacks_are_found() -> None:
    flash_attn_stub.install_if_missing()

    class Changed:
        args: Any
        no_such_attribute: int

        def fit(self, global_step: int = 0) -> None: ...

        def train_step(self, samples: list[Any], global_step: int) -> None: ...

        def train_steps(self) -> None: ...

    found = missing(Changed, NAMES[openrlhf_types.BasePPOTrainer])
    assert [one.partition("(")[0] for one in found] == ["train_step", "train_steps", "no_such_attribute"]
