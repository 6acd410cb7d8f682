"""PrePO's prediction, its gates and the outer momentum, against their formulas in fp64."""

import copy
import gc
import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import Textbook, Trainer, sfpo

from openrlhf_sfpo.sfpo import FastLimits, FastPart, Gate, OuterMomentum, Pass, PredictiveSettings, TorchWeights
from openrlhf_sfpo.sfpo.extrapolation import extrapolation_factor

STATES = ["maintain", "restore", "interpolate", "reset"]
PREDICTIONS = st.fixed_dictionaries(
    {
        "retention": st.sampled_from(["displacement", "gradient", "tensor"]),
        "corrective": st.booleans(),
        "per": st.sampled_from(["pass", "train_batch"]),
    }
)


@given(
    optimizer=st.sampled_from(["adamw", "momentum", "sgd"]),
    k=st.integers(2, 6),
    alpha=st.floats(0.0, 1.0),
    steps=st.integers(1, 3),
    state=st.sampled_from(STATES),
    predictive=PREDICTIONS,
)
@settings(max_examples=100, deadline=None)
def test_predictions_follow_their_formulas(
    optimizer: str, k: int, alpha: float, steps: int, state: Any, predictive: dict[str, Any]
) -> None:
    trainer, textbook = Trainer(optimizer, steps), Textbook(optimizer, steps)
    update = sfpo(trainer, k, alpha, state, preset="prepo", predictive=PredictiveSettings(**predictive))
    for _ in range(3):
        _, metrics = update.step(trainer)
        textbook.predicted(k, alpha, state, **predictive)
        assert metrics["sfpo/active"] == 1.0
        assert metrics["sfpo/fast_passes"] == 2.0
        assert 1.0 - 1e-9 <= metrics["sfpo/extrapolation"] <= k / 2 + 1 + 1e-9
        again = sfpo(trainer, k, alpha, state, preset="prepo", predictive=PredictiveSettings(**predictive))
        again.load_state_dict(json.loads(json.dumps(update.state_dict())))
        update = again  # as after a restart
    torch.testing.assert_close(trainer.weights(), textbook.weights(), rtol=1e-8, atol=1e-10)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.9 ** (steps * 3))
    assert update.backward_passes_total == 3 * (3 if predictive["corrective"] else 2)


@given(r=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), min_size=1), k=st.integers(2, 12))
def test_the_factor_is_a_ratio_of_geometric_sums(r: list[float], k: int) -> None:
    found = extrapolation_factor(torch.tensor(r, dtype=torch.float64), k)
    for value, q in zip(r, found.tolist(), strict=True):
        value = min(max(value, -2.0), 3.0) if math.isfinite(value) else 1.0
        two = 1.0 + value
        expected = 1.0 if abs(two) <= 1e-8 else math.fsum(value**n for n in range(k)) / two
        assert q == pytest.approx(min(max(expected, 1.0), k / 2 + 1), rel=1e-9)


@pytest.mark.parametrize(
    ("r", "k", "q"), [(1.0, 5, 2.5), (0.5, 4, 1.25), (0.0, 9, 1.0), (2.0, 3, 7 / 3), (-1.0, 5, 1.0)]
)
def test_known_factors(r: float, k: int, q: float) -> None:
    """With equal steps, five lead 2.5 times as far as two."""
    assert extrapolation_factor(torch.tensor([r]), k).item() == pytest.approx(q)


@pytest.mark.parametrize("retention", ["displacement", "gradient", "tensor"])
@pytest.mark.parametrize("state", STATES)
def test_two_predicted_passes_are_two_passes_and_a_reposition(state: Any, retention: Any) -> None:
    """To the bit, for two batches: q is S_2 / S_2."""
    trainer, plain = Trainer("adamw", 2), Trainer("adamw", 2)
    predicted = sfpo(trainer, 2, 0.6, state, preset="prepo", predictive=PredictiveSettings(retention))
    passes = sfpo(plain, 2, 0.6, state)
    for _ in range(2):
        predicted.step(trainer)
        passes.step(plain)
    assert torch.equal(trainer.weights(), plain.weights())


def test_steps_that_stay_the_same_are_extrapolated_exactly() -> None:
    """A linear loss under SGD: K passes lead K times as far as one, so prediction and K real passes agree."""

    class Linear(Trainer):
        def gradients(self, step: int, weights: Any = None, divisor: int = 8) -> None:
            self.optimizer.zero_grad()
            sum((0.1 * value).sum() for value in self.model.parameters() if value.requires_grad).backward()

    trainer, plain = Linear("sgd", 2), Linear("sgd", 2)
    for k in (4, 7):
        _, metrics = sfpo(trainer, k, 0.5, preset="prepo").step(trainer)
        sfpo(plain, k, 0.5).step(plain)
        assert metrics["sfpo/extrapolation"] == pytest.approx(k / 2)
    torch.testing.assert_close(trainer.weights(), plain.weights(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("fails", [1, 2])
@pytest.mark.parametrize("state", STATES)
def test_a_probe_that_is_not_finite_gives_a_plain_pass(state: Any, fails: int) -> None:
    """theta_0 is put back, bit for bit; with `restore` so is Adam's state, and the batch is GRPO's."""
    trainer, grpo = Trainer("adamw", 2), Textbook("adamw", 2)
    update = sfpo(trainer, 5, 0.5, state, preset="prepo")
    for number in range(2):
        trainer.raises = len(trainer.stages) + fails if number else None
        _, metrics = update.step(trainer)
        if not number:
            start = trainer.weights()
            grpo.model.load_state_dict(copy.deepcopy(trainer.model.state_dict()))
            grpo.optimizer.load_state_dict(copy.deepcopy(trainer.optimizer.state_dict()))
            grpo.schedule.load_state_dict(trainer.schedule.state_dict())
    assert metrics["sfpo/active"] == 0.0
    assert metrics["sfpo/fast_passes"] == fails - 1
    grpo.one_pass(advance=True)
    assert not torch.equal(trainer.weights(), start)
    if state == "restore" or fails == 1:
        assert torch.equal(trainer.weights(), grpo.weights())
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.9**4)


@pytest.mark.parametrize("corrective", [True, False])
def test_a_gradient_that_vanishes_gives_a_plain_pass(corrective: bool) -> None:
    trainer = Trainer("sgd", 2)
    trainer.data[:] = 0.0
    with torch.no_grad():
        for value in trainer.model.parameters():
            value.zero_()
    update = sfpo(trainer, 5, 0.5, preset="prepo", predictive=PredictiveSettings(corrective=corrective))
    _, metrics = update.step(trainer)
    assert (metrics["sfpo/active"], metrics["sfpo/fast_passes"]) == (0.0, 1.0)
    assert trainer.stages == ["fast", "slow"]
    assert not trainer.weights().any()


def test_a_non_finite_loss_at_theta_0_is_the_trainers_affair() -> None:
    class Broken(Trainer):
        def gradients(self, *args: Any) -> None:
            raise ArithmeticError("the loss is not finite")

    trainer = Broken("sgd", 1)
    update = sfpo(trainer, 5, 0.5, preset="prepo")
    with pytest.raises(ArithmeticError, match="not finite"):
        update.step(trainer)
    with pytest.raises(ArithmeticError, match="not finite"):
        update.step(trainer)  # a snapshot that is still held would be refused


def test_batches_without_rewards_are_plain_and_hidden_from_the_gate() -> None:
    trainer, grpo = Trainer("adamw", 2, entropies=[1.0, 1.0, 9.0, 1.0]), Textbook("adamw", 2)
    settings_ = PredictiveSettings(max_zero_rewards=0.5)
    update = sfpo(trainer, 5, 0.5, preset="prepo", predictive=settings_, gate=Gate("upper", window=3, threshold=1.2))
    for _ in range(2):
        trainer.rewardless = 0.6
        _, metrics = update.step(trainer)
        grpo.one_pass(advance=True)
        assert (metrics["sfpo/active"], metrics["sfpo/entropy_z"]) == (0.0, None)
    assert torch.equal(trainer.weights(), grpo.weights())
    trainer.rewardless = 0.5
    _, metrics = update.step(trainer)
    assert (metrics["sfpo/active"], metrics["sfpo/entropy_z"]) == (1.0, None)  # the gate has seen one value
    trainer.rewardless = None
    with pytest.raises(RuntimeError, match="does not know the rewards"):
        update.step(trainer)


def live_bytes() -> int:
    """Of all tensors, each storage once."""
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    grads = [one.grad for one in tensors if one.is_leaf and one.grad is not None]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors + grads}.values())


@pytest.mark.parametrize(
    ("options", "fast", "slow"),
    [
        ({}, 1, 0),
        ({"preset": "prepo"}, 2, 0),
        ({"preset": "prepo", "predictive": PredictiveSettings("tensor")}, 2, 0),
        ({"preset": "prepo", "predictive": PredictiveSettings("gradient")}, 3, 0),
        ({"preset": "prepo", "state": "restore"}, 4, 0),
        ({"gate": "cosine"}, 2, 1),
        ({"outer": OuterMomentum(0.5, 0.5)}, 2, 2),
        ({"preset": "grpo", "outer": OuterMomentum(0.5, 0.5)}, 0, 2),
        ({"outer": OuterMomentum(0.0, 0.5)}, 1, 1),
    ],
)
def test_the_memory_that_it_takes(options: dict[str, Any], fast: int, slow: int) -> None:
    """Beyond GRPO's, in shards, at the last optimizer step of the last fast pass and of the slow pass."""
    options = {"state": "maintain", **options}
    if "gate" in options:
        options["gate"] = Gate(options["gate"])
    seen: dict[str, int] = {}

    class Measured(Trainer):
        measures = False

        def run_pass(self, pass_: Pass) -> dict[str, float]:
            steps = itertools.count(1)

            def measure(*args: Any) -> None:
                if self.measures and next(steps) == len(self.data):
                    seen[pass_.stage] = live_bytes()

            hook = self.optimizer.register_step_pre_hook(measure)
            try:
                return super().run_pass(pass_)
            finally:
                hook.remove()

    trainer = Measured("adamw", 2)
    plain = sfpo(trainer, 0, 0.5)
    for trainer.measures in (False, True):
        plain.step(trainer)
    base = seen["slow"]
    update = sfpo(trainer, 2, 0.5, options.pop("state"), **options)
    for trainer.measures in (False, True):
        update.step(trainer)
    shard = 8 * sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)
    found = {stage: (count - base) / shard for stage, count in seen.items()}
    # The optimizer's step counts and the algorithm's scalars take less than a fifth of this tiny shard each.
    assert found.get("fast", 0) == pytest.approx(fast, abs=0.6)
    assert found["slow"] == pytest.approx(slow, abs=0.6)


def textbook_outer(textbook: Textbook, momentum: float, lr: float, memory: torch.Tensor, batch: Any) -> torch.Tensor:
    start = textbook.weights()
    batch()
    delta = textbook.weights() - start
    memory = momentum * memory + delta
    torch.nn.utils.vector_to_parameters(start + lr * (delta + momentum * memory), textbook.model.parameters())
    return memory


@given(
    optimizer=st.sampled_from(["adamw", "momentum", "sgd"]),
    preset=st.sampled_from(["sfpo", "grpo", "grpo_k_passes", "grpo_scaled_lr", "lookahead", "extragradient"]),
    state=st.sampled_from(STATES),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    lr=st.sampled_from([0.3, 1.0, 1.5]),
    stop_step=st.sampled_from([None, 2]),
)
@settings(max_examples=150, deadline=None)
def test_outer_momentum_follows_its_formula(
    optimizer: str, preset: Any, state: Any, momentum: float, lr: float, stop_step: int | None
) -> None:
    """Four batches, restarting after each from what a checkpoint holds; in the last two the gate may be closed."""
    trainer, textbook = Trainer(optimizer, 2), Textbook(optimizer, 2)
    memory = torch.zeros_like(textbook.weights())
    outer = OuterMomentum(momentum, lr)
    saved: tuple[Any, ...] = ()
    for number in range(4):
        update = sfpo(trainer, 2, 0.5, state, preset=preset, outer=outer, gate=Gate("off", stop_step=stop_step))
        if number:
            update.load_state_dict(saved[0])
            trainer.optimizer.load_state_dict(saved[1])
        update.step(trainer)
        saved = update.state_dict(), copy.deepcopy(trainer.optimizer.state_dict())
        if stop_step is not None and number >= stop_step:
            textbook.one_pass(advance=True)
            assert not any("outer_momentum" in entry for entry in trainer.optimizer.state.values())
        else:
            memory = textbook_outer(textbook, momentum, lr, memory, lambda: textbook.batch(2, 0.5, state, preset))
    torch.testing.assert_close(trainer.weights(), textbook.weights(), rtol=1e-8, atol=1e-10)


def test_without_outer_momentum_nothing_changes_to_the_bit() -> None:
    trainer, plain = Trainer("adamw", 2), Trainer("adamw", 2)
    sfpo(trainer, 2, 0.8, outer=OuterMomentum(0.0, 1.0)).step(trainer)
    sfpo(plain, 2, 0.8).step(plain)
    assert torch.equal(trainer.weights(), plain.weights())


def test_a_steady_displacement_is_amplified() -> None:
    """By lr / (1 - momentum) in the long run."""

    class Linear(Trainer):
        def gradients(self, *args: Any) -> None:
            self.optimizer.zero_grad()
            sum((0.1 * value).sum() for value in self.model.parameters() if value.requires_grad).backward()

    trainer = Linear("sgd", 1)
    trainer.schedule = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer, 1.0)
    update = sfpo(trainer, 2, 0.5, outer=OuterMomentum(0.8, 0.5))
    for _ in range(60):
        before = trainer.weights()
        update.step(trainer)
    moved = (trainer.weights() - before).abs().max().item()
    assert moved == pytest.approx(0.05 * 0.1 * (2 * 0.5 + 1) * 0.5 / (1 - 0.8), rel=1e-4)


def test_the_norms_gate_follows_its_formula() -> None:
    """Moving averages of mean and variance; the newest value enters after its score is taken."""
    generator = np.random.default_rng(0)
    norms = [*(1.0 + 0.1 * generator.standard_normal(40)).tolist(), 3.0]
    gate, w = Gate("grad_norm", window=9, threshold=5.0), 2 / 10
    mean, variance = 1.0, 1.0
    for norm in norms:
        z = gate.observe(norm)
        assert z == pytest.approx((norm - mean) / (max(math.sqrt(variance), 0.01) + 1e-8), rel=1e-9)
        variance = (1 - w) * variance + w * (norm - mean) ** 2
        mean = (1 - w) * mean + w * norm
        restored = Gate("grad_norm", window=9, threshold=5.0)
        restored.load_state_dict(json.loads(json.dumps(gate.state_dict())))
        gate = restored
    assert gate.closed_at == 0  # no batch was counted
    assert gate.reads == "grad_norm"


def test_the_norm_is_that_of_the_slow_pass() -> None:
    trainer = Trainer("adamw", 2)
    update = sfpo(trainer, 2, 0.5, gate=Gate("grad_norm"))
    _, metrics = update.step(trainer)
    assert metrics["sfpo/grad_norm_z"] == pytest.approx((trainer.grad_norm() - 1.0) / (1.0 + 1e-8))
    assert metrics["sfpo/entropy_z"] is None


@pytest.mark.parametrize("options", [{}, {"preset": "prepo"}, {"preset": "grpo_k_passes"}, {"preset": "extragradient"}])
def test_the_cosine_is_that_of_the_first_train_batchs_gradients(options: dict[str, Any]) -> None:
    grads: list[tuple[str, torch.Tensor]] = []

    class Noted(Trainer):
        def run_pass(self, pass_: Pass) -> dict[str, float]:
            first: list[bool] = []

            def note(*args: Any) -> None:
                if not first:
                    values = [
                        value.grad.view(-1).clone() for value in self.model.parameters() if value.grad is not None
                    ]
                    grads.append((pass_.stage, torch.cat(values)))
                first.append(True)

            hook = self.optimizer.register_step_pre_hook(note)
            metrics = super().run_pass(pass_)
            hook.remove()
            return metrics

    trainer = Noted("adamw", 2)
    update = sfpo(trainer, 3, 0.5, gate=Gate("cosine", threshold=0.5, patience=2), **options)
    for _ in range(2):
        grads.clear()
        _, metrics = update.step(trainer)
        cosine = torch.cosine_similarity(grads[0][1], grads[-1][1], dim=0).item()
        assert metrics["sfpo/gradient_cosine"] == pytest.approx(cosine, rel=1e-9)
        assert (grads[0][0], grads[-1][0]) == ("fast", "slow")
    gate = Gate("cosine", threshold=0.15)
    for value in (0.9, -0.86, 0.84):
        assert gate.closed_at is None
        gate.finish_batch()
        assert gate.observe(value) == pytest.approx(1 - abs(value))
    assert gate.closed_at == 3


def test_a_cosine_gate_that_has_closed_observes_nothing() -> None:
    trainer = Trainer("adamw", 1)
    update = sfpo(trainer, 2, 0.5, gate=Gate("cosine", threshold=1e-9))
    active = [update.step(trainer)[1]["sfpo/active"] for _ in range(3)]
    assert active == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1}, "at least 2"),
        ({"limits": FastLimits(max_kl=0.1)}, "always makes both"),
        ({"predictive": PredictiveSettings(per="train_batch"), "outer": OuterMomentum(0.5)}, "whole rollout batches"),
        ({"gate": Gate("cosine"), "predictive": PredictiveSettings(corrective=False)}, "no slow pass"),
        ({"gate": Gate("cosine"), "part": FastPart(0.5)}, "the same samples"),
        ({"gate": Gate("cosine"), "preset": "lookahead"}, "no slow pass"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sfpo(Trainer("sgd", 1), **{"k": 3, "alpha": 0.5, "preset": "prepo", **options})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PredictiveSettings("none"), "retention"),
        (lambda: PredictiveSettings(per="step"), "per must"),
        (lambda: PredictiveSettings(max_zero_rewards=1.5), "max_zero_rewards"),
        (lambda: OuterMomentum(1.0), "outer momentum"),
        (lambda: OuterMomentum(0.5, 0.0), "outer learning rate"),
        (lambda: Gate("entropy"), "unknown kind"),
        (lambda: Gate("cosine", after="reopen"), "cannot reopen"),
    ],
)
def test_nonsense_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_a_part_of_the_batch_is_the_same_in_both_probes() -> None:
    chosen: list[dict[int, float]] = []

    class Noted(Trainer):
        def run_pass(self, pass_: Pass) -> dict[str, float]:
            choose = pass_.choose
            if choose is None:
                return super().run_pass(pass_)

            def noted(advantages: Any, step: int) -> dict[int, float]:
                chosen.append(choose(advantages, step))
                return chosen[-1]

            return super().run_pass(replace(pass_, choose=noted))

    trainer = Noted("adamw", 2)
    sfpo(trainer, 4, 0.5, preset="prepo", part=FastPart(0.5, "random")).step(trainer)
    assert chosen[:2] == chosen[2:]


def test_weights_have_a_name_for_each_tensor() -> None:
    weights = TorchWeights(Trainer("sgd", 1).optimizer)
    assert list(weights.tensors().values()) == [12, 4, 4]
    assert [[(part.start, part.length) for part in parts] for parts in weights.parts()] == [
        [(0, 12)],
        [(0, 4)],
        [(0, 4)],
    ]
