"""Sending the weights to the engines, and saving them."""

import functools
from dataclasses import dataclass

from openrlhf_sfpo.plan.allowances import CHECKPOINT_BYTES
from openrlhf_sfpo.plan.setup import Setup

# vLLM's packed transfer keeps two packed buckets (DEFAULT_PACKED_NUM_BUFFERS), and the tensors of one being packed.
_VLLM_BUCKETS = 3


@dataclass(frozen=True)
class SyncPlan:
    """One transfer of all weights.

    Attributes:
        bytes: that are sent.
        buckets: in how many parts they are gathered.
        largest: bytes of the largest part, of which a single tensor may be longer than --megatron.weight_bucket_mb.
    """

    bytes: int
    buckets: int
    largest: int


def sync(setup: Setup) -> SyncPlan:
    """What `export.WeightExchange` sends, and in how many buckets."""
    sizes = [size for _, size in setup.buckets]
    return SyncPlan(sum(sizes), len(sizes), max(sizes))


def gathering(setup: Setup) -> int:
    """Bytes that the first rank has at a time at most (see `export.WeightExchange.stream`).

    Of a bucket of its own stage: its part and all ranks' parts, the tensors made of them, and these as one bucket; of
    the next one, which is under way, the first two; of the one before the last, as long as its receiver has a tensor of
    it. A bucket of another stage comes as one.
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
    """`gathering`, and what vLLM's sender packs."""
    return gathering(setup) + _VLLM_BUCKETS * sync(setup).largest if setup.engines.count else 0


def checkpoint_bytes(setup: Setup) -> int:
    """Of a checkpoint: fp32 weights and both moments."""
    return CHECKPOINT_BYTES * setup.count
