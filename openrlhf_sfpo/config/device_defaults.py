"""Settings that depend on the device."""

import shutil
from typing import Any

from openrlhf_sfpo.config.flag_table import device_defaults
from openrlhf_sfpo.system.errors import UsageError


def resolve_device_defaults(values: dict[str, Any], device: str) -> None:
    """Fill in the settings that depend on the device.

    Raises:
        UsageError: a bucket of weights does not fit into shared memory, or kernels are asked for that need CUDA.
    """
    cuda = device == "cuda"
    for name, value in (("megatron.layer_spec", "te"), ("megatron.attention_backend", "flash")):
        if values[name] == value and not cuda:
            raise UsageError(f"--{name}", f"is {value}, which needs CUDA, and the actor runs on CPU.", "Use auto.")
    values["megatron.device"] = device
    if values["megatron.param_dtype"] == "auto":
        values["megatron.param_dtype"] = "bf16" if cuda or _cpu_has_bf16() else "fp32"
    if values["run.engine_dtype"] == "auto":
        values["run.engine_dtype"] = "bfloat16" if cuda else "float32"
    by_device = device_defaults(cuda) | {
        "megatron.sequence_parallel": values["megatron.tensor_model_parallel_size"] > 1,
    }
    values.update({name: value for name, value in by_device.items() if values[name] is None})
    if not cuda and not values["rollout.replay_dir"]:
        free = shutil.disk_usage("/dev/shm").free // 2**20
        if free < values["megatron.weight_bucket_mb"]:
            raise UsageError(
                "--megatron.weight_bucket_mb",
                f"is {values['megatron.weight_bucket_mb']}, but the weights go to vLLM through /dev/shm, which has "
                f"{free} MB free.",
                "Lower it, or give the container more shared memory (docker run --shm-size=2g).",
            )


def runs_on_cpu(device: str) -> bool:
    """Whether a run with this --megatron.device will be one without GPUs, as far as this machine knows."""
    if device != "auto":
        return device == "cpu"
    from openrlhf_sfpo.config.placement import ray_address

    return ray_address() is None and not has_cuda()


def has_cuda() -> bool:
    """Whether this machine has a GPU."""
    import torch

    return torch.cuda.is_available()


def _cpu_has_bf16() -> bool:
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
