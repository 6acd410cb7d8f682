"""Rewards of an engine's responses, whose text is decoded from their own tokens."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from openrlhf_sfpo.tasks.responses import Response
from openrlhf_sfpo.tasks.rewards import CheckedReward

# The response that a task has just sampled; its reward is computed in the same task, or in a thread with its context.
SAMPLED: ContextVar[Response] = ContextVar("sampled_response")


def reward_response(reward: CheckedReward, queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """Compute the reward of the response that this task has sampled.

    OpenRLHF decodes prompt and response together. The result need not begin with the prompt's text, which may have been
    truncated, or changed by the tokenizer. So the response is decoded from its own tokens.
    """
    response = SAMPLED.get()
    return reward.of_response(response.text, response.raw, prompts[0], labels[0])


async def post_response(
    post: Callable[..., Awaitable[Any]], queries: list[str], prompts: list[str], labels: list[str]
) -> Any:
    """Like `reward_response`, for a reward server."""
    return await post([prompts[0] + SAMPLED.get().raw], prompts, labels)
