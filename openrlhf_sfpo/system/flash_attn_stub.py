"""A stand-in for the flash_attn names that OpenRLHF imports at import time, for machines without CUDA.

OpenRLHF's packing helpers import them; the Megatron actor packs for itself and never calls them. Calling one raises.
"""

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any, NoReturn

_NAMES = {
    "flash_attn": [],
    "flash_attn.bert_padding": ["index_first_axis", "pad_input", "rearrange", "unpad_input"],
    "flash_attn.utils": [],
    "flash_attn.utils.distributed": ["all_gather"],
}


def install_if_missing() -> None:
    """Put the stand-in into sys.modules, unless flash_attn is installed."""
    if "flash_attn" in sys.modules or importlib.util.find_spec("flash_attn") is not None:
        return
    for module_name, functions in _NAMES.items():
        module = types.ModuleType(module_name)
        module.__spec__ = importlib.machinery.ModuleSpec(module_name, loader=None, is_package=True)
        module.__path__ = []
        for function in functions:
            setattr(module, function, _refuse(f"{module_name}.{function}"))
        sys.modules[module_name] = module
        parent, _, child = module_name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _refuse(name: str) -> Any:
    def function(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"{name} was called, but flash-attn is not installed: it needs CUDA.")

    function.__name__ = name.rpartition(".")[2]
    return function
