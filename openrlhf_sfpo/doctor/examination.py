"""What a machine, its packages and its Ray cluster lack for training, or for one command line. Changes nothing.

Each check is a function that yields findings. Those of a command line also take its flags.
"""

import argparse
from collections.abc import Container, Iterator

from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.doctor.finding import Finding
from openrlhf_sfpo.doctor.machine import (
    collectives,
    directories,
    gpus,
    no_gpus,
    python_version,
    shared_memory,
    stack_dumps,
)
from openrlhf_sfpo.doctor.packages import packages
from openrlhf_sfpo.doctor.resources import disk, gpu_memory, host_memory, memory, plan_of, ray_gpus
from openrlhf_sfpo.system.errors import UsageError


def examine_quickly() -> Iterator[Finding]:
    """The checks that may run at any time, even during a run: they compute nothing and use no GPU memory."""
    import torch

    from openrlhf_sfpo.config.device_defaults import has_cuda

    cuda = has_cuda()
    yield python_version()
    yield from directories()
    yield from packages("gpu" if cuda else "cpu")
    yield from [Finding("GPUs", "ok", f"{torch.cuda.device_count()}")] if cuda else no_gpus()
    yield shared_memory(cuda)


def examine(args: NestedFlags | None) -> Iterator[Finding]:
    """All checks.

    Args:
        args: the nested flags of a command line; None to check the machine only.
    """
    from openrlhf_sfpo.config.device_defaults import has_cuda

    cuda = has_cuda()
    yield python_version()
    yield from directories()
    yield from packages("gpu" if cuda else "cpu")
    yield from gpus() if cuda else no_gpus()
    yield collectives("nccl" if cuda else "gloo")
    yield shared_memory(cuda)
    yield stack_dumps()
    if args is not None:
        if cuda and args.actor.backend == "megatron":
            import psutil
            import torch

            plan = plan_of(args, torch.cuda.mem_get_info(0)[1])
            yield host_memory(plan, psutil.virtual_memory().available)
            yield gpu_memory(plan)
        else:
            yield memory(args, cuda)
        yield ray_gpus(args, cuda)
        yield from disk(args)


def check_command_line(flat: argparse.Namespace, given: Container[str] = ()) -> Finding:
    """Everything that `openrlhf-sfpo train` checks before it starts. `given`: the names of the flags that were set."""
    from openrlhf_sfpo.runs import preflight

    try:
        preflight.check(flat, given)
    except UsageError as error:
        return Finding(error.flag, "error", error.problem, error.fix)
    return Finding("flags", "ok", "flags, model, data and reward are valid")
