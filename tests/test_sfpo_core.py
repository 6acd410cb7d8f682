"""The algorithm without Megatron: the gate, the three stages, the reposition's arithmetic."""

from typing import Any

import pytest
import torch

from openrlhf_sfpo.sfpo import Displacement, EntropyGate, SlowFastUpdate, reposition_

FALLING = [2.0 - 0.03 * step for step in range(60)]
RISING = [1.0 + 0.03 * step for step in range(60)]
FLAT = [1.0] * 60
# Ten quiet values, then a jump up (z of the newest of 10 is 3) and later a jump down.
JUMP_UP = [1.0] * 15 + [2.0] + [1.0] * 10
JUMP_DOWN = [1.0] * 15 + [0.0] + [1.0] * 10


@pytest.mark.parametrize(
    ("series", "side", "closed_after"),
    [
        (FALLING, "upper", None),  # z tends to -1.57 for a straight line of 10 points
        (FALLING, "two_sided", 10),  # at the first check
        (RISING, "upper", 10),
        (RISING, "two_sided", 10),
        (FLAT, "upper", None),
        (FLAT, "two_sided", None),
        (JUMP_UP, "upper", 16),
        (JUMP_DOWN, "upper", None),
        (JUMP_DOWN, "two_sided", 16),
        ([1.0, 5.0], "upper", None),  # the window is not full: two values always have z = +-1
        (RISING, "off", None),
    ],
)
def test_gate_closes_at_the_known_step(series: list[float], side: Any, closed_after: int | None) -> None:
    gate = EntropyGate(side, window=10, threshold=1.5)
    for entropy in series:
        gate.observe(entropy)
    assert gate.closed_at == closed_after
    assert gate.is_open == (closed_after is None)


def test_gate_z_score_is_the_populations_with_the_newest_value_in_it() -> None:
    gate = EntropyGate("off", window=4)
    assert [gate.observe(h) for h in (1.0, 2.0, 3.0)] == [None, None, None]
    values = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    expected = (6.0 - values.mean()) / (values.std(correction=0) + 1e-9)
    assert gate.observe(6.0) == pytest.approx(expected.item(), rel=1e-12)


def test_gate_stays_closed_and_survives_a_restart() -> None:
    gate = EntropyGate("upper", window=5, threshold=1.0)
    for entropy in (1.0, 1.0, 1.0, 1.0, 2.0):
        gate.observe(entropy)
    assert not gate.is_open
    for _ in range(20):
        gate.observe(0.5)
    restored = EntropyGate("upper", window=5, threshold=1.0)
    restored.load_state_dict(gate.state_dict())
    assert not restored.is_open
    assert restored.closed_at == 5
    assert restored.observe(0.7) == gate.observe(0.7)


def test_stop_step_counts_batches_that_ran_sfpo() -> None:
    gate = EntropyGate("off", stop_step=3)
    opened = []
    for _ in range(5):
        opened.append(gate.is_open)
        gate.observe(1.0)
    assert opened == [True, True, True, False, False]


@pytest.mark.parametrize("wrong", [{"window": 1}, {"threshold": 0.0}, {"stop_step": -1}])
def test_gate_refuses_nonsense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EntropyGate(**wrong)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
def test_reposition_moves_in_place_and_measures(alpha: float) -> None:
    torch.manual_seed(0)
    slow, fast = torch.randn(1000), torch.randn(1000)
    expected = slow.double() + alpha * (fast.double() - slow.double())
    distance, norm = (fast - slow).norm().item(), slow.norm().item()
    unmoved, place = fast.clone(), fast.data_ptr()
    moved_sq, slow_sq = reposition_(fast, slow, alpha)
    assert fast.data_ptr() == place
    torch.testing.assert_close(fast.double(), expected, rtol=1e-6, atol=1e-6)
    assert moved_sq.item() ** 0.5 == pytest.approx(distance, rel=1e-6)
    assert slow_sq.item() ** 0.5 == pytest.approx(norm, rel=1e-6)
    if alpha == 1.0:
        assert torch.equal(fast, unmoved)
    if alpha == 0.0:
        assert torch.equal(fast, slow)


class RecordingRunner:
    """Writes down what the algorithm asks for."""

    def __init__(self, entropies: list[float], fail_in: str | None = None) -> None:
        self.calls: list[Any] = []
        self._entropies = iter(entropies)
        self._fail_in = fail_in

    def run_pass(self, stage: str) -> dict[str, float]:
        self.calls.append(stage)
        if stage == self._fail_in:
            raise RuntimeError("no luck")
        entropy = next(self._entropies) if stage == "slow" else 9.0
        return {"entropy": entropy, "ppo_kl": 0.1, "clip_ratio": 0.2, "momentum_grad_cosine": 0.5}

    def snapshot(self) -> int:
        self.calls.append("snapshot")
        return 400

    def reposition(self, alpha: float) -> Displacement:
        self.calls.append(("reposition", alpha))
        return Displacement(norm=3.0, slow_norm=6.0, seconds=0.25)

    def release_snapshot(self) -> None:
        self.calls.append("release")


def test_an_update_is_k_fast_passes_a_reposition_and_a_slow_pass() -> None:
    runner = RecordingRunner([1.5])
    slow, metrics = SlowFastUpdate(3, 0.8, EntropyGate("off")).step(runner)
    assert runner.calls == ["snapshot", "fast", "fast", "fast", ("reposition", 0.8), "release", "slow"]
    assert slow["entropy"] == 1.5
    assert metrics == {
        "sfpo/active": 1.0,
        "sfpo/alpha": 0.8,
        "sfpo/displacement": 3.0,
        "sfpo/displacement_rel": 0.5,
        "sfpo/fast_kl": 0.1,
        "sfpo/fast_clip_ratio": 0.2,
        "sfpo/snapshot_bytes": 400.0,
        "sfpo/reposition_seconds": 0.25,
        "sfpo/momentum_grad_cosine": 0.5,
        "sfpo/backward_passes_total": 4.0,
        "sfpo/entropy": 1.5,
        "sfpo/entropy_z": None,
    }


@pytest.mark.parametrize("k", [0, 3])
def test_without_fast_passes_an_update_is_one_slow_pass(k: int) -> None:
    runner = RecordingRunner([1.0])
    update = SlowFastUpdate(k, 0.8, EntropyGate("off", stop_step=0))
    _, metrics = update.step(runner)
    assert runner.calls == ["slow"]
    assert metrics["sfpo/active"] == 0.0
    assert update.backward_passes_total == 1


def test_the_gate_sees_the_slow_passes_and_turns_sfpo_off() -> None:
    runner = RecordingRunner([1.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    update = SlowFastUpdate(2, 0.5, EntropyGate("upper", window=4, threshold=1.5))
    active = [update.step(runner)[1]["sfpo/active"] for _ in range(6)]
    assert active == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert update.backward_passes_total == 4 * 3 + 2
    restored = SlowFastUpdate(2, 0.5, EntropyGate("upper", window=4, threshold=1.5))
    restored.load_state_dict(update.state_dict())
    assert restored.state_dict() == update.state_dict()
    assert not restored.gate.is_open


def test_a_failing_fast_pass_frees_the_snapshot() -> None:
    runner = RecordingRunner([], fail_in="fast")
    with pytest.raises(RuntimeError, match="no luck"):
        SlowFastUpdate(2, 0.5, EntropyGate("off")).step(runner)
    assert runner.calls[-1] == "release"


@pytest.mark.parametrize(("k", "alpha"), [(-1, 0.5), (1, 1.1), (1, -0.1)])
def test_update_refuses_nonsense(k: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"k must|alpha must"):
        SlowFastUpdate(k, alpha, EntropyGate("off"))
