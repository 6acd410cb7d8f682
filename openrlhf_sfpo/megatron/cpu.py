"""Megatron-Core on machines without CUDA: what takes the place of its CUDA calls.

Megatron-Core 0.16 calls torch.cuda in places where a CPU tensor and gloo would do. `install` replaces those calls in
this process; nothing else of Megatron is touched, so that what trains on CPU is the real model, the real schedules and
the real distributed optimizer. It patches torch for the whole process and is therefore installed only where the
actor really runs on CPU; it refuses where CUDA is available.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from openrlhf_sfpo.system.cpus import give_back_freed_memory, keep_freed_memory
from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
from openrlhf_sfpo.system.replacements import install_all

_CPU = torch.device("cpu")
_installed = False


class _NoStream:
    """A CUDA stream or event on a machine that has none: every operation is already in order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        return None

    synchronize = wait_stream = wait_event = record_event = record = wait = _nothing

    def query(self) -> bool:
        return True


@contextlib.contextmanager
def _no_stream_context(stream: object) -> Iterator[None]:
    yield


def _get_rng_state(device: object = None, clone: bool = False, graph_safe: bool = False) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(new_state: torch.Tensor, device: object = None, graph_safe: bool = False) -> None:
    torch.set_rng_state(new_state)


_original_type = torch.Tensor.type
_CUDA_NAMES = {
    torch.float32: "torch.cuda.FloatTensor",
    torch.float16: "torch.cuda.HalfTensor",
    torch.bfloat16: "torch.cuda.BFloat16Tensor",
}


def _tensor_type(
    self: torch.Tensor, dtype: torch.dtype | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> Any:
    if dtype is None and self.dtype in _CUDA_NAMES:
        return _CUDA_NAMES[self.dtype]
    return _original_type(self, dtype, non_blocking, **kwargs)


def _unless_alone(collective: Callable[..., Any]) -> Callable[..., Any]:
    """Megatron's reduce-scatter and all-gather work in place, so that in a group of one there is nothing to do."""

    def wrapped(
        output: torch.Tensor, input_: torch.Tensor, *, group: torch.distributed.ProcessGroup, **kwargs: Any
    ) -> Any:
        return None if group.size() == 1 else collective(output, input_, group=group, **kwargs)

    return wrapped


# What takes the place of each name; `system.replaced_names` has the reasons.
_VALUES: dict[str, Any] = {
    "torch.cuda.current_device": lambda: _CPU,
    "torch.cuda.set_device": lambda device: None,
    "torch.cuda.synchronize": lambda device=None: None,
    "torch.cuda.empty_cache": give_back_freed_memory,
    "torch.cuda.current_stream": lambda device=None: _NoStream(),
    "torch.cuda.default_stream": lambda device=None: _NoStream(),
    "torch.cuda.Stream": _NoStream,
    "torch.cuda.Event": _NoStream,
    "torch.cuda.stream": _no_stream_context,
    "torch.cuda.is_current_stream_capturing": lambda: False,
    "torch.cuda.get_rng_state": _get_rng_state,
    "torch.cuda.set_rng_state": _set_rng_state,
    "torch.cuda.manual_seed": torch.manual_seed,
    "torch.Tensor.cuda": lambda self, *args, **kwargs: self,
    "torch.nn.Module.cuda": lambda self, *args, **kwargs: self,
    "torch.Tensor.type": _tensor_type,
    "megatron.core.tensor_parallel.random._get_cuda_rng_state": _get_rng_state,
    "megatron.core.tensor_parallel.random._set_cuda_rng_state": _set_rng_state,
    "megatron.core.distributed.param_and_grad_buffer.dist_all_gather_func": _unless_alone(
        torch.distributed.all_gather_into_tensor
    ),
    "megatron.core.distributed.param_and_grad_buffer.dist_reduce_scatter_func": _unless_alone(
        torch.distributed.reduce_scatter_tensor
    ),
}


class _CudaMeansCpu(TorchFunctionMode):
    """Rewrites the literal device="cuda" (gradient norm, loss scale, token counts in the schedules)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if kwargs:
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == "cuda":
                kwargs = {**kwargs, "device": _CPU}
        return func(*args, **(kwargs or {}))


def install() -> None:
    """Let Megatron-Core run on CPU tensors and gloo in this process. Calling it again does nothing.

    Raises:
        RuntimeError: CUDA is available.
        UsageError: the installed torch or Megatron-Core does not have one of the names.
    """
    global _installed
    if _installed:
        return
    if torch.cuda.is_available():
        raise RuntimeError("The CPU replacements must not be installed in a process that has CUDA.")
    install_all({REPLACEMENTS[key]: value for key, value in _VALUES.items()})
    keep_freed_memory()
    _installed = True


@contextlib.contextmanager
def device_scope() -> Iterator[None]:
    """Wrap calls into Megatron-Core: device="cuda" means CPU inside, if `install` has been called.

    The rewriting is per thread, which is why every public method of the actor enters it.
    """
    if not _installed:
        yield
        return
    with _CudaMeansCpu():
        yield
