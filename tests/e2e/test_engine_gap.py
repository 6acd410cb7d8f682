"""A run must stop at its first batch if engines and actor compute different log-probabilities."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jobs
import pytest
import torch
from jobs import LAYOUTS
from pretrained_runs import flags, logs_of, train
from ranks import RankPool
from tiny_models import make_model, make_samples

from openrlhf_sfpo.orchestration.engine_gap import EngineGap, GapWatch, limit_of
from openrlhf_sfpo.system.run_errors import EngineMismatch


def arguments(**changes: Any) -> SimpleNamespace:
    """Flags, nested as OpenRLHF nests them; `changes` have names with __ for dots."""
    values = {
        "actor.backend": "megatron",
        "ds.param_dtype": "bf16",
        "megatron.param_dtype": "bf16",
        "run.engine_dtype": "bfloat16",
        "rollout.temperature": 1.0,
        "rollout.top_p": 1.0,
        "rollout.replay_dir": None,
        "train.max_log_prob_diff": None,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, leaf = name.split(".")
        sections.setdefault(section, {})[leaf] = value
    return SimpleNamespace(**{name: SimpleNamespace(**leaves) for name, leaves in sections.items()})


FP32 = {"megatron__param_dtype": "fp32", "run__engine_dtype": "float32"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.2),
        (FP32, 0.02),
        ({"megatron__param_dtype": "fp32"}, 0.2),
        ({"run__engine_dtype": "float32"}, 0.2),
        ({**FP32, "actor__backend": "deepspeed"}, 0.2),
        ({**FP32, "actor__backend": "deepspeed", "ds__param_dtype": "fp32"}, 0.02),
        ({"rollout__temperature": 0.5}, 0.4),
        ({"rollout__temperature": 2.0}, 0.2),
        ({"rollout__temperature": 0.0}, None),
        ({"rollout__top_p": 0.9}, 0.2 - math.log(0.9)),
        ({"train__max_log_prob_diff": 0.0}, None),
        ({"train__max_log_prob_diff": 1.5, "rollout__top_p": 0.5}, 1.5),
    ],
    ids=str,
)
def test_the_limit_follows_from_dtypes_and_sampling(changes: dict[str, Any], expected: float | None) -> None:
    assert limit_of(arguments(**changes)) == (None if expected is None else pytest.approx(expected))


def test_the_first_token_of_each_turn_does_not_count() -> None:
    """Engines exclude the end-of-text token there."""
    mask = torch.tensor([[0, 1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0, 1]])
    distances = torch.tensor([[9.0, 9.0, 1.0, 2.0, 9.0, 9.0, 3.0], [9.0, 4.0, 9.0, 9.0, 9.0, 9.0, 9.0]])
    gap = EngineGap()
    gap.add(torch.zeros(2, 7), distances, mask)
    gap.add(-distances, torch.zeros(2, 7), mask.float())
    gap.add(torch.zeros(1, 1), torch.full((1, 1), math.nan), torch.ones(1, 1))
    assert gap.sums.tolist() == [20.0, 8.0]


def test_the_first_batch_with_distances_is_checked_and_later_ones_lead_to_one_notice() -> None:
    watch = GapWatch(arguments())
    watch.check(0.0, 0.0)  # responses of one token
    assert watch.notice(0.0, 0.0) is None
    watch.check(19.0, 100.0)
    assert "0.19 nats per token" in watch.notice(19.0, 100.0)
    watch.check(50.0, 100.0)
    assert watch.notice(50.0, 100.0) is None, "said once"


@pytest.mark.parametrize("total", [21.0, math.nan, math.inf])
def test_a_first_batch_too_far_off_stops(total: float) -> None:
    with pytest.raises(
        EngineMismatch, match=r"Nothing was trained.*config\.json.*--train\.max_log_prob_diff 0"
    ) as stop:
        GapWatch(arguments()).check(total, 100.0)
    assert "\n" not in str(stop.value)
    watch = GapWatch(arguments(train__max_log_prob_diff=0.0))
    watch.check(total, 100.0)
    assert watch.notice(total, 100.0) is None


def test_samples_from_other_weights_are_not_checked() -> None:
    watch = GapWatch(arguments())
    assert watch.watches([{"reward": 1.0}, {"staleness": 0.0}])
    assert not watch.watches([{"staleness": 0.0}, {"staleness": 1.0}])
    assert not GapWatch(arguments(rollout__replay_dir="somewhere")).watches([])


def update_with_engine(
    path: str, layout: tuple[int, ...], samples: list[Any], off: float, ahead: bool, **settings: Any
) -> dict[str, Any]:
    """One SFPO update on samples whose engine log-probabilities are off by `off`: its error; whether weights moved."""
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    actor = jobs.make_actor(path, layout, train_batch_size=6 if ahead else 100, **settings)
    mine, gap, watch = jobs.my_share(samples), EngineGap(), GapWatch(arguments(**FP32))
    for sample, log_probs in zip(mine, actor.forward(mine), strict=True):
        sample.rollout_log_probs = log_probs + off
        if ahead:
            sample.old_log_probs = log_probs

    class Loss(PPOClipLoss):
        def __call__(self, log_probs: Any, entropy: Any, batch: Any, norm: Any) -> Any:
            gap.add(batch.floats["old_log_probs"], batch.floats["rollout_log_probs"], batch.action_mask)
            return super().__call__(log_probs, entropy, batch, norm)

    before = jobs.weights_of(actor)
    update = SlowFastUpdate(actor.shards, 2, 0.8, Gate("off"))
    message = ""
    try:
        actor.update(mine, Loss(), update, lambda: watch.check(*actor.token_sums(gap.sums)))
    except EngineMismatch as error:
        message = str(error)
    after = jobs.weights_of(actor)
    return {"message": message, "moved": any(not torch.equal(before[name], after[name]) for name in before)}


@pytest.mark.parametrize("ahead", [True, False], ids=["old log-probs before", "old log-probs in the update"])
@pytest.mark.parametrize("name", ["TP1PP1DP2", "TP2PP2DP1", "PP2CP2"])
def test_no_rank_takes_a_step_with_samples_of_another_model(
    ranks: RankPool, tmp_path: Path, name: str, ahead: bool
) -> None:
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "qwen2"))
    results = ranks.run(jobs.ranks_of(layout, dp), update_with_engine, path, layout, make_samples(12), 0.05, ahead)
    for result in results:
        assert "0.05 nats per token" in result["message"]
        assert not result["moved"]
    if name == "TP1PP1DP2":
        near = ranks.run(2, update_with_engine, path, layout, make_samples(12), 0.01, ahead)
        assert [result["message"] for result in near] == ["", ""]
        assert near[0]["moved"]


def test_skipping_nonfinite_batches_does_not_skip_the_engine_check(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "qwen2"))
    (result,) = ranks.run(1, update_with_skipping, path)
    assert "0.05 nats per token" in result["message"]
    assert not result["moved"]


def update_with_skipping(path: str) -> dict[str, Any]:
    return update_with_engine(path, (1, 1, 1), make_samples(12), 0.05, True, skip_nonfinite=True)


@pytest.mark.slow
def test_a_run_stops_at_its_first_batch(smollm2: Path, tmp_path: Path) -> None:
    """With a limit so low that no two implementations meet it."""
    run_dir = tmp_path / "run"
    done = train(*flags(run_dir, smollm2, train__max_log_prob_diff=1e-12, ckpt__save_steps=1))
    assert done.returncode == 1, logs_of(run_dir)
    assert "the run failed: EngineMismatch: the engines' log-probabilities are" in done.stdout
    assert "Nothing was trained" in done.stdout
    assert "restarts left" not in done.stdout
    status = json.loads((run_dir / "status.json").read_text())
    assert status["state"] == "failed"
    assert not list((run_dir / "checkpoints").rglob("*.json")), "nothing was saved"
