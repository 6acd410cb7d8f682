"""Estimators against known values."""

from itertools import combinations

import numpy as np
import pytest

from openrlhf_sfpo.report.statistics import (
    beta_probability,
    bootstrap_interval,
    mean_interval,
    mean_of_means_interval,
    pass_at_k,
    standard_errors,
)


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


@pytest.mark.parametrize(
    ("x", "a", "b"), [(0.3, 2, 5), (0.9, 0.5, 0.5), (0.01, 1, 30), (0.5, 40.5, 60.25), (1.0, 2, 3)]
)
def test_the_beta_distribution(x: float, a: float, b: float) -> None:
    from mpmath import betainc

    assert beta_probability(x, a, b) == pytest.approx(float(betainc(a, b, 0, x, regularized=True)), abs=1e-11)


def test_the_beta_distribution_of_large_counts() -> None:
    """Its mean is nearly its median, and it is symmetric."""
    assert beta_probability(0.5, 20_000, 20_000) == pytest.approx(0.5)
    assert beta_probability(0.001, 20, 19_980) == pytest.approx(1 - beta_probability(0.999, 19_980, 20))


def test_intervals_of_counts_are_those_of_the_binomial_distribution() -> None:
    """An end is where a result at least as extreme has 2.5 % probability."""
    from math import comb

    low, high = (end for end in (mean_interval([1.0] * 3 + [0.0] * 7).low, mean_interval([1.0] * 3 + [0.0] * 7).high))
    assert sum(comb(10, k) * low**k * (1 - low) ** (10 - k) for k in range(3, 11)) == pytest.approx(0.025)
    assert sum(comb(10, k) * high**k * (1 - high) ** (10 - k) for k in range(4)) == pytest.approx(0.025)


@pytest.mark.parametrize("accuracy", [0.005, 0.05, 0.5, 0.97])
@pytest.mark.parametrize("prompts", [3, 10, 40])
def test_intervals_cover_what_they_say(accuracy: float, prompts: int) -> None:
    """At least nearly 95 % of them must; each prompt has its own accuracy, and 4 samples."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        of_prompt = generator.beta(accuracy, 1 - accuracy, size=prompts)
        values = generator.binomial(4, of_prompt) / 4
        interval = mean_interval(list(values))
        covered += interval.low <= accuracy <= interval.high
    assert covered >= 0.9 * 200


def test_one_prompt_has_no_interval() -> None:
    assert mean_interval([0.5]) is None
    assert mean_of_means_interval([[0.5], [0.0, 1.0]]) is None


def test_the_mean_over_sets_allows_for_luck_in_a_set_without_right_answers() -> None:
    hopeless, other = [0.0] * 30, [1.0] * 50 + [0.0] * 50
    interval = mean_of_means_interval([hopeless, other])
    alone = mean_interval(other)
    assert alone.low / 2 < interval.low < 0.25 < (alone.high + 0.02) / 2 < interval.high
    assert interval.method == "bootstrap and beta"
    assert mean_of_means_interval([other]) == alone


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_the_interval_of_a_mean_over_sets_reaches_the_mean(score: float) -> None:
    interval = mean_of_means_interval([[score] * 16] * 8)
    assert score in (interval.low, interval.high)
    assert 0.05 < interval.high - interval.low < 0.15


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_standard_errors_where_all_answers_are_alike(score: float) -> None:
    errors = standard_errors([[score] * 4] * 80)
    assert errors["stderr"] == pytest.approx(1 / 82, rel=0.02)
    assert errors["sampling_stderr"] == pytest.approx(1 / 322, rel=0.01)
    assert standard_errors([[7.0, 7.0]] * 3) == {"stderr": 0.0, "sampling_stderr": 0.0}, "no accuracies"
