"""Rows of Skywork-OR1's data set (arXiv 2505.22312) as it is published, and their difficulty.

Columns: `data_source`, `prompt` (a chat), `ability`, `reward_model` with `ground_truth` as JSON text (a list of
answers, or tests), `extra_info` with `model_difficulty`: by model, a number from 0 to 16.
"""

import json
from dataclasses import dataclass
from typing import Any

COLUMNS = ("data_source", "prompt", "reward_model", "extra_info")
PROMPT, LABEL = "prompt", "label"


@dataclass(frozen=True)
class Difficulty:
    """Which rows to keep.

    Attributes:
        model: the name in `model_difficulty`; None keeps all rows.
        low, high: the bounds, both included.
    """

    model: str | None = None
    low: int = 1
    high: int = 15

    def keeps(self, row: dict[str, Any]) -> bool:
        """Whether a row is within the bounds.

        Raises:
            ValueError: the row has no difficulty for the model.
        """
        if self.model is None:
            return True
        known = (row.get("extra_info") or {}).get("model_difficulty") or {}
        value = known.get(self.model)
        if not isinstance(value, int | float):
            raise ValueError(f"has no difficulty for {self.model!r} (it has {', '.join(map(repr, known)) or 'none'})")
        return self.low <= value <= self.high


EVERY_ROW = Difficulty()


def is_skywork(row: dict[str, Any]) -> bool:
    """Whether a row has the columns of the data set."""
    model = row.get("reward_model")
    return all(name in row for name in COLUMNS) and isinstance(model, dict) and "ground_truth" in model


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the fields prompt, label and datasource. A label is the first of several answers, or tests as JSON
    text.

    Raises:
        ValueError: the ground truth is not JSON text, or an empty list.
    """
    truth = row["reward_model"]["ground_truth"]
    try:
        parsed = json.loads(truth) if isinstance(truth, str) else truth
    except ValueError as error:
        raise ValueError(f"has a ground_truth that is not JSON text ({error})") from None
    if isinstance(parsed, list):
        if not parsed:
            raise ValueError("has an empty list as its ground_truth")
        label = parsed[0]
    else:
        label = json.dumps(parsed) if isinstance(parsed, dict) else parsed
    prompt = row["prompt"]
    return {PROMPT: prompt if isinstance(prompt, str) else list(prompt), LABEL: label, "datasource": row["data_source"]}
