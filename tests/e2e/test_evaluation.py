"""A real model is evaluated by `openrlhf-sfpo eval`."""

import json
from pathlib import Path

import pytest
from cli import evaluate


def test_a_real_model_is_evaluated(testbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--grader", "exact", "--max_new_tokens", 6, "--samples", 4, "--limit", 10, "--kv_cache_mb", 64]
    done = evaluate(testbed / "model", "--data", testbed / "eval.jsonl", *flags, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = json.loads((out / "eval.json").read_text())
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert set(numbers["sets"]) == {"2_numbers", "3_numbers", "4_numbers"}
    assert len(samples) == 3 * 10 * 4
    for name, one in numbers["sets"].items():
        mine = [sample for sample in samples if sample["set_name"] == name]
        right = [sample["response"] == sample["label"] for sample in mine]
        assert one["avg"] == pytest.approx(sum(right) / len(right))
        assert one["response_length_mean"] == pytest.approx(sum(sample["tokens"] for sample in mine) / len(mine))
    assert numbers["settings"]["temperature"] == 1.0
    assert "unweighted mean" in done.stdout
    assert (out / "eval.png").read_bytes().startswith(b"\x89PNG")
    again = evaluate(testbed / "model", "--data", testbed / "eval.jsonl", "--out", out)
    assert again.returncode == 2
    assert "already holds an evaluation" in again.stderr
