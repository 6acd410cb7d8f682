"""The algorithm without Megatron: the gate, the three stages, the reposition's arithmetic."""

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import gate_openings, textbook_batch
from toy_training import OPTIMIZERS, Textbook, Trainer, sfpo

from openrlhf_sfpo.sfpo import (
    FastLimits,
    FastPart,
    Gate,
    Pass,
    SlowCopy,
    SlowFastUpdate,
    TorchWeights,
    reposition_,
)
from openrlhf_sfpo.sfpo.slow_copy import SquaredNorms

FALLING = [2.0 - 0.03 * step for step in range(60)]
RISING = [1.0 + 0.03 * step for step in range(60)]
FLAT = [1.0] * 60
# Ten quiet values, then a jump up (z of the newest of 10 is 3) and later a jump down.
JUMP_UP = [1.0] * 15 + [2.0] + [1.0] * 10
JUMP_DOWN = [1.0] * 15 + [0.0] + [1.0] * 10

# Draws around 1, rounded; in windows of 10 the z-scores of the tenth value and those after it are
# 0.00 -0.43 1.15 -1.70 0.59 1.58 -0.36 -1.26 0.91 -1.65 0.18 (from numpy's mean and std of each window).
NOISE = [
    *(1.02, 0.99, 1.01, 0.98, 1.00, 1.03, 0.97, 1.01, 0.99, 1.00),
    *(0.99, 1.02, 0.96, 1.01, 1.04, 0.99, 0.97, 1.02, 0.95, 1.00),
]


def feed(gate: Gate, series: list[float]) -> list[float]:
    """Let the gate see one batch after the other; return its alpha scale for each."""
    alpha_scales = []
    for entropy in series:
        alpha_scales.append(gate.alpha_scale)
        gate.finish_batch()
        gate.observe(entropy)
    return alpha_scales


@pytest.mark.parametrize(
    ("series", "side", "closed_after"),
    [
        (FALLING, "upper", None),  # z tends to -1.57 for a straight line of 10 points
        (FALLING, "two_sided", 10),  # at the first check
        (RISING, "upper", 10),
        (RISING, "two_sided", 10),
        (FLAT, "upper", None),
        (FLAT, "two_sided", None),
        (NOISE, "upper", 15),
        (NOISE, "two_sided", 13),
        (NOISE[:12], "two_sided", None),
        (JUMP_UP, "upper", 16),
        (JUMP_DOWN, "upper", None),
        (JUMP_DOWN, "two_sided", 16),
        ([1.0, 5.0], "upper", None),  # the window is not full
        ([5.0, 1.0], "two_sided", None),
        (RISING, "off", None),
    ],
)
def test_gate_closes_at_the_known_step(series: list[float], side: Any, closed_after: int | None) -> None:
    gate = Gate(side, window=10, threshold=1.5)
    feed(gate, series)
    assert gate.closed_at == closed_after
    assert gate.alpha_scale == (1.0 if closed_after is None else 0.0)


@pytest.mark.parametrize(
    ("series", "side", "threshold", "closed_after"),
    [
        ([1.0, 5.0], "upper", 0.9, 2),
        ([5.0, 1.0], "upper", 0.9, None),
        ([5.0, 1.0], "two_sided", 0.9, 2),
        ([1.0, 5.0], "two_sided", 1.1, None),
        ([1.0, 1.0], "two_sided", 0.9, None),
    ],
)
def test_gate_with_a_window_of_two(series: list[float], side: Any, threshold: float, closed_after: int | None) -> None:
    """Two different values always have a z of 1 or -1."""
    gate = Gate(side, window=2, threshold=threshold)
    feed(gate, series)
    assert gate.closed_at == closed_after


def test_gate_z_score_is_the_populations_with_the_newest_value_in_it() -> None:
    gate = Gate("off", window=4)
    assert [gate.observe(h) for h in (1.0, 2.0, 3.0)] == [None, None, None]
    values = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    expected = (6.0 - values.mean()) / (values.std(correction=0) + 1e-9)
    assert gate.observe(6.0) == pytest.approx(expected.item(), rel=1e-12)


def test_gate_stays_closed_and_survives_a_restart() -> None:
    gate = Gate("upper", window=5, threshold=1.0)
    feed(gate, [1.0, 1.0, 1.0, 1.0, 2.0])
    assert gate.alpha_scale == 0.0
    feed(gate, [0.5] * 20)
    restored = Gate("upper", window=5, threshold=1.0)
    restored.load_state_dict(gate.state_dict())
    assert restored.alpha_scale == 0.0
    assert restored.closed_at == 5
    assert restored.observe(0.7) == gate.observe(0.7)


def test_stop_step_counts_batches_that_ran_sfpo() -> None:
    assert feed(Gate("off", stop_step=3), [1.0] * 5) == [1.0, 1.0, 1.0, 0.0, 0.0]


# z of a lone 2 among ones is 1.73 in a window of 4 and the z of the value after it is negative.
ONE_PEAK = [1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0]
STEPS_UP = [1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize(
    ("series", "options", "alpha_scales"),
    [
        (ONE_PEAK, {}, [1, 1, 1, 1, 1, 0, 0, 0]),
        (ONE_PEAK, {"after": "reopen"}, [1, 1, 1, 1, 1, 0, 1, 1]),
        (ONE_PEAK, {"patience": 2}, [1, 1, 1, 1, 1, 1, 1, 1]),
        (STEPS_UP, {"patience": 2}, [1, 1, 1, 1, 1, 1, 0, 0]),
        (STEPS_UP, {"warmup": 6}, [1, 1, 1, 1, 1, 1, 1, 0]),
        (ONE_PEAK, {"after": "decay", "decay_steps": 1}, [1, 1, 1, 1, 1, 0.5, 0, 0]),
        (ONE_PEAK, {"after": "decay", "decay_steps": 3, "stop_step": 7}, [1, 1, 1, 1, 1, 0.75, 0.5, 0]),
        (ONE_PEAK, {"after": "decay", "decay_steps": 2}, [1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0]),
    ],
)
def test_gate_options(series: list[float], options: dict[str, Any], alpha_scales: list[float]) -> None:
    assert feed(Gate("upper", window=4, threshold=1.2, **options), series) == pytest.approx(alpha_scales)


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 1},
        {"threshold": 0.0},
        {"stop_step": -1},
        {"warmup": -1},
        {"patience": 0},
        {"after": "decay", "decay_steps": 0},
    ],
)
def test_gate_refuses_nonsense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        Gate(**wrong)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
def test_reposition_moves_in_place_and_measures(alpha: float) -> None:
    torch.manual_seed(0)
    slow, fast = torch.randn(3, 400_000), torch.randn(3, 400_000)  # more than one chunk
    expected = slow.double() + alpha * (fast.double() - slow.double())
    distance, norm = (fast - slow).double().norm().item(), slow.double().norm().item()
    unmoved, place = fast.clone(), fast.data_ptr()
    norms = SquaredNorms()
    reposition_(fast, slow, alpha, norms)
    moved_sq, slow_sq = norms.totals()
    assert fast.data_ptr() == place
    torch.testing.assert_close(fast.double(), expected, rtol=1e-6, atol=1e-6)
    assert moved_sq**0.5 == pytest.approx(distance, rel=1e-6)
    assert slow_sq**0.5 == pytest.approx(norm, rel=1e-6)
    if alpha == 1.0:
        assert torch.equal(fast, unmoved)
    if alpha == 0.0:
        assert torch.equal(fast, slow)


# Thresholds that no window of small integers meets exactly.
GATES = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["upper", "two_sided", "baseline", "off"]),
        "window": st.integers(2, 4),
        "threshold": st.sampled_from([0.7, 1.3]),
        "stop_step": st.sampled_from([None, None, 0, 2]),
        "warmup": st.integers(0, 3),
        "patience": st.integers(1, 2),
        "after": st.sampled_from(["latch", "decay", "reopen"]),
        "decay_steps": st.integers(1, 3),
    }
)


@given(
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    k=st.integers(0, 3),
    alpha=st.floats(0.0, 1.0),
    steps=st.integers(1, 3),
    state=st.sampled_from(["maintain", "restore", "interpolate", "reset"]),
    preset=st.sampled_from(["sfpo", "grpo", "grpo_k_passes", "grpo_scaled_lr", "lookahead", "extragradient"]),
    source=st.sampled_from(["slow_pass", "start"]),
    entropies=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    gate=GATES,
)
@settings(max_examples=200, deadline=None)
def test_every_combination_follows_its_formulas(
    optimizer: str,
    k: int,
    alpha: float,
    steps: int,
    state: Any,
    preset: Any,
    source: Any,
    entropies: list[int],
    gate: dict[str, Any],
) -> None:
    """Whatever the gate does with a series of entropies, the update must equal the textbook's."""
    trainer, textbook = Trainer(optimizer, steps), Textbook(optimizer, steps)
    update = sfpo(trainer, k, alpha, state, preset=preset, entropy_source=source, gate=Gate(**gate))
    frozen = trainer.model.second.bias.clone()
    alpha_scales = gate_openings(entropies, **gate)
    for entropy, alpha_scale in zip(entropies, alpha_scales, strict=True):
        # The entropy that the gate must not read is far from the others.
        trainer.entropy_at_start = entropy if source == "start" else -100.0
        trainer.entropy = entropy if source == "slow_pass" else -100.0
        _, metrics = update.step(trainer)
        textbook.batch(k if alpha_scale else 0, alpha * alpha_scale, state, preset)
        scaled_by_nothing = preset == "grpo_scaled_lr" and alpha == 0
        assert metrics["sfpo/active"] == float(k > 0 and alpha_scale > 0 and preset != "grpo" and not scaled_by_nothing)
        again = sfpo(trainer, k, alpha, state, preset=preset, entropy_source=source, gate=Gate(**gate))
        again.load_state_dict(json.loads(json.dumps(update.state_dict())))
        update = again  # as after a restart
    torch.testing.assert_close(trainer.weights(), textbook.weights(), rtol=1e-9, atol=1e-11)
    for used in (trainer, textbook):
        assert used.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.9 ** (steps * len(entropies)))
    assert torch.equal(trainer.model.second.bias, frozen)
    assert trainer.model.scale.item() == 1.0


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize(
    ("k", "alpha", "state", "preset", "passes"),
    [
        (0, 0.8, "maintain", "sfpo", 1),
        (2, 0.0, "restore", "sfpo", 1),
        (2, 1.0, "maintain", "sfpo", 3),
        (2, 0.3, "reset", "grpo_k_passes", 3),
        (2, 1.0, "maintain", "lookahead", 2),
        (3, 0.5, "maintain", "grpo", 1),
    ],
)
def test_limits_are_grpo_to_the_bit(optimizer: str, k: int, alpha: float, state: Any, preset: Any, passes: int) -> None:
    """alpha = 0 with `restore` is GRPO, alpha = 1 is GRPO with more passes, and so on, for two rollout batches."""
    trainer, grpo = Trainer(optimizer, 2), Textbook(optimizer, 2)
    update = sfpo(trainer, k, alpha, state, preset=preset)
    for _ in range(2):
        update.step(trainer)
        for index in range(passes):
            grpo.one_pass(advance=index == passes - 1)
    assert torch.equal(trainer.weights(), grpo.weights())


@pytest.mark.parametrize("state", ["maintain", "restore", "interpolate", "reset"])
@pytest.mark.parametrize("preset", ["sfpo", "grpo_k_passes", "grpo_scaled_lr", "lookahead", "extragradient"])
@pytest.mark.parametrize("closed", [{"k": 0}, {"stop_step": 0}], ids=["K=0", "gate closed"])
def test_every_preset_is_grpo_to_the_bit_without_fast_passes(closed: dict[str, int], preset: Any, state: Any) -> None:
    trainer, grpo = Trainer("adamw", 2), Textbook("adamw", 2)
    gate = Gate("off", stop_step=closed.get("stop_step"))
    update = sfpo(trainer, closed.get("k", 3), 0.8, state, preset=preset, gate=gate)
    for _ in range(2):
        _, metrics = update.step(trainer)
        grpo.one_pass(advance=True)
    assert metrics["sfpo/active"] == 0.0
    assert metrics["sfpo/backward_passes_total"] == 2
    assert torch.equal(trainer.weights(), grpo.weights())


@pytest.mark.parametrize(("state", "expected"), [("maintain", 8), ("restore", 2), ("interpolate", 8), ("reset", 2)])
def test_adams_step_counter(state: Any, expected: int) -> None:
    """(K + 1) M with `maintain`; the slow pass's M where the fast passes are forgotten."""
    trainer = Trainer("adamw", 2)
    sfpo(trainer, 3, 0.8, state).step(trainer)
    assert {int(entry["step"]) for entry in trainer.optimizer.state.values()} == {expected}


@pytest.mark.parametrize(("state", "shards"), [("maintain", 1), ("restore", 3), ("interpolate", 3), ("reset", 1)])
def test_snapshot_bytes(state: Any, shards: int) -> None:
    trainer = Trainer("adamw", 2)
    update = sfpo(trainer, 2, 0.8, state)
    update.step(trainer)  # Adam's moments do not exist before
    _, metrics = update.step(trainer)
    trained = [value for value in trainer.model.parameters() if value.requires_grad]
    step_counts = 4 * len(trained) if shards > 1 else 0
    assert metrics["sfpo/snapshot_bytes"] == shards * 8 * sum(value.numel() for value in trained) + step_counts


@pytest.mark.gpu
@pytest.mark.parametrize("state", ["maintain", "restore", "interpolate", "reset"])
def test_copies_in_host_memory_change_nothing(state: Any) -> None:
    """On a GPU: pinned, and filled while the first fast pass computes."""
    results = []
    for device in ("same", "cpu"):
        trainer = Trainer("adamw", 2, device="cuda")
        weights = TorchWeights(trainer.optimizer)
        slow_copy = SlowCopy(weights, state, device)  # type: ignore[arg-type]
        update = SlowFastUpdate(weights, 2, 0.8, Gate("off", stop_step=3), slow_copy=slow_copy)
        for _ in range(4):
            update.step(trainer)
        results.append(trainer.weights())
    assert torch.equal(*results)


def test_step_counts_of_fused_optimizers_follow_the_mode() -> None:
    """Apex and Transformer Engine keep one count in the parameter group; a torch optimizer stands in for theirs."""
    expected = {"maintain": 7, "restore": 5, "interpolate": 7, "reset": None}
    for state, count in expected.items():
        trainer = Trainer("adamw", 1)
        (group,) = trainer.optimizer.param_groups
        group["step"] = 5
        slow_copy = SlowCopy(TorchWeights(trainer.optimizer), state)  # type: ignore[arg-type]
        slow_copy.take()
        group["step"] = 7
        slow_copy.reposition(0.5)
        assert group.get("step") == count


@pytest.mark.parametrize("state", ["restore", "reset"])
def test_momentum_with_dampening_starts_afresh(state: Any) -> None:
    """torch's SGD does not dampen the first gradient, so state that did not exist must not come back as zeros."""
    trainer, plain = Trainer("momentum", 1), Trainer("momentum", 1)
    sfpo(trainer, 2, 0.0, state).step(trainer)
    plain.run_pass(Pass("slow", advances_schedule=True))
    assert torch.equal(trainer.weights(), plain.weights())


def test_an_update_reports_what_it_did() -> None:
    trainer = Trainer("adamw", 1, entropies=[1.5])
    start = trainer.weights()
    seen = []
    trainer.entropy_at_start = 2.5
    slow, metrics = sfpo(trainer, 3, 0.8, on_stage=seen.append).step(trainer)
    assert seen == ["fast 1/3", "fast 2/3", "fast 3/3", "reposition", "slow"]
    assert trainer.stages == ["fast", "fast", "fast", "slow"]
    assert slow["entropy"] == 1.5
    plain = Trainer("adamw", 1)
    for _ in range(3):
        plain.run_pass(Pass("fast"))
    moved = (plain.weights() - start).norm().item()
    trained = start.norm().item()  # the frozen bias is one of 21 numbers
    assert metrics.pop("sfpo/displacement") == pytest.approx(moved, rel=1e-12)
    assert metrics.pop("sfpo/displacement_rel") == pytest.approx(moved / trained, rel=0.1)
    assert metrics.pop("sfpo/reposition_seconds") > 0
    assert metrics == {
        "sfpo/active": 1.0,
        "sfpo/alpha": 0.8,
        "sfpo/fast_passes": 3.0,
        "sfpo/fast_kl": 0.1,
        "sfpo/fast_clip_ratio": 0.2,
        "sfpo/snapshot_bytes": 8.0 * 20,
        "sfpo/momentum_grad_cosine": 0.5,
        "sfpo/backward_passes_total": 4.0,
        "sfpo/backward_tokens_total": 28.0,
        "sfpo/entropy": 1.5,
        "sfpo/entropy_start": 2.5,
        "sfpo/entropy_z": None,
    }


LIMITED = {"max_kl": "ppo_kl", "max_clip_ratio": "clip_ratio", "min_ess": "ess"}


@given(
    limits=st.dictionaries(st.sampled_from(sorted(LIMITED)), st.floats(0.0, 1.0)),
    distances=st.lists(
        st.fixed_dictionaries({name: st.one_of(st.floats(0, 1), st.just(math.nan)) for name in LIMITED.values()}),
        min_size=12,
        max_size=12,
    ),
    k=st.integers(1, 4),
    preset=st.sampled_from(["sfpo", "grpo_k_passes", "extragradient"]),
    state=st.sampled_from(["maintain", "restore", "interpolate", "reset"]),
)
@settings(max_examples=100, deadline=None)
def test_fast_passes_end_after_one_beyond_a_limit(
    limits: dict[str, float], distances: list[dict[str, float]], k: int, preset: Any, state: Any
) -> None:
    """Two batches; without a limit there are K, and so it is SFPO."""
    trainer, textbook = Trainer("adamw", 2), Textbook("adamw", 2)
    update = sfpo(trainer, k, 0.8, state, preset=preset, limits=FastLimits(**limits))
    reported = iter(distances)
    for _ in range(2):
        fast = [next(reported) for _ in range(k)]
        beyond = [
            any(
                not (one["ess"] >= limit if name == "min_ess" else one[LIMITED[name]] <= limit)
                for name, limit in limits.items()
            )
            for one in fast
        ]
        passes = beyond.index(True) + 1 if True in beyond else k
        trainer.distances = iter([*fast[:passes], {}])
        _, metrics = update.step(trainer)
        textbook.batch(passes, 0.8, state, preset)
        assert metrics["sfpo/fast_passes"] == passes
    torch.testing.assert_close(trainer.weights(), textbook.weights(), rtol=1e-9, atol=1e-11)


@given(
    part=st.builds(
        FastPart,
        fraction=st.sampled_from([0.2, 0.5, 0.8]),
        by=st.sampled_from(["advantage", "random"]),
        rescale=st.booleans(),
    ),
    k=st.integers(1, 3),
    preset=st.sampled_from(["sfpo", "grpo_k_passes", "lookahead", "extragradient"]),
    state=st.sampled_from(["maintain", "restore", "interpolate", "reset"]),
)
@settings(max_examples=60, deadline=None)
def test_fast_passes_train_on_a_part(part: FastPart, k: int, preset: Any, state: Any) -> None:
    """The slow pass trains on everything. What is chosen depends on the batch's number, also after a restart."""
    trainer, textbook = Trainer("adamw", 2), Textbook("adamw", 2)
    update = sfpo(trainer, k, 0.8, state, preset=preset, part=part)
    for batch in range(2):
        update.step(trainer)
        slow_from = k * 2  # calls of `gradients` before the slow pass; the extragradient's first is a slow one
        calls = itertools.count()

        def gradients(step: int, batch: int = batch, calls: Any = calls, slow_from: int = slow_from) -> None:
            if next(calls) >= slow_from:
                return textbook.gradients(step)
            chosen = part.choose(textbook.advantages(step), f"{batch} {step}")
            return textbook.gradients(step, chosen, 8 if part.rescale else len(chosen))

        textbook_batch(textbook.model, textbook.optimizer, 2, gradients, textbook.step, k, 0.8, state, preset)
        again = sfpo(trainer, k, 0.8, state, preset=preset, part=part)
        again.load_state_dict(json.loads(json.dumps(update.state_dict())))
        update = again
    torch.testing.assert_close(trainer.weights(), textbook.weights(), rtol=1e-9, atol=1e-11)


def test_a_part_that_is_everything_is_the_whole_batch_to_the_bit() -> None:
    trainer, plain = Trainer("adamw", 2), Trainer("adamw", 2)
    sfpo(trainer, 2, 0.8, part=FastPart(1.0, "random", rescale=True)).step(trainer)
    sfpo(plain, 2, 0.8).step(plain)
    assert torch.equal(trainer.weights(), plain.weights())


def test_a_trainer_that_ignores_the_part_is_refused() -> None:
    class Ignores(Trainer):
        def run_pass(self, pass_: Pass) -> dict[str, float]:
            return super().run_pass(replace(pass_, choose=None))

    trainer = Ignores("adamw", 1)
    with pytest.raises(RuntimeError, match=r"Pass\.choose"):
        sfpo(trainer, 2, 0.8, part=FastPart(0.5)).step(trainer)


def test_limits_that_cannot_be_applied() -> None:
    for wrong in ({"max_kl": -0.1}, {"max_kl": math.nan}, {"max_clip_ratio": 1.1}, {"min_ess": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FastLimits(**wrong)
    trainer = Trainer("adamw", 1)
    with pytest.raises(ValueError, match="lookahead"):
        sfpo(trainer, 2, 0.8, preset="lookahead", limits=FastLimits(max_kl=0.1))
    with pytest.raises(RuntimeError, match="effective sample size"):
        sfpo(trainer, 2, 0.8, limits=FastLimits(min_ess=0.5)).step(trainer)


def test_tokens_are_unknown_where_the_trainer_does_not_count_them() -> None:
    trainer = Trainer("adamw", 1)
    trainer.tokens = None
    update = sfpo(trainer, 1, 0.8)
    slow, metrics = update.step(trainer)
    assert metrics["sfpo/backward_tokens_total"] is None
    state = update.state_dict()
    del state["backward_tokens_total"]  # as in an older checkpoint
    trainer.tokens = 7.0
    update.load_state_dict(state)
    slow, metrics = update.step(trainer)
    assert metrics["sfpo/backward_tokens_total"] == 14.0
    assert "backward_tokens" not in slow


def test_the_gate_sees_the_slow_passes_and_turns_sfpo_off() -> None:
    trainer = Trainer("sgd", 1, entropies=[1.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    update = sfpo(trainer, 2, 0.5, gate=Gate("upper", window=4, threshold=1.5))
    active = [update.step(trainer)[1]["sfpo/active"] for _ in range(6)]
    assert active == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert update.backward_passes_total == 4 * 3 + 2
    restored = sfpo(trainer, 2, 0.5, gate=Gate("upper", window=4, threshold=1.5))
    restored.load_state_dict(update.state_dict())
    assert restored.state_dict() == update.state_dict()
    assert restored.backward_tokens_total == 7 * (4 * 3 + 2)
    assert restored.gate.alpha_scale == 0.0


def test_the_gate_can_read_the_entropy_at_the_start() -> None:
    """Algorithm 1 closes the gate for the batches after the one whose entropy fires."""
    trainer = Trainer("sgd", 1)
    update = sfpo(trainer, 2, 0.5, gate=Gate("upper", window=4, threshold=1.5), entropy_source="start")
    active = []
    for trainer.entropy_at_start in (1.0, 1.0, 1.0, 2.0, 1.0):
        active.append(update.step(trainer)[1]["sfpo/active"])
    assert active == [1.0, 1.0, 1.0, 1.0, 0.0]
    trainer.entropy_at_start = None
    with pytest.raises(RuntimeError, match="entropy at theta_0"):
        update.step(trainer)


def test_alpha_falls_with_a_decaying_gate() -> None:
    trainer = Trainer("sgd", 1, entropies=[1.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    gate = Gate("upper", window=4, threshold=1.5, after="decay", decay_steps=1)
    update = sfpo(trainer, 1, 0.6, gate=gate)
    alphas = [update.step(trainer)[1]["sfpo/alpha"] for _ in range(6)]
    assert alphas == pytest.approx([0.6, 0.6, 0.6, 0.6, 0.3, 0.0])


def test_a_failing_pass_frees_the_snapshot() -> None:
    trainer = Trainer("sgd", 1)
    update = sfpo(trainer, 2, 0.5)
    trainer.data = trainer.data[:, :, :2]  # too few inputs
    with pytest.raises(RuntimeError):
        update.step(trainer)
    trainer.data = torch.zeros(1, 8, 4, dtype=torch.float64)
    update.step(trainer)  # a snapshot that is still held would be refused


def test_sixteen_bit_weights_are_refused() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))])
    with pytest.raises(ValueError, match="needs fp32 weights"):
        TorchWeights(optimizer)


def test_blending_in_bf16_loses_the_update() -> None:
    """Why the fp32 main parameters are moved and not the model's bf16 parameters. After three steps of 1e-6 times the
    sign of the gradient, like Adam's first ones, on weights of the usual size, the cosine between the intended move
    and what a blend of bf16 weights keeps of it is 0.18."""
    torch.manual_seed(0)
    slow = torch.randn(1_000_000) * 0.02
    fast = slow - 3e-6 * torch.randn_like(slow).sign()
    meant = 0.8 * (fast - slow)
    blended = fast.bfloat16().lerp(slow.bfloat16(), 0.2)
    kept = blended.float() - slow.bfloat16().float()
    cosine = torch.cosine_similarity(kept, meant, dim=0)
    assert cosine == pytest.approx(0.18, abs=0.02)
    exact = fast.clone()
    reposition_(exact, slow, 0.8)
    assert torch.cosine_similarity(exact - slow, meant, dim=0) > 0.999


def test_a_trainer_that_leaves_out_the_call_before_the_first_step_is_refused() -> None:
    trainer = Trainer("sgd", 1)
    run_pass = trainer.run_pass
    trainer.run_pass = lambda pass_: run_pass(Pass(pass_.stage))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="before_first_step, and it did not"):
        sfpo(trainer, 1, 0.5, preset="extragradient").step(trainer)


def test_copies_are_complete_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """`wait` must come after the first gradients and before any step; a test on a GPU could pass by luck."""
    trainer = Trainer("adamw", 2)
    events: list[str] = []

    def seen(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **options: (events.append(name), original(*args, **options))[1])

    update = sfpo(trainer, 1, 0.5)
    for owner, name in (
        (update._copy, "take"),
        (update._copy, "wait"),
        (update._copy, "reposition"),
        (trainer, "gradients"),
    ):
        seen(owner, name)
    trainer.optimizer.register_step_pre_hook(lambda *args: events.append("step"))
    update.step(trainer)
    assert events[:4] == ["take", "gradients", "wait", "step"]
    assert events.count("take") == events.count("reposition") == 1


def test_an_entropy_that_is_not_finite_is_left_out() -> None:
    gate, clean = Gate("upper", window=3, threshold=1.2), Gate("upper", window=3, threshold=1.2)
    for entropy in (1.0, float("nan"), 1.0, float("inf")):
        assert gate.observe(entropy) is None
    clean.observe(1.0), clean.observe(1.0)
    assert gate.observe(5.0) == clean.observe(5.0)
    assert gate.alpha_scale == 0.0


def test_a_gate_that_is_off_is_open_whatever_was_saved() -> None:
    closed = Gate("upper", window=2, threshold=0.5)
    feed(closed, [1.0, 2.0])
    assert closed.alpha_scale == 0.0
    off = Gate("off")
    off.load_state_dict(closed.state_dict())
    assert off.alpha_scale == 1.0


@pytest.mark.gpu
def test_a_large_copy_is_waited_for() -> None:
    """Half a gigabyte to host memory, and a change of the weights right after `wait`."""
    weight = torch.nn.Parameter(torch.zeros(1 << 27, device="cuda"))
    slow_copy = SlowCopy(TorchWeights(torch.optim.SGD([weight])), device="cpu")
    slow_copy.take(overlap=True)
    slow_copy.wait()
    with torch.no_grad():
        weight.add_(1.0)
    assert slow_copy.reposition(0.0).norm == pytest.approx((1 << 27) ** 0.5)
    assert not weight.any()
    slow_copy.release()
    held = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    slow_copy.free_host_memory()
    assert torch.cuda.host_memory_stats()["allocated_bytes.current"] <= held - 4 * (1 << 27)


def test_copies_are_on_a_known_device() -> None:
    with pytest.raises(ValueError, match="device must be same or cpu"):
        SlowCopy(TorchWeights(Trainer("sgd", 1).optimizer), device="disk")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": -1}, "k must"),
        ({"alpha": 1.1}, "alpha must"),
        ({"alpha": -0.1}, "alpha must"),
        ({"preset": "adam"}, "unknown preset"),
        ({"state": "keep"}, "optimizer_state must"),
    ],
)
def test_update_refuses_nonsense(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sfpo(Trainer("sgd", 1), **{"k": 1, "alpha": 0.5, **wrong})
