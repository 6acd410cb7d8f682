"""Runs OpenRLHF's DeepSpeed actors on machines without CUDA, by replacing CUDA calls.

DeepSpeed itself runs on CPU; OpenRLHF calls torch.cuda for its device. `install` replaces these functions permanently
in this process: it is for Ray actors that hold a model and do nothing else.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from openrlhf_sfpo.system.cpus import keep_freed_memory
from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
from openrlhf_sfpo.system.replacements import install_all

_CPU = torch.device("cpu")
_installed = False


def _dtype(name: str) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def _device_mesh(device_type: str, *args: Any, **kwargs: Any) -> Any:
    return torch.distributed.device_mesh.init_device_mesh("cpu", *args, **kwargs)


def _train_config(*args: Any, **kwargs: Any) -> dict[str, Any]:
    from openrlhf.utils.deepspeed.deepspeed_utils import get_train_ds_config

    config = get_train_ds_config(*args, **kwargs)
    config["zero_optimization"]["overlap_comm"] = False
    return config


def _all_gather_into_tensor(*args: Any, **kwargs: Any) -> Any:
    from deepspeed.comm import comm

    handle = comm.all_gather_into_tensor(*args, **kwargs)
    if handle is not None:
        handle.wait()
    return handle


# The replacement of each name; `system.replaced_names` has the reasons.
_VALUES: dict[str, Any] = {
    "torch.cuda.current_device": lambda: 0,  # see `_ZeroMeansCpu`
    "torch.cuda.set_device": lambda device: None,
    "torch.cuda.synchronize": lambda device=None: None,
    "torch.cuda.empty_cache": lambda: None,
    "openrlhf.utils.deepspeed.deepspeed.init_device_mesh": _device_mesh,
    "openrlhf.utils.deepspeed.deepspeed.get_train_ds_config": _train_config,
    "deepspeed.comm.all_gather_into_tensor": _all_gather_into_tensor,
    "openrlhf.utils.utils.convert_to_torch_dtype": _dtype,
}


class _ZeroMeansCpu(TorchFunctionMode):
    """Replaces CUDA devices, given by name or number, in `Tensor.to` and in keyword arguments."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if kwargs and _is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": _CPU}
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], _CPU, *args[2:])
        return func(*args, **(kwargs or {}))


def _is_cuda(device: object) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, int) or (isinstance(device, torch.device) and device.type == "cuda")


def install(num_threads: int) -> None:
    """Let OpenRLHF's DeepSpeed actors run on CPU tensors and gloo in this process. Calling it again does nothing.

    Args:
        num_threads: threads for this rank's computations.
    """
    global _installed
    if _installed:
        return
    install_all({REPLACEMENTS[key]: value for key, value in _VALUES.items()})
    torch.set_num_threads(num_threads)
    keep_freed_memory()
    _ZeroMeansCpu().__enter__()
    _installed = True
