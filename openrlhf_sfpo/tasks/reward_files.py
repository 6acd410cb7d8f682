"""Loads Python files of users (reward functions, agents) as `python FILE.py` would."""

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import absence

DEFAULT_NAME = "reward_func"


class NoFunction(TypeError):
    """A file lacks the named function."""


def split_spec(spec: str) -> tuple[str, str]:
    """(source, name) of FILE.py, FILE.py:NAME, MODULE or MODULE:NAME."""
    if spec.endswith(".py"):
        return spec, DEFAULT_NAME
    path, found, name = spec.rpartition(".py:")
    if found:
        return f"{path}.py", name or DEFAULT_NAME
    source, _, name = spec.partition(":")
    return source, name or DEFAULT_NAME


def load_file(path: str) -> ModuleType:
    """Run a Python file as a module.

    Modules next to the file can be imported, with precedence over installed ones while the file runs. The module has
    the file's name if that is free, so that other processes of the user (a process pool) can import it and its
    contents.
    """
    file = Path(path).resolve()
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # it is a .py file
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look it up
    try:
        with _imports_from(str(file.parent)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def _module_name(file: Path) -> str:
    """The file's name, unless another module has that name."""
    stem = file.stem
    unique = f"openrlhf_sfpo_user_{abs(hash(str(file))):x}_{stem.replace('.', '_')}"
    if "." in stem or stem in sys.stdlib_module_names:
        return unique
    if stem in sys.modules:
        loaded = getattr(sys.modules[stem], "__file__", None)
        return stem if loaded and os.path.realpath(loaded) == str(file) else unique
    try:
        found = importlib.util.find_spec(stem)
    except (ImportError, ValueError):
        return unique
    return stem if found is None or os.path.realpath(found.origin or "") == str(file) else unique


@contextmanager
def _imports_from(directory: str) -> Iterator[None]:
    """Search the directory first during the block, and last afterwards: its modules must not shadow those that running
    libraries import later."""
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)
        if directory not in sys.path:
            sys.path.append(directory)


def check_file(flag: str, path: Path, name: str, usage: str) -> None:
    """Check that a Python file exists, is valid, and may define a name; without running it.

    Args:
        flag: the flag that names the file, for errors.
        path: the file.
        name: the name that it must define.
        usage: the fix if it does not.

    Raises:
        UsageError: it does not.
    """
    if path.is_dir():
        raise UsageError(flag, f"{path} is a directory.", "Give the path of a Python file.")
    if not path.is_file():
        raise UsageError(flag, f"{path} {absence(path)}.", "Give the path of a Python file.")
    try:
        tree = ast.parse(path.read_bytes(), filename=path.name)  # bytes: the file may declare its encoding
    except (SyntaxError, ValueError) as error:
        raise UsageError(flag, f"{path} is not valid Python ({error}).", "Fix the syntax.") from None
    names = set(_defined(tree.body))
    if name not in names and not names & {"*", "__getattr__"}:
        raise UsageError(flag, f"{path} does not define {name}.", usage)


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Names that statements define or import, also within if, try, with and loops; `*` if they cannot be determined."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
            continue
        for inner in ast.walk(node):
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield inner.name
            elif isinstance(inner, (ast.Import, ast.ImportFrom)):
                yield from (alias.asname or alias.name for alias in inner.names)
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                yield inner.id
            elif isinstance(inner, ast.Call) and getattr(inner.func, "id", "") in (
                "globals",
                "exec",
                "setattr",
                "vars",
            ):
                yield "*"


def attribute(module: ModuleType, source: str, name: str) -> Any:
    """A callable of a module.

    Raises:
        NoFunction: there is none of that name, or it is not callable.
    """
    found = getattr(module, name, None)
    if found is None:
        raise NoFunction(f"{source} does not define {name}")
    if not callable(found):
        text = repr(found)
        shown = f" ({text})" if len(text) <= 60 and "\n" not in text else ""
        raise NoFunction(f"{name} of {source} is not a function but {type(found).__name__}{shown}")
    return found
