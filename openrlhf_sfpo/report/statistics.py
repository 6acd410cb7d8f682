"""Standard errors of an accuracy that was measured with several samples of each prompt."""

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
    """
    errors = {}
    if len(by_prompt) > 1:
        errors["stderr"] = math.sqrt(variance([fmean(scores) for scores in by_prompt]) / len(by_prompt))
    if by_prompt and all(len(scores) > 1 for scores in by_prompt):
        errors["sampling_stderr"] = math.sqrt(sum(variance(s) / len(s) for s in by_prompt)) / len(by_prompt)
    return errors
