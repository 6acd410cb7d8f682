"""What depends on the machine: Ray with or without GPUs, and the settings that follow from the device."""

import os
import shutil
from typing import Any

from openrlhf_sfpo.cpus import usable_cpus
from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.orchestration.preflight import gpus_needed

_WORKER_SETUP = "openrlhf_sfpo.orchestration.worker.setup"


def settle(values: dict[str, Any], device: str) -> None:
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
    for name, value in (
        ("megatron.fp32_residual_connection", not cuda),
        ("megatron.sequence_parallel", values["megatron.tensor_model_parallel_size"] > 1),
        ("megatron.overlap_grad_reduce", cuda),
        ("megatron.overlap_param_gather", cuda),
        ("megatron.log_prob_chunk_size", 1024 if cuda else 256),
    ):
        if values[name] is None:
            values[name] = value
    if not cuda and not values["rollout.replay_dir"]:
        free = shutil.disk_usage("/dev/shm").free // 2**20
        if free < values["megatron.weight_bucket_mb"]:
            raise UsageError(
                "--megatron.weight_bucket_mb",
                f"is {values['megatron.weight_bucket_mb']}, but the weights go to vLLM through /dev/shm, which has "
                f"{free} MB free.",
                "Lower it, or give the container more shared memory (docker run --shm-size=2g).",
            )


def start_ray(args: Any) -> str:
    """Connect to Ray or start it; return the device that the actor runs on.

    Without GPUs Ray is told that there are some ("logical" GPUs), so that OpenRLHF's placement works unchanged.
    """
    import ray

    needed = gpus_needed(args)
    environment = {
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "true"),
        "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
        "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": os.environ.get("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1"),
    }
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": environment, "worker_process_setup_hook": _WORKER_SETUP},
        "log_to_driver": args.run.verbose,
        "logging_level": "INFO" if args.run.verbose else "ERROR",
    }
    joins = bool(os.environ.get("RAY_ADDRESS"))
    if not joins and args.megatron.device == "cuda" and not has_cuda():
        raise UsageError("--megatron.device", "is cuda, and this machine has no GPU.", "Use auto, or set RAY_ADDRESS.")
    if not joins and args.megatron.device == "cpu" and has_cuda():
        raise UsageError(
            "--megatron.device",
            "is cpu on a machine with GPUs.",
            "Use auto, or hide them with CUDA_VISIBLE_DEVICES=''.",
        )
    if not joins and (args.megatron.device == "cpu" or not has_cuda()):
        cpus = max(usable_cpus(), needed + 4)
        options.update(num_gpus=needed, num_cpus=cpus, include_dashboard=False, object_store_memory=2**30)
        options["address"] = "local"  # a cluster that happens to run here is left alone
    ray.init(**options)
    resources = ray.cluster_resources()
    available = int(resources.get("GPU", 0))
    if available < needed:
        raise UsageError(
            "--actor.num_gpus_per_node, --ref.num_gpus_per_node, --vllm.num_engines, --vllm.tensor_parallel_size",
            f"ask for {needed} GPUs together, but Ray has {available}.",
            "Ask for fewer, or add nodes to the Ray cluster.",
        )
    if args.megatron.device != "auto":
        return args.megatron.device
    # Ray names the kind of a real GPU in a resource of its own; logical GPUs have none.
    return "cuda" if any(name.startswith("accelerator_type:") for name in resources) else "cpu"


def runs_on_cpu(device: str) -> bool:
    """Whether a run with this --megatron.device will be one without GPUs, as far as this machine knows."""
    if device != "auto":
        return device == "cpu"
    return not os.environ.get("RAY_ADDRESS") and not has_cuda()


def has_cuda() -> bool:
    """Whether this machine has a GPU."""
    import torch

    return torch.cuda.is_available()


def _cpu_has_bf16() -> bool:
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
