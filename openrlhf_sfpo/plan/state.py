"""The permanent memory of each GPU: parameters, gradients, main parameters and Adam's moments."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.weights.mapping import Entry, tied_copy, weight_plan
from openrlhf_sfpo.plan.setup import Setup

_PARAMETER_ALIGNMENT = 64
_BUCKET_ALIGNMENT = 128


@dataclass(frozen=True)
class State:
    """Bytes on each GPU of one pipeline stage.

    Attributes:
        stage: index of the pipeline stage.
        count: parameters on each of its ranks, without padding.
        parameters: in the parameters' dtype.
        gradients: fp32, for all parameters: not divided over the data-parallel ranks.
        main_parameters: fp32 copies that the optimizer updates; none with fp32 parameters, which it updates directly.
        moments: Adam's two and the outer momentum, if there is one, fp32.
        shard: one fp32 number per parameter that the rank owns; SFPO's snapshot is a multiple of it.
    """

    stage: int
    count: int
    parameters: int
    gradients: int
    main_parameters: int
    moments: int
    shard: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.main_parameters + self.moments


def states(setup: Setup) -> list[State]:
    """The state of each pipeline stage. The distributed optimizer divides main parameters and moments by DP x CP."""
    found = []
    for stage, sizes_of in enumerate(_sizes(setup.model, setup.layout)):
        count = padded = 0
        for chunk, (sizes, apart) in enumerate(sizes_of):
            count += sum(sizes)
            padded += buffer_numel(sizes, apart, setup.owners, _bucket_size(setup, stage, chunk))
        shard = 4 * padded // setup.owners
        mains = shard if setup.element < 4 else 0
        found.append(
            State(stage, count, setup.element * padded, 4 * padded, mains, (2 + setup.outer_momentum) * shard, shard)
        )
    return found


def local_numel(entry: Entry, tp: int) -> int:
    """Elements of a parameter on one tensor-parallel rank, including padding of the vocabulary."""
    return sum(block.rows * block.columns for block in entry.converter.blocks(0, tp))


def buffer_numel(sizes: Sequence[int], apart: Sequence[bool], owners: int, bucket_size: int | None) -> int:
    """Elements of a chunk's buffer in the layout of Megatron's DDP, last parameter first: parameters start at multiples
    of 64; buckets, which are divided equally among the owners, end at common multiples of 128 and the number of owners.

    Source: `megatron.core.distributed.param_and_grad_buffer._ParamAndGradBuffer`.

    Args:
        sizes: elements of the chunk's parameters on this rank.
        apart: for each, whether it has its own bucket, as tied embeddings do.
        owners: ranks that share the optimizer's work.
        bucket_size: parameters after which a bucket ends; None for a single one.
    """
    multiple = math.lcm(owners, _BUCKET_ALIGNMENT)
    end = begin = 0
    for size, alone in zip(reversed(sizes), reversed(apart), strict=True):
        end = _up(end, _PARAMETER_ALIGNMENT)
        if alone and end > begin:
            end = begin = _up(end, multiple)
        end += size
        if alone or (bucket_size is not None and end - begin >= bucket_size):
            end = begin = _up(end, multiple)
    return _up(end, multiple)


def reference_parameters(setup: Setup, policy: Sequence[State]) -> int:
    """Bytes of the reference model on each GPU of its largest stage; it has the policy's layout, without buffers."""
    return setup.element * max(state.count for state in policy)


@functools.lru_cache(maxsize=128)  # suggestions try hundreds of settings on the same few layouts
def _sizes(model: ModelConfig, layout: Layout) -> list[list[tuple[list[int], list[bool]]]]:
    """For each pipeline stage and each of its chunks: the elements of each parameter on a tensor-parallel rank, and
    whether it has its own bucket, as tied embeddings on two stages do."""
    found: list[list[tuple[list[int], list[bool]]]] = [[([], []) for _ in range(layout.vpp)] for _ in range(layout.pp)]
    copy = tied_copy(model, layout)
    for entry in [*weight_plan(model, layout), *([copy] if copy else [])]:
        sizes, apart = found[entry.stage][entry.chunk]
        sizes.append(local_numel(entry, layout.tp))
        apart.append(bool(copy) and (entry.is_copy or entry.parameter == "embedding.word_embeddings.weight"))
    return found


def _bucket_size(setup: Setup, stage: int, chunk: int) -> int | None:
    """Without overlap there is one bucket. With it, only the first chunk of the first stage has several: elsewhere the
    communication is not on the critical path. Source: Megatron's DistributedDataParallel."""
    if not setup.overlap_grad_reduce or stage > 0 or chunk > 0:
        return None
    return setup.ddp_bucket_size or max(40_000_000, 1_000_000 * setup.owners)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
