"""Reading a run directory."""

import json
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a line that is cut short (a run that is being written) is left out."""
    lines = []
    for text in (directory / METRICS).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
