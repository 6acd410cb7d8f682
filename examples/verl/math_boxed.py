"""The SFPO authors' training reward, for verl: 1 for the right answer in \\boxed{}, 0.1 for a wrong one, else 0."""

from typing import Any

from openrlhf_sfpo.tasks.rewards import math_boxed_reward


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **kwargs: Any) -> Any:
    """verl's reward function, for one response; the accuracy goes by the score alone."""
    result = math_boxed_reward.grade([solution_str], [ground_truth])
    return {"score": result["rewards"][0], "acc": result["scores"][0]}
