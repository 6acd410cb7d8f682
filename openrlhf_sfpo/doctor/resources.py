"""Compares the needs of a command line with what the machine and its Ray cluster have: memory, GPUs, disk."""

import argparse
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from openrlhf_sfpo.cluster.start import gpus_of_cluster
from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.config.placement import gpus_needed, ray_address
from openrlhf_sfpo.doctor.finding import Finding, State
from openrlhf_sfpo.plan.allowances import CHECKPOINT_BYTES, PROCESS_BYTES
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.units import GIB

if TYPE_CHECKING:
    from openrlhf_sfpo.plan.planner import Plan


def parameters_of(path: str) -> int:
    """The number of a model's parameters, from its config.json alone.

    Raises:
        UsageError: the Megatron actor does not support this model.
    """
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.model.config import ModelConfig
    from openrlhf_sfpo.megatron.weights.mapping import weight_plan

    return sum(entry.numel for entry in weight_plan(ModelConfig.from_pretrained(path), Layout()))


def _count_parameters(args: NestedFlags) -> int | None:
    """The number of the policy's parameters; None if it is unknown, as of a model of the Hub for the DeepSpeed actor.

    Raises:
        UsageError: the Megatron actor does not support this model.
    """
    path = args.actor.model_name_or_path
    if args.actor.backend == "megatron":
        return parameters_of(path)
    from openrlhf_sfpo.checkpoints.hf_directory import tensor_headers

    try:
        return sum(math.prod(header.shape) for header in tensor_headers(path).values())
    except UsageError:  # no safetensors here; transformers may find other files, or download some
        return None


def memory(args: NestedFlags, cuda: bool) -> Finding:
    """Compare this machine's available memory with what the processes and the copies for checkpoints need."""
    import psutil

    available = psutil.virtual_memory().available
    count = _count_parameters(args)
    if count is None:
        return Finding("memory", "ok", f"{available / GIB:.1f} GiB available; the size of the model is not known here")
    ranks = args.actor.num_gpus_per_node
    engines = 0 if args.rollout.replay_dir else (args.vllm.num_engines or 0)
    share = count * ranks / max(1, ranks * args.actor.num_nodes)
    # A checkpoint is copied before it is written, and each slice is copied again for writing.
    need = (ranks + engines + 3) * PROCESS_BYTES + CHECKPOINT_BYTES * share * (1 if args.ckpt.async_save else 0.5)
    if not cuda:
        model_parallel_size = args.megatron.tensor_model_parallel_size * args.megatron.pipeline_model_parallel_size
        copies = max(1, ranks // model_parallel_size)
        need += count * (8 * copies + CHECKPOINT_BYTES) + engines * (4 * count + args.run.kv_cache_mb * 2**20)
    found = f"{available / GIB:.1f} GiB available, about {need / GIB:.1f} needed by {ranks} ranks and {engines} engines"
    if available >= need:
        return Finding("memory", "ok", found)
    return Finding("memory", "error", found, "Lower --actor.num_gpus_per_node or --vllm.num_engines.")


def plan_of(args: NestedFlags, gpu_bytes: int) -> "Plan":
    """The plan of a command line.

    Args:
        args: the flags, nested.
        gpu_bytes: memory of a GPU.
    """
    from openrlhf_sfpo.config.namespaces import dotted
    from openrlhf_sfpo.megatron.model.config import ModelConfig
    from openrlhf_sfpo.plan.flags import planned
    from openrlhf_sfpo.plan.planner import make_plan

    model = ModelConfig.from_pretrained(args.actor.model_name_or_path)
    return make_plan(planned(argparse.Namespace(**dotted(args)), model), gpu_bytes / GIB)


def host_memory(plan: "Plan", available: int) -> Finding:
    """Compare the planned use of a node's host memory with the available bytes."""
    need = sum(item.bytes for item in plan.host)
    found = f"{available / GIB:.1f} GiB available, about {need / GIB:.1f} needed on each node of the actor"
    if available >= need:
        return Finding("memory", "ok", found)
    largest = max(plan.host, key=lambda item: item.bytes)
    return Finding(
        "memory",
        "warning",  # calculated, not measured
        found,
        f"The largest part is {largest.bytes / GIB:.1f} GiB of {largest.what}; openrlhf-sfpo plan shows all.",
    )


def gpu_memory(plan: "Plan") -> Finding:
    """Compare the planned memory of actor and engines on a GPU with its size."""
    peak = plan.worst.worst
    found = f"{peak.total / GIB:.1f} of {plan.gpu_bytes / GIB:.1f} GiB planned, at most, in the {peak.name}"
    if plan.fits:
        return Finding("GPU memory", "ok", found)
    # Only a warning: most of it is calculated, not measured.
    return Finding("GPU memory", "warning", "; ".join(plan.problems), "openrlhf-sfpo plan --gpus N suggests layouts.")


def ray_gpus(args: NestedFlags, cuda: bool) -> Finding:
    """Compare the GPUs that a command line needs with those of the Ray cluster or of this machine."""
    needed = gpus_needed(args)
    fix = "Lower --actor.num_gpus_per_node, --ref.num_gpus_per_node or --vllm.num_engines, or add nodes."
    address = ray_address()
    if address:
        try:
            there, free = gpus_of_cluster(args.run.allow_open_ray)
        except UsageError as error:
            return Finding("Ray", "error", f"{error.flag} {error.problem}", error.fix)
        found = f"{needed} GPUs are asked for; the cluster at {address} has {there}, {free} of them free"
        if there == 0:
            fix = f"Without real GPUs, start Ray with --num-gpus={needed}: logical GPUs."
        state: State = "ok" if free >= needed else "warning" if there >= needed else "error"
        return Finding("Ray", state, found, {"ok": "", "warning": "Wait for what uses them.", "error": fix}[state])
    if not cuda:
        return Finding(
            "Ray", "ok", f"{needed} logical GPUs are asked for; Ray is started here and told that it has them"
        )
    import torch

    there = torch.cuda.device_count()
    found = f"{needed} GPUs are asked for; this machine has {there} and RAY_ADDRESS is not set"
    return Finding("Ray", "ok" if there >= needed else "error", found, "" if there >= needed else fix)


def disk(args: NestedFlags) -> Iterator[Finding]:
    """Check that checkpoints are written, and the disk space for those to keep, one more while it is written, and the
    final model."""
    saves = args.ckpt.save_steps > 0 and not args.ckpt.disable_ds
    count = _count_parameters(args)
    if count is not None:
        yield _disk_space(args, count, saves)
    if not saves and args.actor.backend == "megatron":
        yield Finding(
            "checkpoints",
            "warning",
            "none are written, so that a run that ends early is lost",
            "Set --ckpt.save_steps, and drop --ckpt.disable_ds.",
        )


def _disk_space(args: NestedFlags, parameters: int, saves: bool) -> Finding:
    one = CHECKPOINT_BYTES * parameters
    kept = args.ckpt.max_num + (1 if args.eval.dataset and args.ckpt.best_metric_key != "none" else 0)
    need = min(kept * one, args.ckpt.max_mem * GIB) + one if saves else 0
    place = Path(args.ckpt.path if Path(args.ckpt.path).is_absolute() else args.run.dir or ".").absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = (
        f"{free / GIB:.1f} GiB free at {place}; a checkpoint has {one / GIB:.1f} GiB ({parameters / 1e9:.2f} B "
        f"parameters x {CHECKPOINT_BYTES} bytes), {need / GIB:.1f} are needed for those that are kept and one more"
    )
    if free >= need:
        return Finding("disk", "ok", found)
    if free >= 2 * one:
        return Finding("disk", "warning", found, "Lower --ckpt.max_num or set --ckpt.max_mem, or make room.")
    return Finding("disk", "error", found, "Make room, or choose another --ckpt.path.")
