"""The GPU benchmark of the actor must also run on a CPU, where its comparisons must come out equal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


@pytest.mark.slow
def test_gpu_actor_on_a_cpu(tmp_path: Path) -> None:
    sizes = ["--parameters", "10", "--tokens", "256", "--sequence", "128", "--max_tokens", "256", "--rounds", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_actor.py"), "--device", "cpu", *sizes]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu_actor.json").read_text())
    assert [(row["dtype"], row["layers"]) for row in result["updates"]] == [("fp32", "local"), ("bf16", "local")]
    for row in result["updates"]:
        assert row["update_difference"] == row["log_prob_difference"] == 0, "the same machine twice"
        assert row["cosine_with_fp32"] == row["cpu_cosine_with_fp32"] > 0.9
    (one,) = result["passes"]
    assert one["parameters"] > 10e6
    assert one["planned_bytes"] > 16 * one["parameters"]
    assert 0 < one["over_matrix_product"] < 1
    assert result["reposition"]["bytes"] == 4 * one["parameters"]
    assert "| fp32 | local | sdpa |" in (tmp_path / "gpu_actor.md").read_text()
