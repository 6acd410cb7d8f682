"""Runs Megatron-Core on machines without CUDA, by replacing its CUDA calls.

Megatron-Core 0.16 calls torch.cuda in places where a CPU tensor and gloo would do. `install` replaces those calls in
this process; the rest of Megatron is unchanged, so the model, the schedules and the distributed optimizer that run on
CPU are the real ones. It patches torch for the whole process and is therefore installed only if the actor really runs
on CPU; `install` refuses if CUDA is available.
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
    """A stand-in for CUDA streams and events on CPU, where all operations are already ordered."""

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
    """Skip a collective in a group of one rank: Megatron's reduce-scatter and all-gather work in place."""

    def wrapped(
        output: torch.Tensor, input_: torch.Tensor, *, group: torch.distributed.ProcessGroup, **kwargs: Any
    ) -> Any:
        return None if group.size() == 1 else collective(output, input_, group=group, **kwargs)

    return wrapped


# The replacement of each name; `system.replaced_names` has the reasons.
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
    """Replaces the literal device="cuda" (gradient norm, loss scale, token counts in the schedules)."""

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
        UsageError: the installed torch or Megatron-Core lacks one of the names.
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

    The replacement is per thread, so every public method of the actor enters this scope.
    """
    if not _installed:
        yield
        return
    with _CudaMeansCpu():
        yield
