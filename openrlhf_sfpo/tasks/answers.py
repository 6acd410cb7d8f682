"""Finding the answer in a response and in a label."""

import json
import re
from typing import Any

from openrlhf_sfpo.tasks.integers import last_integer
from openrlhf_sfpo.tasks.responses import response_text

__all__ = ["answer_of_solution", "expected_text", "last_boxed", "last_integer", "reasoning_gym_label", "response_text"]

_BARE_BOX = re.compile(r"\\boxed\s+(\S)")


def last_boxed(text: str) -> str | None:
    """What is inside the last \\boxed{...} whose braces are balanced, None if there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[begin:index]
    return None


def answer_of_solution(solution: str) -> str | None:
    """The answer in a written solution as MATH has them: the last \\boxed{...} or \\fbox{...}, or \\boxed and one
    character; None if there is none."""
    boxed = last_boxed(solution.replace("\\fbox{", "\\boxed{"))
    if boxed is not None:
        return boxed
    bare = _BARE_BOX.findall(solution)
    return bare[-1] if bare else None


def reasoning_gym_label(label: str) -> dict[str, Any] | None:
    """The entry that a generated data set's label carries, None if the label is plain text."""
    if not isinstance(label, str) or not label.lstrip().startswith("{"):
        return None
    try:
        parsed = json.loads(label)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) and "entry" in parsed else None


def expected_text(label: Any) -> str:
    """The reference answer as text, whether the label is plain (a number, too) or from a generated data set.

    Raises:
        ValueError: there is no label.
    """
    generated = reasoning_gym_label(label)
    if generated:
        return str(generated["entry"]["answer"])
    if label is None:
        raise ValueError("a sample has no label: name the field of the answers with --data.label_key")
    return label if isinstance(label, str) else json.dumps(label)
