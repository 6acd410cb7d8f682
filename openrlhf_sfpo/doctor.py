"""What a machine, its packages and its Ray cluster lack for training, or for one command line; nothing is changed.

Each check is a function that yields findings. Those of a command line take the flags as well.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement

from openrlhf_sfpo import loopback
from openrlhf_sfpo.cpus import usable_cpus
from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.home import home_directory, is_writable, prepare_command, unwritable_caches
from openrlhf_sfpo.orchestration import ray_cluster
from openrlhf_sfpo.ports import free_port
from openrlhf_sfpo.scratch import parent_directory

if TYPE_CHECKING:
    from openrlhf_sfpo.plan.planner import Plan

GIB = 2**30
# fp32 main parameters and Adam's two moments; what a checkpoint holds of each parameter.
CHECKPOINT_BYTES = 12
_OWN_PACKAGE = "openrlhf_sfpo"
# Found on CPU, with the versions that requirements/ pins: a process that has imported OpenRLHF, Ray and Megatron.
PROCESS_BYTES = int(1.2 * GIB)


@dataclass(frozen=True)
class Finding:
    """What was looked at and how it is.

    Attributes:
        check: what was looked at.
        state: "ok", "warning" (it may work) or "error" (it will not).
        found: how it is.
        fix: what to do about it, empty if nothing.
    """

    check: str
    state: Literal["ok", "warning", "error"]
    found: str
    fix: str = ""


def examine_quickly() -> Iterator[Finding]:
    """What can be looked at beside a run, again and again: nothing is computed, and no GPU memory taken."""
    import torch

    from openrlhf_sfpo.orchestration.devices import has_cuda

    cuda = has_cuda()
    yield _python()
    yield from _places()
    yield from _packages("gpu" if cuda else "cpu")
    yield from [Finding("GPUs", "ok", f"{torch.cuda.device_count()}")] if cuda else _no_gpus()
    yield _shared_memory(cuda)


def examine(args: Any | None) -> Iterator[Finding]:
    """All checks.

    Args:
        args: the flags of a command line that is to be run, nested; None to look at the machine only.
    """
    from openrlhf_sfpo.orchestration.devices import has_cuda

    cuda = has_cuda()
    yield _python()
    yield from _places()
    yield from _packages("gpu" if cuda else "cpu")
    yield from _gpus() if cuda else _no_gpus()
    yield _collectives("nccl" if cuda else "gloo")
    yield _shared_memory(cuda)
    yield _stack_dumps()
    if args is not None:
        if cuda and args.actor.backend == "megatron":
            import psutil
            import torch

            plan = plan_of(args, torch.cuda.mem_get_info(0)[1])
            yield host_memory(plan, psutil.virtual_memory().available)
            yield gpu_memory(plan)
        else:
            yield _memory(args, cuda)
        yield _ray(args, cuda)
        yield from _disk(args)


def _python() -> Finding:
    found = f"Python {sys.version.split()[0]}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("Python", "ok", found)
    return Finding("Python", "error", found, "Use Python 3.11 or 3.12.")


def _places() -> Iterator[Finding]:
    """Where temporary files and the libraries' caches go."""
    try:
        yield Finding("temporary files", "ok", f"below {parent_directory()}")
    except UsageError as error:
        yield Finding("temporary files", "error", f"{error.flag} {error.problem}", error.fix)
    home = home_directory()
    if home is not None and is_writable(home):
        yield Finding("home", "ok", str(home))
    else:
        found = (
            f"{home or 'none'} cannot be written; a run makes one for itself, and compiles its kernels anew each time"
        )
        yield Finding("home", "warning", found, "Set HOME to a directory that can be written and that stays.")
    for name, place in unwritable_caches().items():
        yield Finding(name, "error", f"is {place}, which cannot be written", "Unset it, or name another directory.")
    prepare_command()  # for the libraries that are imported below


def _packages(extra: str) -> Iterator[Finding]:
    """The versions that setup.py asks for, of the CPU or the GPU set."""
    try:
        wanted_of_us = requires(_OWN_PACKAGE) or []
    except PackageNotFoundError:
        yield Finding(
            _OWN_PACKAGE, "error", "not installed", "Run requirements/install.sh, or pip install this package."
        )
        return
    for text in wanted_of_us:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        installer = "docker/install.sh" if extra == "gpu" else "requirements/install.sh"
        fix = f"pip install '{wanted.name}{wanted.specifier}' ({installer} installs the whole set)"
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield Finding(wanted.name, "error", f"not installed, {wanted.specifier or 'any version'} is needed", fix)
            continue
        if wanted.specifier.contains(found, prereleases=True):
            yield Finding(wanted.name, "ok", found)
        else:
            yield Finding(wanted.name, "error", f"{found}, {wanted.specifier} is needed", fix)


def _gpus() -> Iterator[Finding]:
    import torch

    for index in range(torch.cuda.device_count()):
        name = f"GPU {index}"
        try:
            free, total = torch.cuda.mem_get_info(index)
            torch.ones(256, 256, device=f"cuda:{index}").matmul(
                torch.ones(256, 256, device=f"cuda:{index}")
            ).sum().item()
        except RuntimeError as error:
            yield Finding(name, "error", f"cannot compute: {error}", "Look at nvidia-smi and the kernel's log.")
            continue
        found = f"{torch.cuda.get_device_name(index)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        if free < 0.9 * total:
            yield Finding(name, "warning", found, "Something else uses it; nvidia-smi shows what.")
        else:
            yield Finding(name, "ok", found)


def _no_gpus() -> Iterator[Finding]:
    yield Finding("GPU", "ok", f"none; everything runs on {usable_cpus()} CPUs, for small models")


def _collectives(backend: str) -> Finding:
    """An all-reduce between processes of this machine, one for each GPU or two."""
    import torch

    count = torch.cuda.device_count() if backend == "nccl" else 2
    label = {"nccl": "NCCL", "gloo": "gloo"}[backend]
    try:
        torch.multiprocessing.spawn(all_reduce, args=(count, backend, free_port()), nprocs=count)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        fix = f"Set {label}_SOCKET_IFNAME to an interface that works" + (
            ", NCCL_DEBUG=INFO tells more." if count else "."
        )
        return Finding(label, "error", f"an all-reduce over {count} processes failed: {reason}", fix)
    return Finding(label, "ok", f"an all-reduce over {count} processes works")


def all_reduce(rank: int, count: int, backend: str, port: int) -> None:
    """What each of the processes does."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    os.environ.update(loopback.environment())
    loopback.keep_stores_narrow()
    dist.init_process_group(backend, f"tcp://127.0.0.1:{port}", timedelta(seconds=60), world_size=count, rank=rank)
    ones = torch.ones(1 << 16, device=f"cuda:{rank}" if backend == "nccl" else "cpu")
    dist.all_reduce(ones)
    assert ones.eq(count).all(), "the sum is wrong"
    dist.destroy_process_group()


def _shared_memory(cuda: bool) -> Finding:
    free = shutil.disk_usage("/dev/shm").free
    need, what = (8 * GIB, "NCCL, Ray and data loaders") if cuda else (GIB, "weights on their way to vLLM, and Ray")
    found = f"{free / GIB:.1f} GiB free"
    if free >= need:
        return Finding("/dev/shm", "ok", found)
    fix = f"Start the container with docker run --shm-size={need // GIB}g or --ipc=host; {what} need it."
    return Finding("/dev/shm", "warning" if free >= GIB / 4 else "error", found, fix)  # Docker's own is 64 MiB


def _stack_dumps() -> Finding:
    """py-spy reads the stack of a rank that hangs."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    restricted = scope.exists() and scope.read_text(encoding="utf-8").strip() not in ("0", "") and os.geteuid() != 0
    if not Path(sys.executable).with_name("py-spy").exists():
        return Finding("stack dumps", "warning", "py-spy is not installed", "pip install py-spy")
    if restricted:
        fix = "sysctl kernel.yama.ptrace_scope=0, or docker run --cap-add SYS_PTRACE."
        return Finding(
            "stack dumps", "warning", "processes may not be traced; a rank that is stopped shows no stack", fix
        )
    return Finding("stack dumps", "ok", "py-spy may read the stacks of ranks that hang")


def parameters_of(path: str) -> int:
    """The number of a model's parameters, from its config.json alone.

    Raises:
        UsageError: it is no model that the Megatron actor knows.
    """
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.model_config import ModelConfig
    from openrlhf_sfpo.megatron.weights import weight_plan

    return sum(entry.numel for entry in weight_plan(ModelConfig.from_pretrained(path), Layout()))


def _memory(args: Any, cuda: bool) -> Finding:
    """Host memory of this machine against what the processes and the copies for checkpoints take."""
    import psutil

    available = psutil.virtual_memory().available
    count = parameters_of(args.actor.model_name_or_path)
    ranks = args.actor.num_gpus_per_node
    engines = 0 if args.rollout.replay_dir else (args.vllm.num_engines or 0)
    share = count * ranks / max(1, ranks * args.actor.num_nodes)
    # A checkpoint is copied before it is written, and written from a copy of each piece.
    need = (ranks + engines + 3) * PROCESS_BYTES + CHECKPOINT_BYTES * share * (1 if args.ckpt.async_save else 0.5)
    if not cuda:
        block = args.megatron.tensor_model_parallel_size * args.megatron.pipeline_model_parallel_size
        copies = max(1, ranks // block)
        need += count * (8 * copies + CHECKPOINT_BYTES) + engines * (4 * count + args.run.kv_cache_mb * 2**20)
    found = f"{available / GIB:.1f} GiB available, about {need / GIB:.1f} needed by {ranks} ranks and {engines} engines"
    if available >= need:
        return Finding("memory", "ok", found)
    return Finding("memory", "error", found, "Lower --actor.num_gpus_per_node or --vllm.num_engines.")


def plan_of(args: Any, gpu_bytes: int) -> "Plan":
    """The plan of a command line.

    Args:
        args: the flags, nested.
        gpu_bytes: memory of a GPU.
    """
    from openrlhf_sfpo.megatron.model_config import ModelConfig
    from openrlhf_sfpo.orchestration.preflight import dotted
    from openrlhf_sfpo.plan.flags import planned
    from openrlhf_sfpo.plan.planner import make_plan

    model = ModelConfig.from_pretrained(args.actor.model_name_or_path)
    return make_plan(planned(argparse.Namespace(**dotted(args)), model), gpu_bytes / GIB)


def host_memory(plan: "Plan", available: int) -> Finding:
    """What is planned in a node's host memory against the bytes that are available there."""
    need = sum(item.bytes for item in plan.host)
    found = f"{available / GIB:.1f} GiB available, about {need / GIB:.1f} needed on each node of the actor"
    if available >= need:
        return Finding("memory", "ok", found)
    largest = max(plan.host, key=lambda item: item.bytes)
    return Finding(
        "memory",
        "warning",  # worked out and not measured
        found,
        f"The largest part is {largest.bytes / GIB:.1f} GiB of {largest.what}; openrlhf-sfpo plan shows all.",
    )


def gpu_memory(plan: "Plan") -> Finding:
    """What is planned for a GPU, of the actor and the engines, against its memory."""
    peak = plan.worst.worst
    found = f"{peak.total / GIB:.1f} of {plan.gpu_bytes / GIB:.1f} GiB planned, at most, in the {peak.name}"
    if plan.fits:
        return Finding("GPU memory", "ok", found)
    # Most of it is worked out and not measured: a warning.
    return Finding("GPU memory", "warning", "; ".join(plan.problems), "openrlhf-sfpo plan --gpus N suggests layouts.")


def _ray(args: Any, cuda: bool) -> Finding:
    """The GPUs that a command line asks for, against those of the Ray cluster or of this machine."""
    from openrlhf_sfpo.orchestration.preflight import gpus_needed

    needed = gpus_needed(args)
    fix = "Lower --actor.num_gpus_per_node, --ref.num_gpus_per_node or --vllm.num_engines, or add nodes."
    address = ray_cluster.asked_for()
    if address:
        try:
            there, free = _gpus_of_cluster(args.run.allow_open_ray)
        except UsageError as error:
            return Finding("Ray", "error", f"{error.flag} {error.problem}", error.fix)
        found = f"{needed} GPUs are asked for; the cluster at {address} has {there}, {free} of them free"
        if there == 0:
            fix = f"Without real GPUs, start Ray with --num-gpus={needed}: logical GPUs."
        state = "ok" if free >= needed else "warning" if there >= needed else "error"
        return Finding("Ray", state, found, {"ok": "", "warning": "Wait for what uses them.", "error": fix}[state])
    if not cuda:
        return Finding(
            "Ray", "ok", f"{needed} logical GPUs are asked for; Ray is started here and told that it has them"
        )
    import torch

    there = torch.cuda.device_count()
    found = f"{needed} GPUs are asked for; this machine has {there} and RAY_ADDRESS is not set"
    return Finding("Ray", "ok" if there >= needed else "error", found, "" if there >= needed else fix)


def _gpus_of_cluster(allow_open: bool) -> tuple[int, int]:
    """GPUs of the cluster that RAY_ADDRESS names, and how many of them are free.

    Raises:
        UsageError: it cannot be joined.
    """
    import ray

    from openrlhf_sfpo.orchestration.ray_start import join_cluster

    try:
        join_cluster(allow_open, logging_level="ERROR", log_to_driver=False)
        return int(ray.cluster_resources().get("GPU", 0)), int(ray.available_resources().get("GPU", 0))
    finally:
        ray.shutdown()


def _disk(args: Any) -> Iterator[Finding]:
    """Room for the checkpoints that are kept, one more while it is written, and the final model."""
    count = parameters_of(args.actor.model_name_or_path)
    one = CHECKPOINT_BYTES * count
    saves = args.ckpt.save_steps > 0 and not args.ckpt.disable_ds
    kept = args.ckpt.max_num + (1 if args.eval.dataset and args.ckpt.best_metric_key != "none" else 0)
    need = min(kept * one, args.ckpt.max_mem * GIB) + one if saves else 0
    place = Path(args.ckpt.path if Path(args.ckpt.path).is_absolute() else args.run.dir or ".").absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = (
        f"{free / GIB:.1f} GiB free at {place}; a checkpoint has {one / GIB:.1f} GiB ({count / 1e9:.2f} B parameters x "
        f"{CHECKPOINT_BYTES} bytes), {need / GIB:.1f} are needed for those that are kept and one more"
    )
    if free >= need:
        yield Finding("disk", "ok", found)
    elif free >= 2 * one:
        yield Finding("disk", "warning", found, "Lower --ckpt.max_num or set --ckpt.max_mem, or make room.")
    else:
        yield Finding("disk", "error", found, "Make room, or choose another --ckpt.path.")
    if not saves and args.actor.backend == "megatron":
        yield Finding(
            "checkpoints",
            "warning",
            "none are written, so that a run that ends early is lost",
            "Set --ckpt.save_steps, and drop --ckpt.disable_ds.",
        )


def check_command_line(flat: Any, given: Container[str] = ()) -> Finding:
    """Everything that `openrlhf-sfpo train` refuses before it starts. `given`: the names of the flags that were set."""
    from openrlhf_sfpo.orchestration import preflight

    try:
        preflight.check(flat, given)
    except UsageError as error:
        return Finding(error.flag, "error", error.problem, error.fix)
    return Finding("flags", "ok", "fit together, and model, data and reward are there")
