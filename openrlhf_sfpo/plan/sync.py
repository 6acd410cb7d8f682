"""The memory of weight transfers, and the size of checkpoints."""

import functools
from dataclasses import dataclass

from openrlhf_sfpo.plan.allowances import CHECKPOINT_BYTES
from openrlhf_sfpo.plan.setup import Setup

# vLLM's packed transfer holds two packed buckets (DEFAULT_PACKED_NUM_BUFFERS), and the tensors of the one being packed.
_VLLM_BUCKETS = 3


@dataclass(frozen=True)
class SyncPlan:
    """One transfer of all weights.

    Attributes:
        bytes: the size of all weights.
        buckets: the number of buckets.
        largest: bytes of the largest bucket; a single tensor may exceed --megatron.weight_bucket_mb.
    """

    bytes: int
    buckets: int
    largest: int


def sync(setup: Setup) -> SyncPlan:
    """The transfer of `export.WeightExchange`."""
    sizes = [size for _, size in setup.buckets]
    return SyncPlan(sum(sizes), len(sizes), max(sizes))


def gathering(setup: Setup) -> int:
    """The first rank's peak memory in bytes (see `export.WeightExchange.stream`).

    For a bucket of its own stage: its part and all ranks' parts, the tensors made of them, and these as one bucket; for
    the next bucket, which is being gathered, the first two; and the previous bucket, while the receiver holds a tensor
    of it. A bucket of another stage arrives as one.
    """
    return _gathering(setup.layout.tp, setup.buckets)


@functools.lru_cache(maxsize=128)
def _gathering(tp: int, buckets: tuple[tuple[int, int], ...]) -> int:
    """See `gathering`. For each bucket: its pipeline stage and bytes."""
    nothing = (1, 0)
    most = 0
    around = zip([nothing, *buckets[:-1]], buckets, [*buckets[1:], nothing], strict=True)
    for before, one, following in around:
        parts = [size + (size // tp if tp > 1 else 0) if stage == 0 else size for stage, size in (one, following)]
        most = max(most, before[1] + sum(parts) + (2 * one[1] if one[0] == 0 else 0))
    return most


def buffers(setup: Setup) -> int:
    """`gathering`, and the buffers of vLLM's sender."""
    return gathering(setup) + _VLLM_BUCKETS * sync(setup).largest if setup.engines.count else 0


def checkpoint_bytes(setup: Setup) -> int:
    """The size of a checkpoint: fp32 weights, both moments and the outer momentum, if there is one."""
    return (CHECKPOINT_BYTES + 4 * setup.outer_momentum) * setup.count
