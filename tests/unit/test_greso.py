"""GRESO's decisions against its formulas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_sfpo.rollout.greso import Greso, GresoSettings, key_of


def greso(**settings: float) -> Greso:
    return Greso(GresoSettings(**settings), seed=1)


def test_probabilities_follow_the_last_groups() -> None:
    memory = greso(p_easy=0.5, p_hard=0.8)
    assert memory.probability("a") == 1.0
    for n in range(1, 9):
        memory.observe("a", [1.0, 1.0], [1.0, 1.0])
        assert memory.probability("a") == max(0.5**n, 0.01)
    memory.observe("a", [0.0, 0.0], [0.0, 0.0])
    assert memory.probability("a") == 0.8
    memory.observe("a", [0.0, 0.0], [0.1, 0.1])
    assert memory.probability("a") == pytest.approx(0.64)
    memory.observe("a", [0.0, 1.0], [0.0, 1.0])
    assert memory.probability("a") == 1.0
    assert memory.streaks == {}


@pytest.mark.parametrize(
    ("scores", "rewards", "streak", "teaches"),
    [
        ([1.0, 1.0], [1.0, 1.0], 1, False),
        ([0.0, 0.0], [0.0, 0.0], -1, False),
        ([0.0, 0.0], [0.1, 0.1], -1, False),  # rewards for their form
        ([0.0, 0.0], [0.0, 0.1], -1, True),  # wrong, and yet there is an advantage
        ([1.0, 1.0], [0.9, 1.0], 1, True),  # right, with a penalty for length
        ([0.5, 0.5], [0.5, 0.5], 0, False),
        ([0.0, 1.0], [0.0, 1.0], 0, True),
        ([math.nan, 0.0], [math.nan, 0.0], 0, True),
        ([math.inf, math.inf], [math.inf, math.inf], 1, True),
    ],
)
def test_what_a_group_teaches(scores: list[float], rewards: list[float], streak: int, teaches: bool) -> None:
    memory = greso()
    assert memory.observe("a", scores, rewards) is teaches
    assert memory.streaks.get("a", 0) == streak


def test_prompts_are_sampled_as_often_as_the_formula_says() -> None:
    memory = greso(p_easy=0.6, p_hard=0.3)
    keys = [key_of(f"prompt {number}", "") for number in range(12000)]
    for number, key in enumerate(keys):
        for _ in range(number % 3):
            memory.observe(key, [1.0], [1.0])
        if number % 2 and number % 3 == 0:
            memory.observe(key, [0.0], [0.0])
    kept = {key for key in keys if memory.keeps(key)}
    by_streak = {n: [key for key in keys if memory.streaks.get(key, 0) == n] for n in (0, 1, 2, -1)}
    shares = {n: sum(key in kept for key in some) / len(some) for n, some in by_streak.items()}
    assert shares[0] == 1.0
    for n, expected in ((1, 0.6), (2, 0.36), (-1, 0.3)):
        error = math.sqrt(expected * (1 - expected) / len(by_streak[n]))
        assert shares[n] == pytest.approx(expected, abs=4 * error), n
    metrics = memory.end_batch()
    assert metrics["greso/skipped_easy"] == sum(key not in kept for n in (1, 2) for key in by_streak[n])
    assert metrics["greso/skipped_hard"] == sum(key not in kept for key in by_streak[-1])
    assert memory.end_batch()["greso/skipped_easy"] == 0.0


def test_decisions_differ_between_epochs_and_seeds_and_repeat_otherwise() -> None:
    keys = [f"{number}" for number in range(400)]

    def decisions(epoch: int, seed: int) -> list[bool]:
        memory = Greso(GresoSettings(), seed, epoch)
        for key in keys:
            memory.observe(key, [1.0], [1.0])
        return [memory.keeps(key) for key in keys]

    assert decisions(1, 1) == decisions(1, 1)
    assert decisions(1, 1) != decisions(2, 1)
    assert decisions(1, 1) != decisions(1, 2)


def batch(memory: Greso, easy: int, hard: int, mixed: int) -> dict[str, float]:
    for number, (count, scores) in enumerate([(easy, [1.0, 1.0]), (hard, [0.0, 0.0]), (mixed, [0.0, 1.0])]):
        for index in range(count):
            memory.observe(f"{number} {index}", scores, scores)
    return memory.end_batch()


def test_probabilities_are_adjusted_once_a_batch_after_the_first_epoch() -> None:
    memory = greso()
    metrics = batch(memory, 3, 1, 6)
    assert (metrics["greso/easy_ratio"], metrics["greso/hard_ratio"]) == (0.3, 0.1)
    assert metrics["greso/zero_variance_ratio"] == 0.4
    assert (memory.p_easy, memory.p_hard) == (0.5, 0.5)
    memory.epoch = 1
    batch(memory, 3, 1, 6)  # 0.3 is over 1/12, 0.1 below 1/6
    assert (memory.p_easy, memory.p_hard) == pytest.approx((0.49, 0.51))
    batch(memory, 0, 2, 10)  # exactly at the target
    assert (memory.p_easy, memory.p_hard) == pytest.approx((0.5, 0.5))
    memory.end_batch()  # nothing was sampled
    assert (memory.p_easy, memory.p_hard) == pytest.approx((0.5, 0.5))
    for _ in range(100):
        batch(memory, 5, 0, 5)
    assert (memory.p_easy, memory.p_hard) == (0.05, 0.95)


@given(st.integers(1, 500), st.integers(0, 300), st.integers(0, 300))
def test_rounds(missing: int, equal: int, useful: int) -> None:
    memory = Greso(GresoSettings(round_prompts=200, min_round_prompts=30), 1)
    assert memory.next_round(missing) == (200, False)
    for number in range(equal + useful):
        memory.observe(str(number), [0.0], [0.0]) if number < equal else memory.observe(str(number), [0, 1], [0, 1])
    size, last = memory.next_round(missing)
    assert 30 <= size <= 200
    if useful:
        wanted = math.floor(missing / (1 - equal / (equal + useful)) * 1.25)
        assert last == (wanted <= 200)
        assert size == max(min(wanted, 200), 30)
    elif equal:
        assert (size, last) == (200, False), "all that was sampled taught nothing: how many are needed is unknown"


def test_a_prompt_that_becomes_easy_is_sampled_less_and_less() -> None:
    """A simulated data set: from the third epoch on, half of the prompts are always solved. The share of easy groups
    then goes to its target."""
    memory = greso()
    keys = [key_of(str(number), "") for number in range(3000)]
    ratios = []
    for epoch in range(60):
        memory.epoch = epoch
        for start in range(0, len(keys), 100):
            for number in range(start, start + 100):
                if memory.keeps(keys[number]):
                    solved = epoch >= 2 and number % 2 == 0
                    memory.observe(keys[number], [1.0, 1.0] if solved else [0.0, 1.0], [1.0, 1.0] if solved else [0, 1])
            metrics = memory.end_batch()
            ratios.append(metrics["greso/easy_ratio"])
    assert sum(ratios[60:90]) / 30 == pytest.approx(0.5, abs=0.01)
    assert sum(ratios[-300:]) / 300 == pytest.approx(1 / 12, abs=0.02)


def test_continues_from_its_state() -> None:
    memory, other = greso(), greso()
    memory.epoch = 3
    batch(memory, 5, 1, 3)
    memory.observe("0 1", [1.0], [1.0])
    memory.next_round(3)
    other.load_state_dict(memory.state_dict())
    for one in (memory, other):
        one.observe("1 1", [0.0], [0.0])
    assert [memory.keeps(str(n)) for n in range(50)] == [other.keeps(str(n)) for n in range(50)]
    assert memory.next_round(2) == other.next_round(2)
    assert memory.end_batch() == other.end_batch()
    assert memory.state_dict() == other.state_dict()
