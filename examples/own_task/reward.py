"""The reward of this example: is the first word of the response the plural?

openrlhf_sfpo calls `reward_func` once for each response, with lists of one element each.
"""

import re


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, object]:
    """Reward responses.

    Args:
        queries: prompt and response, as one text.
        prompts: the prompt, as the template renders it: "Singular: city\\nPlural:".
        labels: the field that --data.label_key names, as text: "cities".

    Returns:
        One number for each response in each list. `rewards` are what the policy is trained on; `scores`, which may be
        left out, are what evaluations report; each entry of `extra_logs` becomes a metric of its own.
    """
    rewards, scores, one_word = [], [], []
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        response = query.removeprefix(prompt)
        words = re.findall(r"[a-z]+", response.lower())
        right = bool(words) and words[0] == label
        stops = right and response.strip().lower() == label
        rewards.append(1.0 if stops else 0.5 if right else 0.0)
        scores.append(float(right))
        one_word.append(float(len(words) == 1))
    return {"rewards": rewards, "scores": scores, "extra_logs": {"one_word": one_word}}
