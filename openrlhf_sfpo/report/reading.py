"""Reading a run directory."""

import json
from pathlib import Path
from typing import Any

METRICS, CONFIG, STATUS = "metrics.jsonl", "config.yaml", "status.json"


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a line that is cut short (a run that is being written) is left out."""
    lines = []
    for text in (directory / METRICS).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def evaluated_datasets(lines: list[dict[str, Any]]) -> list[str]:
    """Names of the data sets that any of the lines has an accuracy of."""
    keys = {key for line in lines for key in line if key.startswith("eval/") and key.endswith("_pass1")}
    return sorted(key.removeprefix("eval/").removesuffix("_pass1") for key in keys)


def accuracy_of(line: dict[str, Any], dataset: str) -> tuple[float, float | None] | None:
    """Accuracy and the standard error that suits a comparison on the same prompts; None if it was not measured."""
    value = line.get(f"eval/{dataset}_pass1")
    if value is None:
        return None
    fallback = line.get(f"eval/{dataset}_pass1_stderr")
    return value, line.get(f"eval/{dataset}_pass1_sampling_stderr", fallback)


def read_status(directory: Path) -> dict[str, Any]:
    """status.json; empty if the run has none (yet)."""
    try:
        return json.loads((directory / STATUS).read_text())
    except (OSError, ValueError):
        return {}
