"""Updates that encounter NaN or infinity: none of it may reach the weights."""

import math
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from jobs import LAYOUTS
from ranks import RankFailure, RankPool
from tiny_models import make_model, make_samples

# The last sample is in the second of two optimizer steps, so that one has been made before it.
SETTINGS: dict[str, Any] = {"skip_nonfinite": True, "optimizer": {"schedule": "cosine_with_min_lr", "total_steps": 12}}


def spoil(samples: list[Any], value: float) -> list[Any]:
    """The same samples, with `value` as the advantage of the last one."""
    samples[-1].advantages = samples[-1].advantages.clone()
    samples[-1].advantages[samples[-1].action_mask] = value
    return samples


def two_batches(
    path: str, layout: tuple[int, ...], bad: list[Any] | None, good: list[Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """An update, one that goes wrong (unless `bad` is None), and another update."""
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    actor = jobs.make_actor(path, layout, **settings)
    update = SlowFastUpdate(actor.shards, 2, 0.8, Gate("upper", window=2))
    first = jobs.on_policy_step(actor, good, update)
    skipped = None
    if bad is not None:
        before = jobs.owned_state(actor)
        states = update.state_dict(), actor.learning_rate.state_dict()
        skipped = jobs.on_policy_step(actor, bad, update)
        after = jobs.owned_state(actor)
        assert before.keys() == after.keys()
        for name, tensors in before.items():
            for old, new in zip(tensors, after[name], strict=True):
                assert torch.equal(old, new), name
        assert (update.state_dict(), actor.learning_rate.state_dict()) == states
        jobs.assert_copies_agree(actor)
    last = jobs.on_policy_step(actor, good, update)
    return {"first": first, "skipped": skipped, "last": last, "weights": jobs.weights_of(actor)}


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        ("TP1PP1DP1", math.nan, torch.float32),
        ("TP1PP1DP1", math.inf, torch.bfloat16),
        ("TP1PP1DP2", math.nan, torch.bfloat16),
        ("TP1PP1DP2", math.inf, torch.float32),
        ("TP2PP2DP1", math.nan, torch.float32),
    ],
)
def test_a_skipped_batch_leaves_no_trace(
    ranks: RankPool, tmp_path: Path, name: str, value: float, dtype: torch.dtype
) -> None:
    layout, dp = LAYOUTS[name]
    world = jobs.ranks_of(layout, dp)
    path = str(make_model(tmp_path / "model", "qwen2", True))
    settings = {**SETTINGS, "param_dtype": dtype}
    good, bad = make_samples(12), spoil(make_samples(12), value)
    with_it = ranks.run(world, two_batches, path, layout, bad, good, settings)
    without = ranks.run(world, two_batches, path, layout, None, good, settings)
    for rank in with_it:
        assert rank["skipped"]["skipped_update"] == 1.0
        assert "is" in rank["skipped"]["skipped_because"]
        assert rank["last"]["skipped_update"] == 0.0
    assert with_it[0]["last"]["actor_lr"] == without[0]["last"]["actor_lr"]
    assert with_it[0]["last"]["actor_grad_norm"] == without[0]["last"]["actor_grad_norm"]
    for weight, tensor in without[0]["weights"].items():
        assert torch.equal(tensor, with_it[0]["weights"][weight]), weight


def test_without_skipping_every_rank_raises(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "llama", True))
    settings = {**SETTINGS, "skip_nonfinite": False}
    with pytest.raises(RankFailure) as failure:
        ranks.run(2, two_batches, path, (1, 1, 1), spoil(make_samples(12), float("nan")), make_samples(12), settings)
    assert str(failure.value).count("NonFiniteUpdate: the loss is not finite") == 2
