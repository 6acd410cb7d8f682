"""Settings as a run directory and a checkpoint store them."""

import math
from typing import Any

RUN_DIR = "RUN_DIR"


def portable(values: dict[str, Any]) -> dict[str, Any]:
    """Settings in the form that is compared and stored: plain values, with a placeholder for the run directory."""
    values = as_asked(values)
    directory = str(values.get("run.dir") or "")

    def plain(value: object) -> Any:
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, str) and directory:
            return value.replace(directory, RUN_DIR)
        is_plain = isinstance(value, str | int | bool | None) or (isinstance(value, float) and math.isfinite(value))
        return value if is_plain else str(value)

    return {name: plain(value) for name, value in values.items() if name != "logger.wandb.key"}


def as_asked(values: dict[str, Any]) -> dict[str, Any]:
    """Settings in the form that is written to files. API keys are not among them: `keys.take_keys` moved them to the
    environment."""
    return {name: value for name, value in values.items() if name != "config"}
