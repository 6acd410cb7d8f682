"""Sleep of a vLLM engine on CPU: replacements for `sleep` and `wake_up` of vLLM's CPU worker.

As on a GPU, level 1 frees the key/value cache and level 2 also the weights, which must be sent again after waking up;
buffers such as rotary tables stay. (On a GPU level 1 moves the weights to host memory; here they are already there.)
"""

from typing import TYPE_CHECKING, Any, NoReturn

import torch

from openrlhf_sfpo.system.cpus import give_back_freed_memory
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS
from openrlhf_sfpo.system.replacements import install_on

if TYPE_CHECKING:
    from vllm.v1.worker.cpu_worker import CPUWorker

_Freed = list[tuple[torch.UntypedStorage, int]]  # a storage, and its size in bytes


def sleep(self: "CPUWorker", level: int = 1) -> None:
    """Free memory.

    Args:
        self: vLLM's CPU worker.
        level: 1 or 2.
    """
    asleep = _asleep(self)
    if "kv_cache" not in asleep:
        asleep["kv_cache"] = _free(_key_value_caches(self))
    if level >= 2 and "weights" not in asleep:
        model = self.get_model()
        asleep["weights"] = _free([parameter.detach() for parameter in model.parameters()])
        for module in model.modules():
            # The packed copy of a linear layer's weight for its kernel, held only by this function.
            if hasattr(module, "cpu_linear"):
                install_on(ON_OBJECTS["torch.nn.Module.cpu_linear"], module, _without_weight)
    give_back_freed_memory()


def wake_up(self: "CPUWorker", tags: list[str] | None = None) -> None:
    """Allocate the memory again. Freed weights are NaN until they are sent.

    Args:
        self: vLLM's CPU worker.
        tags: of "kv_cache" and "weights", or None for both.
    """
    asleep = _asleep(self)
    for tag in tags or list(asleep):
        for storage, size in asleep.pop(tag, []):
            storage.resize_(size)
            content = torch.empty(0, dtype=torch.uint8).set_(storage)
            content.fill_(255 if tag == "weights" else 0)  # all bits set is NaN in every floating-point format


def _asleep(worker: "CPUWorker") -> dict[str, _Freed]:
    """The worker's freed memory, by tag."""
    return vars(worker).setdefault("_openrlhf_sfpo_asleep", {})


def _key_value_caches(worker: "CPUWorker") -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for cache in worker.model_runner.kv_caches:
        found += [cache] if isinstance(cache, torch.Tensor) else list(cache)
    return found


def _free(tensors: list[torch.Tensor]) -> _Freed:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    freed = [(storage, storage.nbytes()) for storage in storages.values()]
    for storage, _ in freed:
        storage.resize_(0)
    return freed


def _without_weight(*args: Any) -> NoReturn:
    raise RuntimeError("this engine slept at level 2, and has not been sent the weights since")
