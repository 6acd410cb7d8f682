"""Run-time checks of tensor shapes and dtypes at the seams between rooms.

The package writes them into its annotations, as `Annotated[torch.Tensor, "float32 rows width"]`: a dtype and the
dimensions. A name means the same size everywhere in one call, or in one object of a dataclass; sums such as `length-1`
are computed. jaxtyping does the checking.
"""

import dataclasses
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import jaxtyping
import torch
from jaxtyping import jaxtyped

# Modules with such annotations, on functions, on methods and on dataclasses, whose fields are checked.
SEAMS = (
    "openrlhf_sfpo.megatron.actor",
    "openrlhf_sfpo.megatron.data.batching",
    "openrlhf_sfpo.megatron.data.exchange",
    "openrlhf_sfpo.megatron.data.rollout_batch",
    "openrlhf_sfpo.megatron.model.log_probs",
    "openrlhf_sfpo.megatron.train.loss",
    "openrlhf_sfpo.sfpo.slow_copy",
)
# This one imports OpenRLHF, so it is checked only where it is already loaded.
IF_LOADED = ("openrlhf_sfpo.orchestration.loss",)
DTYPES = {"float32": jaxtyping.Float32, "int64": jaxtyping.Int64, "bool": jaxtyping.Bool, "float": jaxtyping.Float}


class ShapeError(TypeError):
    """A tensor is not what the annotation says."""


def install() -> int:
    """Check from now on; return how many functions and dataclasses are checked. Calling it again does nothing."""
    names = [*SEAMS, *(name for name in IF_LOADED if name in sys.modules)]
    return sum(_install(importlib.import_module(name)) for name in names)


def _install(module: types.ModuleType) -> int:
    count = 0
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) and _has_shapes(value):
            _replace_everywhere(value, checking(value))
            count += 1
        elif inspect.isclass(value):
            count += _install_in_class(value)
    return count


def _install_in_class(cls: type) -> int:
    count = 0
    for name, value in list(vars(cls).items()):
        if inspect.isfunction(value) and _has_shapes(value) and not name.startswith("__init"):
            setattr(cls, name, checking(value))
            count += 1
    if dataclasses.is_dataclass(cls) and not hasattr(cls, "_shapes_checked") and _shapes_of(cls):
        target: Any = cls
        target.__init__ = _then_checked(cls, target.__init__)
        target._shapes_checked = True
        count += 1
    return count


def checking(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that checks its arguments and what it returns."""
    hints, signature = _shapes_of(function), inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if name in hints:
                    _check(f"{function.__qualname__}: {name}", value, hints[name])
            result = function(*args, **kwargs)
            if "return" in hints:
                _check(f"{function.__qualname__}: what it returns", result, hints["return"])
            return result

    marked: Any = checked
    marked.checks_shapes = True
    return marked


def _then_checked(cls: type, init: Callable[..., None]) -> Callable[..., None]:
    hints = _shapes_of(cls)

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        with jaxtyped("context"):
            for name, hint in hints.items():
                _check(f"{cls.__name__}.{name}", getattr(self, name), hint)

    return checked


def _check(where: str, value: Any, hint: Any) -> None:
    """Check `value` against a type: an annotated tensor, or a list, tuple, mapping or union of such."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        dtype, _, dimensions = inner[1].partition(" ")
        wanted: Any = DTYPES[dtype][torch.Tensor, dimensions]
        if not isinstance(value, wanted):
            found = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
            raise ShapeError(f"{where} is {found}, and should be {inner[1]}")
    elif origin in (typing.Union, types.UnionType):
        if value is not None:
            _check(where, value, next(one for one in inner if one is not type(None)))
    elif origin is tuple and len(inner) > 1 and inner[1] is not Ellipsis:
        for index, (one, part) in enumerate(zip(value, inner, strict=True)):
            _check(f"{where}[{index}]", one, part)
    elif inspect.isclass(origin) and issubclass(origin, Mapping):
        for key, one in value.items():
            _check(f"{where}[{key!r}]", one, inner[1])
    elif inspect.isclass(origin) and issubclass(origin, Sequence):
        for index, one in enumerate(value):
            _check(f"{where}[{index}]", one, inner[0])


def _has_shapes(function: Callable[..., Any]) -> bool:
    return not hasattr(function, "checks_shapes") and bool(_shapes_of(function))


def _shapes_of(target: Any) -> dict[str, Any]:
    """The annotations of the target that contain a shape."""
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except NameError:  # names that are imported for type checkers only
        hints = dict(getattr(target, "__annotations__", {}))
    return {name: hint for name, hint in hints.items() if any(_annotated(hint))}


def _annotated(hint: Any) -> Iterator[str]:
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        if isinstance(inner[1], str) and inner[1].partition(" ")[0] in DTYPES:
            yield inner[1]
        return
    for part in inner:
        yield from _annotated(part)


def _replace_everywhere(function: Any, replacement: Any) -> None:
    """Replace a function in all modules of the package that have imported it by name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("openrlhf_sfpo"):
            for key, value in list(vars(module).items()):
                if value is function:
                    setattr(module, key, replacement)
