"""Standard errors of accuracies measured with several samples per prompt."""

import math
from statistics import fmean, variance


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
