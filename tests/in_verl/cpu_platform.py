"""Lets verl run its FSDP engine on a CPU: the device that verl asks for, and the engines registered for it."""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
import verl
from verl.workers.engine import EngineRegistry


class Device(types.ModuleType):
    """torch.cpu, with what verl asks of GPUs."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        asked = {"mem_get_info": lambda *args: (2**34, 2**34), "get_device_name": lambda *args: "CPU"}
        return asked.get(name) or getattr(torch.cpu, name, lambda *args, **kwargs: 0)


def _make_platform() -> Any:
    from verl.plugin.platform.platform_base import PlatformBase

    class PlatformCPU(PlatformBase):
        device_name = vendor_name = "cpu"
        device_module = Device("cpu_device")

        def current_device(self) -> Any:
            return "cpu"

        def device_count(self) -> int:
            return 1

        def visible_devices_envvar(self) -> str:
            return "CPU_VISIBLE_DEVICES"

        def ray_noset_envvars(self) -> list[str]:
            return []

        def communication_backend_name(self) -> str:
            return "gloo"

        def get_device_capability(self, device_index: int = 0) -> Any:
            return None, None

        @contextlib.contextmanager
        def nvtx_range(self, msg: str) -> Iterator[None]:
            yield

    for name in PlatformBase.__abstractmethods__ - set(vars(PlatformCPU)):
        setattr(PlatformCPU, name, lambda self, *args, **kwargs: None)
    PlatformCPU.__abstractmethods__ = frozenset()
    return PlatformCPU()


def install() -> None:
    """Call it before verl's worker is made."""
    try:
        from verl.plugin.platform import platform_manager
    except ImportError:  # before 0.9 a machine without a GPU is a CPU
        from verl.utils import attention_utils, npu_flash_attn_utils

        _replace_everywhere("get_torch_device", lambda: Device("cpu_device"))
        # Padding without flash-attn: what verl has for other accelerators is torch alone.
        names = ("index_first_axis", "pad_input", "rearrange", "unpad_input")
        found = tuple(getattr(npu_flash_attn_utils, name) for name in names)
        attention_utils._get_attention_functions = lambda: found
        if verl.__version__.startswith("0.7."):  # computes in bf16 whatever its settings say
            torch.autocast = lambda *args, **kwargs: contextlib.nullcontext()
    else:
        platform_manager._current_platform = _make_platform()
    from torch.distributed.fsdp import _init_utils

    # FSDP1 wants to send the weights of rank 0 to the others, from a GPU. All ranks have read the same here.
    _init_utils._check_module_states_for_sync_module_states = lambda states: None
    for engines in EngineRegistry._engines.values():
        for kind in ("fsdp", "fsdp2"):
            if kind in engines and isinstance(engines[kind], dict):
                engines[kind].setdefault("cpu", engines[kind].get("cuda"))


def _replace_everywhere(name: str, value: Any) -> None:
    """In all of verl's modules that have imported the name."""
    import sys

    for module in [one for key, one in sys.modules.items() if key.startswith("verl") and one is not None]:
        if name in vars(module):
            setattr(module, name, value)
