"""A reward function whose scores, which evaluations go by, are not its rewards."""

from typing import Any


def reward(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """0 or 1, for about half of the answers each; scores are 2 more."""
    rewards = [float(len(query) % 2) for query in queries]
    return {"rewards": rewards, "scores": [reward + 2 for reward in rewards]}
