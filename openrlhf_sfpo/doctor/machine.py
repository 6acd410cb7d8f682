"""The machine: Python, directories, GPUs, collectives, shared memory."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from openrlhf_sfpo.doctor.finding import Finding
from openrlhf_sfpo.system import loopback
from openrlhf_sfpo.system.cpus import usable_cpus
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.home import home_directory, is_writable, prepare_command, unwritable_caches
from openrlhf_sfpo.system.ports import free_port
from openrlhf_sfpo.system.scratch import parent_directory
from openrlhf_sfpo.system.units import GIB


def python_version() -> Finding:
    found = f"Python {sys.version.split()[0]}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("Python", "ok", found)
    return Finding("Python", "error", found, "Use Python 3.11 (tested) or 3.12 (not tested).")


def directories() -> Iterator[Finding]:
    """Check the directories for temporary files and the libraries' caches."""
    try:
        yield Finding("temporary files", "ok", f"below {parent_directory()}")
    except UsageError as error:
        yield Finding("temporary files", "error", f"{error.flag} {error.problem}", error.fix)
    home = home_directory()
    if home is not None and is_writable(home):
        yield Finding("home", "ok", str(home))
    else:
        found = f"{home or 'none'} cannot be written; a run makes one for itself, and compiles its kernels every time"
        yield Finding("home", "warning", found, "Set HOME to a directory that can be written and that stays.")
    for name, place in unwritable_caches().items():
        yield Finding(name, "error", f"is {place}, which cannot be written", "Unset it, or name another directory.")
    prepare_command()  # for the libraries that are imported below


def gpus() -> Iterator[Finding]:
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


def no_gpus() -> Iterator[Finding]:
    yield Finding("GPU", "ok", f"none; everything runs on {usable_cpus()} CPUs, for small models")


def collectives(backend: str) -> Finding:
    """Check an all-reduce between processes on this machine: one per GPU, or two without GPUs."""
    import torch

    count = torch.cuda.device_count() if backend == "nccl" else 2
    label = {"nccl": "NCCL", "gloo": "gloo"}[backend]
    try:
        torch.multiprocessing.spawn(all_reduce, args=(count, backend, free_port()), nprocs=count)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        more = "; NCCL_DEBUG=INFO tells more." if backend == "nccl" else "."
        fix = f"Set {backend.upper()}_SOCKET_IFNAME to an interface that works{more}"
        return Finding(label, "error", f"an all-reduce over {count} processes failed: {reason}", fix)
    return Finding(label, "ok", f"an all-reduce over {count} processes works")


def all_reduce(rank: int, count: int, backend: str, port: int) -> None:
    """Run one process's part of the all-reduce, and check the sum."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    os.environ.update(loopback.environment())
    loopback.keep_stores_on_loopback()
    dist.init_process_group(backend, f"tcp://127.0.0.1:{port}", timedelta(seconds=60), world_size=count, rank=rank)
    ones = torch.ones(1 << 16, device=f"cuda:{rank}" if backend == "nccl" else "cpu")
    dist.all_reduce(ones)
    assert ones.eq(count).all(), "the sum is wrong"
    dist.destroy_process_group()


def shared_memory(cuda: bool) -> Finding:
    free = shutil.disk_usage("/dev/shm").free
    need, what = (8 * GIB, "NCCL, Ray and data loaders") if cuda else (GIB, "weights on their way to vLLM, and Ray")
    found = f"{free / GIB:.1f} GiB free"
    if free >= need:
        return Finding("/dev/shm", "ok", found)
    fix = f"Start the container with docker run --shm-size={need // GIB}g or --ipc=host; {what} need it."
    return Finding("/dev/shm", "warning" if free >= GIB / 4 else "error", found, fix)  # Docker's default is 64 MiB


def stack_dumps() -> Finding:
    """Check py-spy, which dumps the stack of a hung rank."""
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
