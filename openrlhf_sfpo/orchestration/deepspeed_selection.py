"""The samples of a train batch that the DeepSpeed actor trains on, where these are not all of them.

DeepSpeed's ranks must run the same number of micro-batches. Samples stay on their ranks; a rank with fewer of them than
others fills up with samples whose tokens are all masked, which cost time and have no gradient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from openrlhf_sfpo.sfpo import Choice

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.openrlhf_types import Experience


@dataclass(frozen=True)
class Selection:
    """Samples for one optimizer step.

    Attributes:
        items: of this rank, the same number on every rank.
        tokens: the number of tokens that the loss is divided by, over all ranks.
        sequences: likewise, sequences with at least one such token.
        weight: the number of tokens that are trained on, over all ranks, by which metrics are averaged.
    """

    items: list["Experience"]
    tokens: float
    sequences: float
    weight: float


@dataclass(frozen=True)
class _Sample:
    """What all ranks must know of a sample: its mean advantage over the response, whether any of its advantages is not
    zero, and its number of tokens in the loss."""

    advantage: float
    has_gradient: bool
    tokens: int


def select(
    own: Sequence["Experience"],
    number: int,
    choose: Choice | None,
    *,
    whole_divisors: bool,
    skips: bool,
    micro_batch: int,
    group: dist.ProcessGroup,
) -> Selection:
    """Choose samples of a train batch. Collective: every rank must call it.

    Args:
        own: this rank's samples, as many as every rank has, and a multiple of `micro_batch`.
        number: the train batch's.
        choose, whole_divisors: see `sfpo.Pass`. It gets the samples of all ranks, rank by rank.
        skips: leave out samples whose advantages are all zero; the divisors stay the same.
        micro_batch: the number of selected samples is a multiple of this.
        group: the data-parallel ranks.
    """
    gathered: list[Any] = [None] * group.size()
    dist.all_gather_object(gathered, [_describe(item) for item in own], group=group)
    every = [sample for samples in gathered for sample in samples]
    everything = dict.fromkeys(range(len(every)), 1.0)
    weights = everything if choose is None else choose([sample.advantage for sample in every], number)
    trained = [index for index in weights if every[index].has_gradient or not skips]
    by_rank = [
        [index - rank * len(own) for index in trained if index // len(own) == rank] for rank in range(len(gathered))
    ]
    size = micro_batch * max(1, math.ceil(max(map(len, by_rank)) / micro_batch))
    first = group.rank() * len(own)
    kept = by_rank[group.rank()]
    others = [index for index in range(len(own)) if index not in set(kept)]
    divided_by = [every[index] for index in (everything if whole_divisors else weights)]
    if trained:
        fill = [_masked(own[index]) for index in others[: size - len(kept)]]
    else:  # OpenRLHF's metrics are means over tokens, of which there must be some
        fill = [_weighted(item, 0.0) for item in own[:size]]
    return Selection(
        items=[*(_weighted(own[index], weights[first + index]) for index in kept), *fill],
        tokens=max(1.0, float(sum(sample.tokens for sample in divided_by))),
        sequences=max(1.0, float(sum(sample.tokens > 0 for sample in divided_by))),
        weight=float(sum(every[index].tokens for index in trained)),
    )


def _describe(item: "Experience") -> _Sample:
    assert item.advantages is not None
    mask = item.action_mask.bool()
    tokens = int(mask.sum())
    scored = item.advantages[mask]
    return _Sample(float(scored.mean()) if tokens else 0.0, bool((scored != 0).any()), tokens)


def _weighted(item: "Experience", weight: float) -> "Experience":
    assert item.advantages is not None
    return item if weight == 1.0 else replace(item, advantages=item.advantages * weight)


def _masked(item: "Experience") -> "Experience":
    return replace(item, action_mask=torch.zeros_like(item.action_mask))
