"""Estimators against values that are known."""

from itertools import combinations

import numpy as np
import pytest

from openrlhf_sfpo.report.statistics import bootstrap_interval, pass_at_k


@pytest.mark.parametrize(
    ("correct", "samples", "k"), [(0, 4, 1), (4, 4, 4), (1, 4, 1), (1, 4, 2), (3, 8, 5), (6, 8, 4)]
)
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(correct: int, samples: int, k: int) -> None:
    scores = [1] * correct + [0] * (samples - correct)
    choices = [max(chosen) for chosen in combinations(scores, k)]
    assert pass_at_k(correct, samples, k) == pytest.approx(sum(choices) / len(choices))


@pytest.mark.parametrize(("correct", "samples", "k"), [(1, 4, 0), (1, 4, 5), (5, 4, 1), (-1, 4, 1)])
def test_pass_at_k_refuses_nonsense(correct: int, samples: int, k: int) -> None:
    with pytest.raises(ValueError, match="is not defined"):
        pass_at_k(correct, samples, k)


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=1)


def test_bootstrap_of_two_values_by_enumeration() -> None:
    """The mean of two draws from {0, 1} is 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4."""
    assert bootstrap_interval([[0.0, 1.0]], mean, level=0.4) == (0.5, 0.5)
    assert bootstrap_interval([[0.0, 1.0]], mean, level=0.6) == (0.0, 1.0)


def test_bootstrap_of_many_values_is_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = bootstrap_interval([values], mean)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_of_a_ratio_of_medians() -> None:
    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.median(a, axis=1) / np.median(b, axis=1)

    assert bootstrap_interval([[6.0] * 5, [2.0] * 5], ratio, level=0.9) == (3.0, 3.0)
    low, high = bootstrap_interval([[40.0, 50.0, 60.0], [10.0, 20.0, 25.0]], ratio, level=0.9)
    assert 40 / 25 <= low < 50 / 20 < high <= 60 / 10


def test_bootstrap_refuses_nothing_and_a_wrong_level() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([[1.0], []], mean)
    with pytest.raises(ValueError, match="level must be"):
        bootstrap_interval([[1.0]], mean, level=1.0)
