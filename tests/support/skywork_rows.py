"""Rows in the form in which Skywork-OR1's data set is published."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MODELS = ("DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-7B")


def row(number: int, kind: str, prompt: str, truth: Any) -> dict[str, Any]:
    """A problem whose difficulty is from 0 to 16."""
    return {
        "data_source": f"train-{kind}",
        "prompt": [{"role": "user", "content": prompt}],
        "ability": kind,
        "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)},
        "extra_info": {"index": number, "model_difficulty": dict.fromkeys(MODELS, number % 17)},
    }


def write_skywork(directory: Path, count: int) -> None:
    """Sums and programs that print them, `count` of each, in two files."""
    directory.mkdir(parents=True)
    sums = [(number, number % 9, number % 7) for number in range(count)]
    math = [row(n, "math", f"Calculate: {a} + {b}", [str(a + b)]) for n, a, b in sums]
    code = [
        row(
            n, "code", f"Write a program that adds {b} to its input.", {"inputs": [f"{a}\n"], "outputs": [f"{a + b}\n"]}
        )
        for n, a, b in sums
    ]
    for name, rows in (("math", math), ("code", code)):
        pq.write_table(pa.Table.from_pylist(rows), directory / f"{name}-0.parquet")
