"""Reads run directories."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS, CONFIG, STATUS = "metrics.jsonl", "config.yaml", "status.json"


def read_metrics(directory: Path, problems: list[str] | None = None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are objects with a non-decreasing step.

    Unreadable lines are skipped and described in `problems`. An incomplete last line is not a problem: it is being
    written.
    """
    problems = [] if problems is None else problems
    try:
        texts = (directory / METRICS).read_text(errors="replace", encoding="utf-8").split("\n")
    except OSError:
        problems.append(f"{METRICS} is missing: the run has not made a step yet")
        return []
    lines: list[dict[str, Any]] = []
    others: list[list[int]] = []  # numbers of lines that are not steps, consecutive ones together
    for number, text in enumerate(texts, 1):
        line = _step(text, lines)
        if line is not None:
            lines.append(line)
        elif text.strip() and number < len(texts):
            if not others or others[-1][-1] != number - 1:
                others.append([])
            others[-1].append(number)
    for first, *rest in others:
        which = f"lines {first} to {rest[-1]} are not steps" if rest else f"line {first} is not a step"
        problems.append(f"{METRICS}, {which} of this run; left out")
    if not lines:
        problems.append(f"{METRICS} has no step yet")
    return lines


def _step(text: str, before: list[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return None
    return None if before and line["step"] < before[-1]["step"] else line


def evaluated_datasets(lines: list[dict[str, Any]]) -> list[str]:
    """Names of the data sets whose accuracy is in any of the lines."""
    keys = {key for line in lines for key in line if key.startswith("eval/") and key.endswith("_pass1")}
    return sorted(key.removeprefix("eval/").removesuffix("_pass1") for key in keys)


def accuracy_of(line: dict[str, Any], dataset: str) -> tuple[float, float | None] | None:
    """Accuracy, and its standard error for a comparison on the same prompts; None if not measured."""
    value = line.get(f"eval/{dataset}_pass1")
    if value is None:
        return None
    fallback = line.get(f"eval/{dataset}_pass1_stderr")
    return value, line.get(f"eval/{dataset}_pass1_sampling_stderr", fallback)


def samples_drawn(metrics: Mapping[str, Any]) -> Any:
    """The responses sampled for a rollout batch. Those that were thrown away cost as much as the others; before they
    were counted, there were only those trained on."""
    return metrics.get("rollout/num_sampled", metrics.get("rollout/num_samples", 0))


def read_status(directory: Path) -> dict[str, Any]:
    """The content of status.json; empty if there is none (yet)."""
    try:
        return json.loads((directory / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def state_of(status: dict[str, Any]) -> str:
    """The state in a status.json, checked as far as possible.

    Returns:
        "running", "finished", "interrupted", "failed"; "died" if it says running and the process is gone, which only
        the same machine can tell; "unknown" for an empty status.
    """
    state = status.get("state", "unknown")
    if state == "running" and status.get("host") == platform.node() and not _lives(status):
        return "died"
    return state


def _lives(status: dict[str, Any]) -> bool:
    import psutil

    try:
        process = psutil.Process(status["pid"])
        # The PID may have been reused since, and the clock may have been set.
        same = abs(process.create_time() - status.get("process_started", process.create_time())) < 5.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False
    except psutil.Error:  # the process exists, but may not be inspected
        return True
