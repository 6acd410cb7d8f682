"""Rows in the form in which Skywork-OR1's data set is published."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# What a small model needs to answer in the right form.
SHOTS = [(1, 2), (4, 4)]
MODELS = ("DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-7B")


def row(number: int, kind: str, prompt: str, truth: Any, before: list[dict[str, str]]) -> dict[str, Any]:
    """A problem whose difficulty is from 0 to 16, after other messages."""
    return {
        "data_source": f"train-{kind}",
        "prompt": [*before, {"role": "user", "content": prompt}],
        "ability": kind,
        "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)},
        "extra_info": {"index": number, "model_difficulty": dict.fromkeys(MODELS, number % 17)},
    }


def write_skywork(directory: Path, count: int) -> None:
    """Sums and programs that print them, `count` of each, in two files."""
    directory.mkdir(parents=True)
    sums = [(number, number % 9, number % 7) for number in range(count)]
    asked = "Calculate: {} + {}"
    shots = [
        message
        for a, b in SHOTS
        for message in (
            {"role": "user", "content": asked.format(a, b)},
            {"role": "assistant", "content": f"\\boxed{{{a + b}}}"},
        )
    ]
    math = [row(n, "math", asked.format(a, b), [str(a + b)], shots) for n, a, b in sums]
    tests = [{"inputs": [f"{a}\n"], "outputs": [f"{a + b}\n"]} for _, a, b in sums]
    wanted = "Write a program that adds {} to its input."
    code = [row(n, "code", wanted.format(b), test, []) for (n, _, b), test in zip(sums, tests, strict=True)]
    for name, rows in (("math", math), ("code", code)):
        pq.write_table(pa.Table.from_pylist(rows), directory / f"{name}-0.parquet")
