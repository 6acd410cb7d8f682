"""What stays on each GPU from step to step: parameters, gradients, main parameters and Adam's moments."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_sfpo.megatron.weights import Entry, tied_copy
from openrlhf_sfpo.plan.setup import Setup

_PARAMETER_ALIGNMENT = 64
_BUCKET_ALIGNMENT = 128


@dataclass(frozen=True)
class State:
    """Bytes on each GPU of one pipeline stage.

    Attributes:
        stage: of the pipeline.
        count: parameters on each of its ranks, without padding.
        parameters: in the parameters' dtype.
        gradients: fp32, as large as the parameters are many: not divided over the data-parallel ranks.
        main_parameters: fp32 copies that the optimizer moves; none with fp32 parameters, which it moves themselves.
        moments: Adam's two, fp32.
        shard: of one fp32 number for each parameter that the rank owns; what SFPO's snapshot is a multiple of.
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
    """The state on each pipeline stage. The distributed optimizer divides main parameters and moments by DP x CP."""
    plan = _entries(setup)
    found = []
    for stage in range(setup.layout.pp):
        count = padded = 0
        for chunk in range(setup.layout.vpp):
            mine = [entry for entry in plan if (entry.stage, entry.chunk) == (stage, chunk)]
            sizes = [local_numel(entry, setup.layout.tp) for entry in mine]
            apart = [_is_shared(entry, setup) for entry in mine]
            count += sum(sizes)
            padded += buffer_numel(sizes, apart, setup.owners, _bucket_size(setup, chunk))
        shard = 4 * padded // setup.owners
        mains = shard if setup.element < 4 else 0
        found.append(State(stage, count, setup.element * padded, 4 * padded, mains, 2 * shard, shard))
    return found


def local_numel(entry: Entry, tp: int) -> int:
    """Elements of a parameter on one tensor-parallel rank, with the padding of the vocabulary."""
    return sum(block.rows * block.columns for block in entry.converter.blocks(0, tp))


def buffer_numel(sizes: Sequence[int], apart: Sequence[bool], owners: int, bucket_size: int | None) -> int:
    """Elements of a chunk's buffer as Megatron's DDP lays it out, last parameter first: parameters begin at multiples
    of 64, and buckets, which every owner gets an equal part of, end at common multiples of 128 and their number.

    Source: `megatron.core.distributed.param_and_grad_buffer._ParamAndGradBuffer`.

    Args:
        sizes: of the chunk's parameters on this rank.
        apart: for each, whether it has a bucket to itself, as tied embeddings have.
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
    """Bytes of the reference model on each GPU of its largest stage; it is laid out as the policy is, without
    buffers."""
    return setup.element * max(state.count for state in policy)


def _entries(setup: Setup) -> list[Entry]:
    copy = tied_copy(setup.model, setup.layout)
    return [*setup.entries, copy] if copy else setup.entries


def _is_shared(entry: Entry, setup: Setup) -> bool:
    tied = setup.model.tied_embeddings and setup.layout.pp > 1
    return tied and (entry.is_copy or entry.parameter == "embedding.word_embeddings.weight")


def _bucket_size(setup: Setup, chunk: int) -> int | None:
    """Without overlap there is one bucket, and only the first chunk's communication is divided into several."""
    if not setup.overlap or chunk > 0:
        return None
    return setup.ddp_bucket or max(40_000_000, 1_000_000 * setup.owners)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
