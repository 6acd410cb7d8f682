"""Accuracies that were measured with several samples of each prompt: pass@k, standard errors, bootstrap intervals."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, variance

import numpy as np


def standard_errors(by_prompt: list[list[float]]) -> dict[str, float]:
    """Standard errors of the mean over prompts of each prompt's mean score.

    Args:
        by_prompt: the scores of each prompt's samples.

    Returns:
        `stderr`: with prompts as draws from all prompts like them, std(prompt means) / sqrt(prompts). For one model on
        other prompts. Needs two prompts.
        `sampling_stderr`: with the prompts fixed and only the samples drawn, sqrt(sum_i var_i / n_i) / prompts. For two
        models on the same prompts, or on all the prompts there are. Needs two samples of every prompt.
    """
    errors = {}
    if len(by_prompt) > 1:
        errors["stderr"] = math.sqrt(variance([fmean(scores) for scores in by_prompt]) / len(by_prompt))
    if by_prompt and all(len(scores) > 1 for scores in by_prompt):
        errors["sampling_stderr"] = math.sqrt(sum(variance(s) / len(s) for s in by_prompt)) / len(by_prompt)
    return errors


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
            number for each seed.
        statistic: takes one array [resamples, len(group)] for each group and returns [resamples], such as
            `lambda a: a.mean(axis=1)`.
        level: part of the resampled statistics that lies inside.
        resamples: how many times each group is drawn from itself with replacement.
        seed: of the draws.

    Returns:
        Lower and upper end.

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
