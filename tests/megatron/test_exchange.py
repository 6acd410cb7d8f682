"""Samples must arrive once at the ranks that train on them; results must return to the ranks that own them."""

from typing import Any

import pytest
import torch
from ranks import RankPool
from tiny_models import make_samples

COUNTS = {1: [7], 2: [0, 1], 3: [6, 0, 5]}  # samples that each rank owns


def owned(counts: list[int], fields: bool) -> list[list[Any]]:
    """Each rank's samples; with `fields`, log-probabilities that identify their sample."""
    samples = make_samples(sum(counts))
    for number, sample in enumerate(samples):
        if fields:
            positions = torch.arange(len(sample.action_mask), dtype=torch.float32)
            sample.old_log_probs, sample.rollout_log_probs = number + positions / 100, -number - positions / 100
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    return [samples[end - count : end] for end, count in zip(ends, counts, strict=True)]


def started() -> tuple[Any, Any]:
    """A layout in which every rank holds a copy of the model, and the settings of a small step."""
    from datetime import timedelta

    from openrlhf_sfpo.megatron import cpu
    from openrlhf_sfpo.megatron.layout import Layout, start_distributed
    from openrlhf_sfpo.megatron.settings import ActorSettings

    cpu.install()
    with cpu.device_scope():
        start_distributed(Layout(), use_cuda=False, timeout=timedelta(seconds=60))
    return Layout(), ActorSettings(train_batch_size=6, max_tokens_per_gpu=64)


def travel(counts: list[int]) -> dict[str, Any]:
    """What arrives at this rank to train on, and what returns to it."""
    import torch.distributed as dist

    from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch

    layout, settings = started()
    mine = owned(counts, fields=True)[dist.get_rank()]
    batch = RolloutBatch(layout, settings, mine)
    arrived: dict[int, Any] = {}
    for step in range(batch.num_steps):
        numbers, packs = batch.micro_batches(step)
        for members, pack in zip(numbers, packs, strict=True):
            for row, number in enumerate(members):
                length = batch.length(number) - 1
                arrived[number] = {name: value[row, :length] for name, value in pack.floats.items()}
    back = batch.to_owners({number: fields["old_log_probs"] * 2 for number, fields in arrived.items()})
    norms = [(norm.num_tokens, norm.num_sequences) for norm in map(batch.norm, range(batch.num_steps))]
    return {"arrived": arrived, "back": back, "moved": batch.moved, "norms": norms}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_samples_arrive_once_and_results_come_back(ranks: RankPool, world_size: int) -> None:
    counts = COUNTS[world_size]
    results = ranks.run(world_size, travel, counts)
    everything = [sample for rank in owned(counts, fields=True) for sample in rank]
    arrived = [number for result in results for number in result["arrived"]]
    assert sorted(arrived) == list(range(len(everything)))
    for result in results:
        for number, fields in result["arrived"].items():
            assert fields.keys() == {"old_log_probs", "advantages", "rollout_log_probs"}
            for name, value in fields.items():
                assert torch.equal(value, getattr(everything[number], name))
    for rank, result in zip(owned(counts, fields=True), results, strict=True):
        assert len(result["back"]) == len(rank)
        assert all(torch.equal(b, s.old_log_probs * 2) for b, s in zip(result["back"], rank, strict=True))
    scored = sum(int(sample.action_mask.sum()) for sample in everything)
    for result in results:
        assert sum(tokens for tokens, _ in result["norms"]) == scored
        assert result["norms"] == results[0]["norms"]
    # Each sample is sent at most once: tokens in 4 bytes, the mask in 1, three fields and the result in 4 each.
    total = sum(21 * len(sample.tokens) for sample in everything)
    assert sum(result["moved"] for result in results) <= total


def continue_with(counts: list[int], changed: bool) -> dict[str, Any]:
    """Build a batch for old log-probabilities, and from it the one for the update."""
    import torch.distributed as dist

    from openrlhf_sfpo.megatron.data.batching import Sample
    from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch

    layout, settings = started()
    mine = owned(counts, fields=True)[dist.get_rank()]
    scored = RolloutBatch(layout, settings, [Sample(sample.tokens, sample.action_mask) for sample in mine])
    before = [pack.tokens for step in range(scored.num_steps) for pack in scored.micro_batches(step)[1]]
    moved = scored.moved
    if changed and dist.get_rank() == 0:
        mine[0].tokens = mine[0].tokens.flip(0)
    batch = RolloutBatch(layout, settings, mine, scored)
    alone = RolloutBatch(layout, settings, mine)
    packs = [pack for step in range(batch.num_steps) for pack in batch.micro_batches(step)[1]]
    wanted = [pack for step in range(alone.num_steps) for pack in alone.micro_batches(step)[1]]
    return {
        "reused": all(one is pack.tokens for one, pack in zip(before, packs, strict=True)),
        "same": all(
            torch.equal(one.tokens, other.tokens)
            and one.floats.keys() == other.floats.keys()
            and all(torch.equal(one.floats[name], other.floats[name]) for name in one.floats)
            for one, other in zip(packs, wanted, strict=True)
        ),
        "moved": batch.moved - (moved if not changed else 0),
        "alone": alone.moved,
    }


@pytest.mark.parametrize("changed", [False, True])
def test_an_update_continues_with_the_batch_that_was_scored(ranks: RankPool, changed: bool) -> None:
    for result in ranks.run(2, continue_with, [5, 8], changed):
        assert result["same"]
        assert result["reused"] != changed, "a token that differs on one rank is a new batch on all"
        if not changed:
            assert result["moved"] < result["alone"], "tokens and masks stay where they are"


def without_room(cache_bytes: int) -> tuple[bool, bool, bool]:
    """Whether all micro-batches are kept from pass to pass, whether any is, and whether they are the same."""
    import dataclasses

    from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch

    layout, settings = started()
    (mine,) = owned([7], fields=True)
    batch = RolloutBatch(layout, dataclasses.replace(settings, batch_cache_bytes=cache_bytes), mine)
    first, second = ([pack for step in range(batch.num_steps) for pack in batch.micro_batches(step)[1]] for _ in "ab")
    kept = [one is other for one, other in zip(first, second, strict=True)]
    return all(kept), any(kept), all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, second, strict=True))


def test_micro_batches_are_packed_once_where_there_is_room(ranks: RankPool) -> None:
    assert ranks.run(1, without_room, 2**30) == [(True, True, True)]
    assert ranks.run(1, without_room, 0) == [(False, False, True)]
    assert ranks.run(1, without_room, 3000) == [(False, True, True)], "as many as there is room for"
