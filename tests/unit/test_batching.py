"""Micro-batches: nothing dropped, within budget, balanced, equal in number; packing keeps values in their places."""

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_samples

from openrlhf_sfpo.megatron.data.batching import pack, plan_micro_batches, plan_train_batches

LENGTHS = st.lists(st.lists(st.integers(2, 100), max_size=20), min_size=1, max_size=4).filter(
    lambda ranks: sum(map(len, ranks)) > 0
)


@settings(deadline=None, max_examples=200)
@given(lengths=LENGTHS, batch=st.integers(1, 30), budget=st.integers(10, 300), multiple=st.integers(1, 4))
def test_a_plan_keeps_every_sample_once_within_budget(
    lengths: list[list[int]], batch: int, budget: int, multiple: int
) -> None:
    plan = plan_micro_batches(lengths, plan_train_batches(lengths, batch), budget, multiple)
    flat = [length for rank in lengths for length in rank]
    placed = [n for step in plan for rank in step for members in rank for n in members]
    assert sorted(placed) == list(range(len(flat)))
    assert len(plan) == -(-len(flat) // batch)
    for step in plan:
        assert len(step) == len(lengths)
        counts = {len(rank) for rank in step}
        assert len(counts) == 1, "as many micro-batches on every rank"
        assert counts.pop() % multiple == 0
        for rank in step:
            for members in rank:
                assert len(members) <= 1 or sum(flat[n] for n in members) <= budget


def test_a_plan_balances_tokens_over_ranks() -> None:
    generator = random.Random(0)
    lengths = [[generator.randint(100, 1000) for _ in range(32)], [generator.randint(2000, 4000) for _ in range(32)]]
    flat = [length for rank in lengths for length in rank]
    (step,) = plan_micro_batches(lengths, plan_train_batches(lengths, 64), 8192)
    tokens = [sum(flat[n] for members in rank for n in members) for rank in step]
    assert abs(tokens[0] - tokens[1]) < 0.01 * sum(tokens)
    assert len(step[0]) <= -(-max(tokens) // 8192) + 1


@settings(deadline=None, max_examples=200)
@given(ranks=st.integers(1, 8), each=st.integers(1, 12), more=st.integers(0, 7), beyond=st.integers(0, 30))
def test_every_optimizer_step_has_samples(ranks: int, each: int, more: int, beyond: int) -> None:
    """With at least as many samples in a train batch as there are ranks, which the checks of flags require."""
    lengths = [[10] * (each + (rank < more)) for rank in range(ranks)]
    for step in plan_micro_batches(lengths, plan_train_batches(lengths, ranks + beyond), 1000):
        assert any(members for rank in step for members in rank)


def test_train_batches_follow_each_ranks_order() -> None:
    lengths = [[10] * 4, [10] * 4]
    plan = plan_micro_batches(lengths, plan_train_batches(lengths, 4), 1000)
    steps = [sorted(n for rank in step for members in rank for n in members) for step in plan]
    assert steps == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_packing_and_unpacking() -> None:
    samples = make_samples(5)
    for sample in samples:
        sample.old_log_probs = torch.arange(len(sample.action_mask), dtype=torch.float32)
    batch = pack(samples, "cpu")
    assert batch.tokens.shape == (1, sum(len(sample.tokens) - 1 for sample in samples))
    assert batch.packed.cu_seqlens_q.tolist()[-1] == batch.tokens.shape[1]
    scored = int(sum(sample.action_mask.sum() for sample in samples))
    assert batch.selected.shape == batch.labels.shape == (scored,)
    # A value that identifies its scored position must come back to that position.
    padded = batch.padded(batch.labels.float())
    for row, sample in enumerate(samples):
        width = len(sample.action_mask)
        expected = sample.tokens[1:].float() * sample.action_mask
        assert torch.equal(padded[row, :width], expected)
        assert padded[row, width:].abs().sum() == 0
        assert torch.equal(batch.floats["old_log_probs"][row, :width], sample.old_log_probs)
    assert "rollout_log_probs" not in batch.floats


def test_an_empty_pack_scores_nothing() -> None:
    batch = pack([], "cpu")
    assert batch.selected.numel() == 0
    assert batch.tokens.shape == (1, 1)
