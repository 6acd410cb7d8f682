"""A reward function with OpenRLHF's signature: 1 for the exact answer to a problem of the testbed."""

from typing import Any

END = "<|end|>"


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """OpenRLHF passes one response at a time; `queries` are prompts with their responses."""
    pairs = zip(queries, prompts, strict=True)
    answers = [query.removeprefix(prompt).removesuffix(END).strip() for query, prompt in pairs]
    scores = [float(answer == label) for answer, label in zip(answers, labels, strict=True)]
    return {"rewards": scores, "scores": scores, "extra_logs": {}}
