"""Sending the weights to the engines, and saving them."""

from dataclasses import dataclass

from openrlhf_sfpo.doctor import CHECKPOINT_BYTES
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
    return SyncPlan(sum(setup.buckets), len(setup.buckets), max(setup.buckets))


def gathering(setup: Setup) -> int:
    """Bytes that a stage's first rank has at a time at most: its part of a bucket and all ranks' parts, the tensors
    made of them, and these as one bucket (`WeightExchange._gather`); and of the next bucket, which is under way, the
    first two."""
    largest, tp = max(setup.buckets), setup.layout.tp
    return 4 * largest + (2 * largest // tp if tp > 1 else 0)


def buffers(setup: Setup) -> int:
    """`gathering`, and what vLLM's sender packs."""
    return gathering(setup) + _VLLM_BUCKETS * max(setup.buckets) if setup.engines.count else 0


def checkpoint_bytes(setup: Setup) -> int:
    """Of a checkpoint: fp32 weights and both moments."""
    return CHECKPOINT_BYTES * setup.count
