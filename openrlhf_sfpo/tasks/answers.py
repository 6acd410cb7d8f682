"""Finds the answer in a response and in a label."""

import json
from typing import Any

from openrlhf_sfpo.tasks.boxes import answer_of_solution, last_boxed
from openrlhf_sfpo.tasks.integers import last_integer
from openrlhf_sfpo.tasks.responses import response_text

__all__ = ["answer_of_solution", "expected_text", "last_boxed", "last_integer", "reasoning_gym_label", "response_text"]


def reasoning_gym_label(label: object) -> dict[str, Any] | None:
    """The entry in a generated data set's label; None if the label is plain text."""
    if not isinstance(label, str) or not label.lstrip().startswith("{"):
        return None
    try:
        parsed = json.loads(label)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) and "entry" in parsed else None


def expected_text(label: object) -> str:
    """The reference answer as text, of a plain label (possibly a number) or one from a generated data set.

    Raises:
        ValueError: there is no label.
    """
    generated = reasoning_gym_label(label)
    if generated:
        return str(generated["entry"]["answer"])
    if label is None:
        raise ValueError("a sample has no label: name the field of the answers with --data.label_key")
    return label if isinstance(label, str) else json.dumps(label)
