"""The metrics of a run in stages, as one run's."""

import json
from pathlib import Path

from openrlhf_sfpo.report.curves import draw_curves
from openrlhf_sfpo.report.reading import METRICS, read_metrics
from openrlhf_sfpo.system.files import write_atomically

# Those that count from the beginning of a run.
_TOTALS = ("step", "rollouts_total", "wall_seconds", "sfpo/backward_passes_total", "sfpo/backward_tokens_total")


def join_metrics(target: Path, stages: dict[str, Path]) -> None:
    """Write metrics.jsonl and curves.png of all stages so far, in which steps, rollouts, passes, tokens and seconds go
    on counting. Of a later stage the evaluation before its first step is left out: the one before ends with it.

    Args:
        target: the directory to write them into.
        stages: the run directory of each stage by its name, in order.
    """
    lines = []
    before = dict.fromkeys(_TOTALS, 0)
    for number, (name, directory) in enumerate(stages.items()):
        counted = dict(before)
        for line in read_metrics(directory):
            if number and line["step"] == 0:
                continue
            totals = {key: line[key] + before[key] for key in _TOTALS if line.get(key) is not None}
            counted |= totals
            lines.append({**line, **totals, "stage": name})
        before = counted
    write_atomically(target / METRICS, "".join(json.dumps(line) + "\n" for line in lines).encode())
    draw_curves(target)
