"""Allowances that cannot be calculated from shapes. Those for GPUs have not been measured for this project yet: they
are conservative values for H100s with CUDA 12 and NCCL 2."""

from typing import TYPE_CHECKING

from openrlhf_sfpo.system.units import GIB

if TYPE_CHECKING:  # it imports torch, and fast commands use these constants, too
    from openrlhf_sfpo.plan.setup import Setup

# Measured on CPU with the pinned versions: a process that has imported OpenRLHF, Ray and Megatron.
PROCESS_BYTES = int(1.2 * GIB)
# fp32 main parameters and Adam's two moments: a checkpoint's bytes per parameter.
CHECKPOINT_BYTES = 12
# The driver reserves some of a GPU's nominal memory (an H100 of 80 GB shows 79.1 GiB), a process's context with its
# kernels takes half a GiB, cuBLAS and cuDNN have workspaces.
CONTEXT = int(1.75 * GIB)
# NCCL's channels and buffers, for each group of ranks that a GPU is in.
NCCL_GROUP = GIB // 4
# The caching allocator's unusable free blocks, as a fraction of temporary tensors.
FRAGMENTATION = 0.08
# An engine's context, NCCL, CUDA graphs, and the activations and logits of its largest step.
ENGINE = 5 * GIB
# What a sleeping engine still uses: context, NCCL and CUDA graphs.
SLEEPING_ENGINE = 2 * GIB


def context(setup: "Setup") -> int:
    """Memory of the context of the actor's process on a GPU."""
    if not setup.cuda:
        return PROCESS_BYTES
    sizes = (setup.layout.tp, setup.layout.pp, setup.layout.cp, setup.dp, setup.gpus)
    sends = setup.engines.count > 0
    return CONTEXT + NCCL_GROUP * (sum(size > 1 for size in sizes) + sends)


def fragmentation(setup: "Setup", passing: int) -> int:
    """Fragmentation caused by temporary tensors."""
    return int(FRAGMENTATION * passing) if setup.cuda else 0
