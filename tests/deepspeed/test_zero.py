"""SFPO on OpenRLHF's DeepSpeed actor against a plain PyTorch loop and the Megatron actor, for every ZeRO stage."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed_jobs as ds
import jobs
import pytest
import torch
from ranks import RankPool
from reference import (
    STATE_MODES,
    PlainSFPO,
    assert_same,
    flat,
    log_probs_of,
    parts_of,
    recorded,
    updated_twice,
    with_old_log_probs,
    without_advantages,
)
from tiny_models import make_model, make_samples, with_tokenizer

from openrlhf_sfpo.config.checks import check_backend
from openrlhf_sfpo.deepspeed.compiled_ops import left_locks
from openrlhf_sfpo.sfpo import FastPart
from openrlhf_sfpo.system.errors import UsageError

# ZeRO stage and ranks.
RANKS = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
ON_TWO_RANKS = [pytest.param(*pair, marks=pytest.mark.slow if pair[1] == 1 else ()) for pair in RANKS]


@pytest.fixture(scope="module")
def zero_ranks() -> Iterator[RankPool]:
    """A separate pool of rank processes: OpenRLHF's CUDA calls are replaced differently from Megatron's. The first use
    on a machine compiles DeepSpeed's Adam, which takes a minute."""
    for lock in left_locks():
        lock.unlink()  # left by tests that were killed; these would wait for it forever
    pool = RankPool(prepare=ds.prepare)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return with_tokenizer(make_model(tmp_path_factory.mktemp("model"), "qwen2"))


@pytest.fixture(scope="module")
def samples(model: str, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return recorded(tmp_path_factory.mktemp("rollouts"), with_old_log_probs(model, make_samples(12)))


def train_batches(samples: list[Any], world: int, size: int) -> list[list[Any]]:
    """The samples of each optimizer step; each rank takes its part of them in order."""
    shares = [samples[rank::world] for rank in range(world)]
    part = size // world
    steps = len(samples) // size
    return [[sample for share in shares for sample in share[step * part : (step + 1) * part]] for step in range(steps)]


@pytest.mark.parametrize(("stage", "world"), RANKS)
def test_zero_updates_equal_a_plain_pytorch_loop(
    zero_ranks: RankPool, model: str, samples: list[Any], stage: int, world: int
) -> None:
    """Two rollout batches of three optimizer steps of several micro-batches; every rank must report the same."""
    plain, start = updated_twice(model, train_batches(samples, world, 4))
    flags = {"ds__zero_stage": stage, "train__batch_size": 4, "train__micro_batch_size": 1, "rollout__batch_size": 12}
    results = zero_ranks.run(world, run_twice, model, samples, flags)
    found = results[0]
    assert_same(found["weights"], plain, start)
    assert_same(found["masters"], plain, start)
    assert found["metrics"][-1]["actor_grad_norm"] == pytest.approx(plain.grad_norms[-1], rel=1e-4)
    for other in results[1:]:
        for name, value in found["metrics"][-1].items():
            assert other["metrics"][-1][name] == pytest.approx(value, rel=1e-6, abs=1e-12), name


def run_twice(model: str, samples: list[Any], flags: dict[str, Any]) -> Any:
    return ds.train(model, samples, batches=2, **flags)


def one_step(**flags: Any) -> dict[str, Any]:
    """A pass is one optimizer step of six micro-batches (three on each of two ranks)."""
    return {"train__batch_size": 12, "train__micro_batch_size": 2, "rollout__batch_size": 12, **flags}


@pytest.mark.parametrize("state", STATE_MODES)
@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_treatments_of_adams_state(
    zero_ranks: RankPool, model: str, samples: list[Any], stage: int, state: str
) -> None:
    plain, start = updated_twice(model, [samples], state=state)
    flags = one_step(ds__zero_stage=stage, sfpo__optimizer_state=state)
    (found,) = zero_ranks.run(1, run_twice, model, samples, flags)
    assert_same(found["weights"], plain, start)


@pytest.mark.parametrize("preset", ["grpo", "grpo_k_passes", "grpo_scaled_lr", "lookahead", "extragradient"])
def test_presets(zero_ranks: RankPool, model: str, samples: list[Any], preset: str) -> None:
    plain, start = updated_twice(model, [samples], preset=preset)
    (found,) = zero_ranks.run(1, run_twice, model, samples, one_step(ds__zero_stage=2, sfpo__preset=preset))
    assert_same(found["weights"], plain, start)


@pytest.mark.parametrize(
    "flag",
    ["min_fast_ess", *(pytest.param(name, marks=pytest.mark.slow) for name in ("max_fast_kl", "max_fast_clip_ratio"))],
)
def test_fast_passes_end_at_a_limit(zero_ranks: RankPool, model: str, samples: list[Any], flag: str) -> None:
    """As the plain loop's distances from theta_0 say; on two ranks, which must agree."""
    free, plain = PlainSFPO(model, lr=2e-3), PlainSFPO(model, lr=2e-3)
    free.update([samples], 4, 0.8)
    limit = (free.distances[1][flag] + free.distances[2][flag]) / 2
    plain.update([samples], 3, 0.8)
    flags = one_step(ds__zero_stage=2, actor__adam__lr=2e-3, sfpo__k=4, **{f"sfpo__{flag}": limit})
    for found in zero_ranks.run(2, run_once, model, samples, flags):
        assert found["metrics"][0]["sfpo/fast_passes"] == 3
        moved = (flat(plain.weights()) - flat(PlainSFPO(model).weights())).norm()
        assert (flat(found["weights"]) - flat(plain.weights())).norm() <= 1e-3 * moved


@pytest.mark.parametrize(
    ("stage", "world", "part", "flags"),
    [
        (2, 2, {"by": "advantage"}, {}),
        (3, 2, {"by": "random", "rescale": True}, {}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (1, 1, {"by": "variance"}, {}),
                (2, 2, {"by": "advantage", "rescale": True}, {}),
                (2, 2, {"by": "variance"}, {"train__dynamic_batch_enable": True, "train__max_tokens_per_gpu": 64}),
                (3, 2, {"by": "variance"}, {"actor__entropy_coef": 0.01}),
            )
        ),
    ],
    ids=str,
)
def test_fast_passes_on_a_part_of_the_batch(
    zero_ranks: RankPool,
    model: str,
    samples: list[Any],
    stage: int,
    world: int,
    part: dict[str, Any],
    flags: dict[str, Any],
) -> None:
    """Two rollout batches of two optimizer steps, some of whose samples have no advantage. What is chosen is not the
    same number on both ranks, nor a multiple of a micro-batch."""
    samples = without_advantages(samples, (1, 2, 7))
    batches = train_batches(samples, world, 6)
    plain = PlainSFPO(model, lr=5e-5, entropy_coef=flags.get("actor__entropy_coef", 0.0))
    start, chooser = flat(plain.weights()), FastPart(0.4, **part)
    for number in range(2):
        plain.update_with_parts(batches, parts_of(batches, chooser, number), chooser.rescale, 2, 0.8)
    micro_batch = 1 if "train__dynamic_batch_enable" in flags else 3
    flags = {"ds__zero_stage": stage, "train__batch_size": 6, "train__micro_batch_size": micro_batch, **flags}
    flags |= {"rollout__batch_size": 12, "sfpo__fast_fraction": 0.4, "sfpo__fast_selection": part["by"]}
    flags["sfpo__fast_rescale"] = part.get("rescale", False)
    for found in zero_ranks.run(world, run_twice, model, samples, flags):
        assert_same(found["weights"], plain, start)
        assert found["metrics"][-1]["actor_grad_norm"] == pytest.approx(plain.grad_norms[-1], rel=1e-3)
        assert found["metrics"][-1]["optimizer_steps"] == 2
        assert math.isfinite(found["metrics"][-1]["sfpo/fast_kl"])


@pytest.mark.parametrize(
    ("stage", "world", "flags"),
    [
        (3, 2, {}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (2, 1, {"train__micro_batch_size": 4}),
                (2, 2, {"train__dynamic_batch_enable": True, "train__max_tokens_per_gpu": 64}),
                (1, 2, {"sfpo__preset": "grpo"}),
            )
        ),
    ],
    ids=str,
)
def test_samples_without_an_advantage_are_left_out(
    zero_ranks: RankPool, model: str, samples: list[Any], stage: int, world: int, flags: dict[str, Any]
) -> None:
    """The update and the metrics of all samples stay the same, and fewer tokens are trained on; with an entropy bonus
    all samples have a gradient. A batch of nothing else leaves its momentum to move the weights."""
    nothing = without_advantages(samples, range(12))
    some = without_advantages(samples, (0, 1, 2, 3, 4, 6, 8))
    flags = one_step(**{"ds__zero_stage": stage, "train__micro_batch_size": 1, **flags})
    ways = {
        "auto": flags,
        "off": {**flags, "train__skip_zero_advantage": "off"},
        "entropy": {**flags, "actor__entropy_coef": 1e-9},
    }
    found = {way: zero_ranks.run(world, run_three, model, some, nothing, flags)[0] for way, flags in ways.items()}
    plain, start = updated_twice(model, [some], preset=flags.get("sfpo__preset", "sfpo"))
    plain.update([nothing], 2, 0.8, preset=flags.get("sfpo__preset", "sfpo"))
    tokens = {way: result["metrics"][-1]["sfpo/backward_tokens_total"] for way, result in found.items()}
    assert tokens["auto"] <= 0.65 * tokens["off"]
    assert tokens["entropy"] == tokens["off"]
    for result in found.values():
        assert_same(result["weights"], plain, start)
        for name in ("actor_grad_norm", "response_length", "total_length", "reward"):
            expected = found["off"]["metrics"][1][name]
            assert result["metrics"][1][name] == pytest.approx(expected, rel=1e-3, abs=1e-6), name


def test_the_entropy_bonus_adapts(zero_ranks: RankPool, model: str, samples: list[Any]) -> None:
    """Two batches below the target, in which it begins at 0.02 and rises; then one above."""
    tokens = torch.cat([sample.old_log_probs[sample.action_mask] for sample in samples])
    entropy = -tokens.mean().item()
    plain, start = PlainSFPO(model, lr=5e-5), None
    for weight in (0.02, 0.03):
        plain.entropy_coef = weight
        start = start if start is not None else flat(plain.weights())
        plain.update([samples], 2, 0.8)
    flags = one_step(ds__zero_stage=2, algo__adaptive_entropy__enable=True, algo__adaptive_entropy__delta=0.01)
    flags |= {"algo__adaptive_entropy__coefficient": 0.02, "algo__adaptive_entropy__most": 0.1}
    below = zero_ranks.run(2, run_twice, model, samples, {**flags, "algo__adaptive_entropy__target": entropy + 0.1})
    assert start is not None
    for found in below:
        assert_same(found["weights"], plain, start)
        assert [one["adaptive_entropy_coef"] for one in found["metrics"]] == pytest.approx([0.02, 0.03])
    (above,) = zero_ranks.run(1, run_twice, model, samples, {**flags, "algo__adaptive_entropy__target": entropy - 0.1})
    without, start = updated_twice(model, [samples])
    assert_same(above["weights"], without, start)


def run_three(model: str, samples: list[Any], nothing: list[Any], flags: dict[str, Any]) -> Any:
    """Two batches of the samples, and one without advantages."""
    import os

    actor = ds.policy(model, ds.arguments(int(os.environ["WORLD_SIZE"]), **flags))
    metrics = [ds.update(actor, batch) for batch in (samples, samples, nothing)]
    return {"metrics": metrics, "weights": ds.whole_weights(actor)}


PREDICTIONS = [
    (1, 2, {}),
    (2, 2, {"sfpo__prepo_retention": "gradient"}),
    (3, 2, {"sfpo__prepo_retention": "tensor", "sfpo__prepo_per": "train_batch"}),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            (2, 1, {"sfpo__prepo_per": "train_batch"}),
            (2, 2, {"sfpo__prepo_retention": "tensor", "sfpo__prepo_corrective": False}),
            (3, 1, {}),
            (3, 2, {"sfpo__prepo_retention": "gradient"}),
        )
    ),
]


@pytest.mark.parametrize(("stage", "world", "how"), PREDICTIONS, ids=str)
def test_predictions(
    zero_ranks: RankPool, model: str, samples: list[Any], stage: int, world: int, how: dict[str, Any]
) -> None:
    """PrePO over two rollout batches of three optimizer steps; root mean squares are over whole tensors."""
    plain = PlainSFPO(model, lr=5e-5)
    start = flat(plain.weights())
    for _ in range(2):
        plain.predict(
            train_batches(samples, world, 4),
            5,
            0.5,
            how.get("sfpo__prepo_retention", "displacement"),
            how.get("sfpo__prepo_per", "pass"),
            how.get("sfpo__prepo_corrective", True),
        )
    flags = {"ds__zero_stage": stage, "train__batch_size": 4, "train__micro_batch_size": 1, "rollout__batch_size": 12}
    flags |= {"sfpo__preset": "prepo", "sfpo__k": 5, "sfpo__alpha": 0.5, **how}
    for found in zero_ranks.run(world, run_twice, model, samples, flags):
        moved = (flat(plain.weights()) - start).norm()
        # Ratios of displacements in fp32: a step of 5e-5 on a weight of 1 is known to a part in 400.
        assert (flat(found["weights"]) - flat(plain.weights())).norm() <= 3e-3 * moved
        assert found["metrics"][-1]["optimizer_steps"] == 3
        assert found["metrics"][-1]["actor_grad_norm"] == pytest.approx(plain.grad_norms[-1], rel=1e-3)
        assert 1.0 < found["metrics"][-1]["sfpo/extrapolation"] < 3.5


def test_no_prediction_without_rewards(zero_ranks: RankPool, model: str, samples: list[Any]) -> None:
    """The samples here have reward 0."""
    flags = one_step(ds__zero_stage=2, sfpo__preset="prepo", sfpo__prepo_max_zero_rewards=0.5)
    (found,) = zero_ranks.run(1, run_once, model, samples, flags)
    assert found["metrics"][0]["sfpo/active"] == 0.0
    assert found["metrics"][0]["sfpo/backward_passes_total"] == 1.0


@pytest.mark.parametrize("stage", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_an_outer_momentum_continues_from_a_checkpoint(
    zero_ranks: RankPool, model: str, samples: list[Any], tmp_path: Path, stage: int
) -> None:
    """It is among the optimizer's state, which DeepSpeed saves; the third batch equals that of the formulas."""
    plain = PlainSFPO(model, lr=5e-5)
    start, memory = flat(plain.weights()), {}
    for _ in range(3):
        before = plain.weights()
        plain.update([samples], 2, 0.8)
        plain.move_outer(before, memory, momentum=0.7, lr=0.5)
    flags = one_step(ds__zero_stage=stage, sfpo__outer_momentum=0.7, sfpo__outer_lr=0.5)
    flags |= {"ckpt__path": str(tmp_path), "ckpt__load_enable": True}
    zero_ranks.run(1, run_twice_and_checkpoint, model, samples, flags)
    (weights,) = zero_ranks.run(1, run_on, model, samples, flags)
    assert_same(weights, plain, start)


def run_twice_and_checkpoint(model: str, samples: list[Any], flags: dict[str, Any]) -> None:
    actor = ds.policy(model, ds.arguments(1, **flags))
    for _ in range(2):
        ds.update(actor, samples)
    actor.save_checkpoint("global_step2", {"global_step": 2})


def run_on(model: str, samples: list[Any], flags: dict[str, Any]) -> Any:
    actor = ds.policy(model, ds.arguments(1, **flags))
    ds.update(actor, samples)
    return ds.whole_weights(actor)


def run_once(model: str, samples: list[Any], flags: dict[str, Any]) -> Any:
    return ds.train(model, samples, batches=1, **flags)


@pytest.fixture(scope="module")
def by_megatron(ranks: RankPool, model: str, samples: list[Any]) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Metrics of the same two updates by the Megatron actor, and its weights afterwards."""
    settings: dict[str, Any] = {"train_batch_size": 12}
    metrics, weights = ranks.run(1, train_with_megatron, model, samples, settings)[0]
    return metrics, flat(weights)


@pytest.mark.parametrize(("stage", "world"), ON_TWO_RANKS)
def test_updates_and_metrics_are_those_of_the_megatron_actor(
    by_megatron: tuple[list[dict[str, Any]], torch.Tensor],
    zero_ranks: RankPool,
    model: str,
    samples: list[Any],
    stage: int,
    world: int,
) -> None:
    theirs, weights = by_megatron
    found = zero_ranks.run(world, run_twice, model, samples, one_step(ds__zero_stage=stage))[0]
    moved = (weights - flat(PlainSFPO(model).weights())).norm()
    for ours in (found["weights"], found["masters"]):
        assert (flat(ours) - weights).norm() <= 1e-3 * moved
        assert (flat(ours) - weights).norm() <= 1e-6 * weights.norm()
    for ours, other in zip(found["metrics"], theirs, strict=True):
        # OpenRLHF's own policy_loss is not among them: its mean weighs micro-batches by their tokens twice.
        for name in (
            "sfpo/entropy",
            "sfpo/displacement",
            "sfpo/displacement_rel",
            "sfpo/fast_kl",
            "sfpo/momentum_grad_cosine",
            "sfpo/backward_passes_total",
            "sfpo/backward_tokens_total",
            "sfpo/active",
            "actor_grad_norm",
            "ppo_kl",
        ):
            assert ours[name] == pytest.approx(other[name], rel=2e-3, abs=1e-6), name


def train_with_megatron(path: str, samples: list[Any], settings: dict[str, Any]) -> Any:
    return jobs.train(path, (1, 1, 1), samples, batches=2, **settings)


@pytest.mark.parametrize(("stage", "world"), ON_TWO_RANKS)
@pytest.mark.parametrize("preset", ["sfpo", "lookahead"])
def test_the_next_forward_pass_reads_the_rounded_fp32_weights(
    zero_ranks: RankPool, model: str, samples: list[Any], preset: str, stage: int, world: int
) -> None:
    """With bf16 parameters, including those that stage 3 keeps gathered permanently; lookahead ends repositioned."""
    flags = one_step(ds__zero_stage=stage, ds__param_dtype="bf16", sfpo__preset=preset, actor__adam__lr=1e-3)
    for found in zero_ranks.run(world, run_twice, model, samples, flags):
        for name, master in found["masters"].items():
            assert torch.equal(found["weights"][name], master.bfloat16().float()), name


def test_bf16_gradients_accumulated_in_fp32(zero_ranks: RankPool, model: str, samples: list[Any]) -> None:
    """With --ds.grad_accum_dtype fp32, stage 1 uses another optimizer class, whose weights SFPO must move, too."""
    # A rate at which not all tokens are clipped: DeepSpeed requires nonzero gradients.
    flags = one_step(ds__zero_stage=1, ds__param_dtype="bf16", ds__grad_accum_dtype="fp32", actor__adam__lr=2e-4)
    (found,) = zero_ranks.run(1, run_twice, model, samples, flags)
    assert found["metrics"][-1]["sfpo/displacement"] > 0
    for name, master in found["masters"].items():
        assert torch.equal(found["weights"][name], master.bfloat16().float()), name


@pytest.mark.parametrize(
    "flags",
    [
        {"train__dynamic_batch_enable": True, "train__max_tokens_per_gpu": 64},
        pytest.param({"ds__adam_offload": True}, marks=pytest.mark.slow),  # compiles an optimizer
        {"ds__enable_sleep": True},
    ],
    ids=lambda flags: next(iter(flags)),
)
@pytest.mark.parametrize("world", [1, 2])
def test_other_deepspeed_settings(
    zero_ranks: RankPool, model: str, samples: list[Any], world: int, flags: dict[str, Any]
) -> None:
    plain, start = updated_twice(model, [samples])
    found = zero_ranks.run(world, run_twice, model, samples, one_step(ds__zero_stage=2, **flags))[0]
    assert_same(found["weights"], plain, start)


def test_schedule_and_moving_average_advance_once_for_each_batch(
    zero_ranks: RankPool, model: str, samples: list[Any]
) -> None:
    """The learning rate must follow GRPO's schedule; the average must be over the weights that sample rollouts."""
    flags = one_step(ds__zero_stage=2, actor__lr_scheduler="linear", actor__lr_warmup_ratio=0.0)
    rates = {}
    for preset in ("sfpo", "grpo", "grpo_scaled_lr"):
        (found,) = zero_ranks.run(1, run_ten_steps, model, samples, {**flags, "sfpo__preset": preset})
        rates[preset] = [metrics["actor_lr"] for metrics in found["metrics"]]
    assert rates["sfpo"] == pytest.approx([5e-5 * 9 / 10, 5e-5 * 8 / 10])
    assert rates["sfpo"] == rates["grpo"] == rates["grpo_scaled_lr"]
    (averages,) = zero_ranks.run(1, run_with_average, model, samples, one_step(ds__zero_stage=2))
    start, after, average = averages
    for name, value in average.items():
        torch.testing.assert_close(value, 0.9 * start[name] + 0.1 * after[name], rtol=0, atol=1e-7)


def run_ten_steps(model: str, samples: list[Any], flags: dict[str, Any]) -> Any:
    return ds.train(model, samples, batches=2, steps=10, **flags)


def run_with_average(model: str, samples: list[Any], flags: dict[str, Any]) -> Any:
    args = ds.arguments(1, train__enable_ema=True, train__ema_beta=0.9, **flags)
    actor = ds.policy(model, args)
    start = ds.whole_weights(actor)
    ds.update(actor, samples)
    average = {name: p.detach().clone() for name, p in actor.ema_model.model.module.named_parameters()}
    return start, ds.whole_weights(actor), average


def test_the_gate_reads_the_entropy_of_theta_0_on_request(zero_ranks: RankPool, model: str, samples: list[Any]) -> None:
    (found,) = zero_ranks.run(1, run_with_start_entropy, model, samples)
    log_probs, metrics = found
    for values, sample in zip(log_probs, samples, strict=True):
        torch.testing.assert_close(values[0], sample.old_log_probs, rtol=0, atol=1e-5)
    entropies = PlainSFPO(model)
    total = sum(float(log_probs_of(entropies.model, sample)[1].sum()) for sample in samples)
    tokens = sum(int(sample.action_mask.sum()) for sample in samples)
    assert metrics["sfpo/entropy_start"] == pytest.approx(total / tokens, rel=1e-5)
    assert metrics["sfpo/entropy_start"] != pytest.approx(metrics["sfpo/entropy"], rel=1e-5)


def run_with_start_entropy(model: str, samples: list[Any]) -> Any:
    args = ds.arguments(1, **one_step(ds__zero_stage=2, sfpo__gate="upper", sfpo__gate_entropy="start"))
    actor = ds.policy(model, args)
    batches = ds.experiences(samples)
    log_probs = [actor.forward(b.sequences, b.action_mask, b.attention_mask) for b in batches]
    return log_probs, ds.update(actor, samples)


def test_the_gate_continues_from_a_checkpoint(
    zero_ranks: RankPool, model: str, samples: list[Any], tmp_path: Path
) -> None:
    flags = one_step(ds__zero_stage=2, sfpo__gate="upper", ckpt__path=str(tmp_path), ckpt__load_enable=True)
    (saved,) = zero_ranks.run(1, run_and_checkpoint, model, samples, flags)
    ((loaded, passes),) = zero_ranks.run(1, run_from_checkpoint, model, samples, flags)
    assert saved == loaded
    assert passes == 6


def run_and_checkpoint(model: str, samples: list[Any], flags: dict[str, Any]) -> Any:
    actor = ds.policy(model, ds.arguments(1, **flags))
    ds.update(actor, samples)
    actor.save_checkpoint("global_step1", {"global_step": 1})
    return actor.trainer.sfpo.state_dict()


def run_from_checkpoint(model: str, samples: list[Any], flags: dict[str, Any]) -> Any:
    actor = ds.policy(model, ds.arguments(1, **flags))
    assert actor.get_checkpoint_states()["global_step"] == 1
    loaded = actor.trainer.sfpo.state_dict()
    return loaded, ds.update(actor, samples)["sfpo/backward_passes_total"]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("actor__optim", "muon", "--actor.optim: is 'muon', which SFPO on the DeepSpeed actor does not support."),
        ("ds__zero_stage", 0, "--ds.zero_stage: is 0"),
        ("ds__lora__rank", 8, "--ds.lora.rank: is 8"),
        ("ds__tensor_parallel_size", 2, "--ds.tensor_parallel_size: is 2"),
        ("ds__deepcompile", True, "--ds.deepcompile: is True"),
        ("ds__load_in_4bit", True, "--ds.load_in_4bit: is True"),
        ("train__batch_size", 5, "--train.batch_size: is 5, which does not divide the 12 samples"),
        ("train__micro_batch_size", 8, "--train.batch_size: is 12, and the 1 rank(s) take 8 samples at a time"),
    ],
)
def test_what_does_not_go_together_with_sfpo_is_refused(flag: str, value: Any, message: str) -> None:
    flags = {**one_step(rollout__n_samples_per_prompt=1), flag: value}
    with pytest.raises(UsageError, match=re.escape(message)):
        check_backend(ds.arguments(1, **flags))


def update_with_another_engine(model: str, samples: list[Any], flags: dict[str, Any], off: float) -> dict[str, Any]:
    """An update on samples whose engine log-probabilities are off by `off`: its error, and whether weights moved."""
    from openrlhf_sfpo.system.run_errors import EngineMismatch

    for sample in samples:
        sample.rollout_log_probs = sample.old_log_probs + off
    actor = ds.policy(model, ds.arguments(2, **flags))
    before = ds.whole_weights(actor)
    message = ""
    try:
        ds.update(actor, samples)
    except EngineMismatch as error:
        message = str(error)
    after = ds.whole_weights(actor)
    return {"message": message, "moved": any(not torch.equal(before[name], after[name]) for name in before)}


def test_samples_of_another_model_are_not_trained_on(zero_ranks: RankPool, model: str, samples: list[Any]) -> None:
    for result in zero_ranks.run(2, update_with_another_engine, model, samples, one_step(), 0.5):
        assert "0.5 nats per token" in result["message"]
        assert not result["moved"]
    near = zero_ranks.run(2, update_with_another_engine, model, samples, one_step(), 0.1)
    assert [result["message"] for result in near] == ["", ""]
    assert near[0]["moved"]
