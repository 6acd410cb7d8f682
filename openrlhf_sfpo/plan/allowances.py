"""What cannot be worked out from shapes. None of it has been measured for this project yet; the figures are what is
usually seen on H100s with CUDA 12 and NCCL 2, taken high."""

from typing import TYPE_CHECKING

from openrlhf_sfpo.system.units import GIB

if TYPE_CHECKING:  # it imports torch, and the constants are for commands that answer at once as well
    from openrlhf_sfpo.plan.setup import Setup

# Found on CPU, with the versions that requirements/ pins: a process that has imported OpenRLHF, Ray and Megatron.
PROCESS_BYTES = int(1.2 * GIB)
# fp32 main parameters and Adam's two moments; what a checkpoint holds of each parameter.
CHECKPOINT_BYTES = 12
# The driver keeps some of a GPU's nominal memory (an H100 of 80 GB shows 79.1 GiB), a process's context with its
# kernels takes half a GiB, cuBLAS and cuDNN have workspaces.
CONTEXT = int(1.75 * GIB)
# NCCL's channels and buffers, for each group of ranks that a GPU is in.
NCCL_GROUP = GIB // 4
# The caching allocator's free blocks that fit nothing, as part of what comes and goes.
FRAGMENTATION = 0.08
# An engine's context, NCCL, CUDA graphs, and the activations and logits of its largest step.
ENGINE = 5 * GIB
# What is left of a sleeping engine: context, NCCL and CUDA graphs.
SLEEPING_ENGINE = 2 * GIB


def context(setup: "Setup") -> int:
    """Of the actor's process on a GPU."""
    if not setup.cuda:
        return PROCESS_BYTES
    sizes = (setup.layout.tp, setup.layout.pp, setup.layout.cp, setup.dp, setup.gpus)
    sends = setup.engines.count > 0
    return CONTEXT + NCCL_GROUP * (sum(size > 1 for size in sizes) + sends)


def fragmentation(setup: "Setup", passing: int) -> int:
    """Of what comes and goes."""
    return int(FRAGMENTATION * passing) if setup.cuda else 0
