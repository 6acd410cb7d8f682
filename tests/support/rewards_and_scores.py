"""A reward function whose scores, which evaluations use, differ from its rewards."""

from typing import Any


def reward(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """Rewards are 0 or 1, each for about half of the responses; scores are 2 higher."""
    rewards = [float(len(query) % 2) for query in queries]
    return {"rewards": rewards, "scores": [reward + 2 for reward in rewards]}
