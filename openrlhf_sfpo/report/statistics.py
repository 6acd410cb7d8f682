"""Statistics of accuracies measured with several samples per prompt: pass@k, standard errors, intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Probability that at least one of k samples is right, estimated from `samples` of which `correct` are.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of Chen et al., "Evaluating Large Language Models Trained on Code"
    (arXiv 2107.03374). With k = 1 it is the mean score, avg@n.

    Raises:
        ValueError: unless 1 <= k <= samples and 0 <= correct <= samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {correct} right in {samples} samples is not defined")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def standard_errors(by_prompt: list[list[float]]) -> dict[str, float]:
    """Standard errors of the mean over prompts of each prompt's mean score.

    Args:
        by_prompt: the scores of each prompt's samples.

    Returns:
        `stderr`: with prompts as draws from all prompts like them, std(prompt means) / sqrt(prompts). For one model on
        other prompts. Needs two prompts.
        `sampling_stderr`: with the prompts fixed and only the samples drawn, sqrt(sum_i var_i / n_i) / prompts. For two
        models on the same prompts, or on all the prompts there are. Needs two samples of every prompt.
        If all samples are wrong, or all are right, these are the standard deviations of the beta distribution that
        results from a uniform prior and that many equal answers (prompts or samples): what was not observed is not
        impossible.
    """
    errors = {}
    alike = {score for scores in by_prompt for score in scores} in ({0.0}, {1.0})
    if len(by_prompt) > 1:
        means = [fmean(scores) for scores in by_prompt]
        errors["stderr"] = _unseen(len(means)) if alike else math.sqrt(variance(means) / len(means))
    if by_prompt and all(len(scores) > 1 for scores in by_prompt):
        spread = math.sqrt(sum(variance(s) / len(s) for s in by_prompt)) / len(by_prompt)
        errors["sampling_stderr"] = _unseen(sum(map(len, by_prompt))) if alike else spread
    return errors


def _unseen(count: int) -> float:
    """The standard deviation of Beta(1, count + 1)."""
    return math.sqrt((count + 1) / (count + 3)) / (count + 2)


def bootstrap_interval(
    groups: Sequence[Sequence[float]],
    statistic: Callable[..., np.ndarray],
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of one or more independent groups of values.

    Args:
        groups: for an accuracy one group, the mean score of each prompt; for a ratio of two presets two groups, one
            number per seed.
        statistic: takes one array [resamples, len(group)] per group and returns [resamples], such as `lambda a:
            a.mean(axis=1)`.
        level: fraction of the resampled statistics inside the interval.
        resamples: how many times each group is resampled with replacement.
        seed: seed of the resampling.

    Returns:
        The lower and upper end.

    Raises:
        ValueError: an empty group, or a level outside (0, 1).
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError("an interval needs at least one value in every group")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    generator = np.random.default_rng(seed)
    drawn = [
        np.asarray(group, dtype=float)[generator.integers(len(group), size=(resamples, len(group)))] for group in groups
    ]
    low, high = np.quantile(statistic(*drawn), [(1.0 - level) / 2, (1.0 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Interval:
    """An interval for a mean.

    Attributes:
        low, high: its ends.
        method: "bootstrap" or "beta".
    """

    low: float
    high: float
    method: str


# With fewer values, or fewer right or wrong ones than this, a bootstrap interval is too narrow; with none, it is a
# point.
MIN_BOOTSTRAP = 30
MIN_EACH = 5.0


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Interval of the mean of values in [0, 1], one per prompt; None for a single value.

    With many values, a percentile bootstrap. With fewer than 30, or fewer than 5 right or wrong ones among them (in
    sum), the interval of Clopper and Pearson (Biometrika 26, 1934) with that sum as the count: it treats each value as
    a yes or no, and no distribution on [0, 1] with this mean has a larger variance.
    """
    count, right = len(values), float(sum(values))
    if count < 2:
        return None
    if uses_bootstrap(values):
        low, high = bootstrap_interval([values], lambda drawn: drawn.mean(axis=1), level)
        return Interval(low, high, "bootstrap")
    tail = (1.0 - level) / 2
    low = _beta_quantile(tail, right, count - right + 1.0) if right > 0 else 0.0
    high = _beta_quantile(1.0 - tail, right + 1.0, count - right) if right < count else 1.0
    return Interval(low, high, "beta")


def uses_bootstrap(values: Sequence[float]) -> bool:
    """Whether `mean_interval` uses the bootstrap for these values."""
    right = float(sum(values))
    return len(values) >= MIN_BOOTSTRAP and min(right, len(values) - right) >= MIN_EACH


def mean_of_means_interval(groups: Sequence[Sequence[float]], level: float = 0.95) -> Interval | None:
    """Interval of the unweighted mean of the groups' means; None if a group has a single value.

    Each group's mean is sampled many times: by bootstrap, or where `mean_interval` does not use that, from the beta
    distribution of a count with Jeffreys' prior. The interval is extended to include the mean itself: if all are wrong,
    or all right, every draw lies on one side of it.
    """
    if len(groups) == 1:
        return mean_interval(groups[0], level)
    if any(len(values) < 2 for values in groups):
        return None
    generator = np.random.default_rng(0)
    means, methods = [], set()
    for values in groups:
        count, right = len(values), float(sum(values))
        if uses_bootstrap(values):
            means.append(np.asarray(values)[generator.integers(count, size=(_DRAWS, count))].mean(axis=1))
            methods.add("bootstrap")
        else:
            means.append(generator.beta(right + 0.5, count - right + 0.5, size=_DRAWS))
            methods.add("beta")
    low, high = np.quantile(sum(means) / len(means), [(1.0 - level) / 2, (1.0 + level) / 2])
    mean = sum(float(np.mean(values)) for values in groups) / len(groups)
    return Interval(min(float(low), mean), max(float(high), mean), " and ".join(sorted(methods, reverse=True)))


_DRAWS = 10_000


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """The quantile of the beta distribution for a `probability`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if beta_probability(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_probability(x: float, a: float, b: float) -> float:
    """The beta distribution's cumulative probability: the regularized incomplete beta function I_x(a, b).

    Computed by its continued fraction (NIST's Digital Library of Mathematical Functions, 8.17.22) with Lentz's method.
    mpmath's implementation does not converge for large a and b.
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):  # where the fraction converges slowly
        return 1.0 - beta_probability(1.0 - x, b, a)
    log_factor = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction, numerator, denominator = 1.0, 1.0, 0.0
    for index in range(10_000):
        half = index // 2
        if index == 0:
            term = 1.0
        elif index % 2 == 0:
            term = half * (b - half) * x / ((a + index - 1.0) * (a + index))
        else:
            term = -(a + half) * (a + b + half) * x / ((a + index - 1.0) * (a + index))
        denominator = 1.0 / _not_zero(1.0 + term * denominator)
        numerator = _not_zero(1.0 + term / numerator)
        fraction *= numerator * denominator
        if abs(numerator * denominator - 1.0) < 1e-12:
            break
    return math.exp(log_factor) * (fraction - 1.0) / a


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-30 else 1e-30
