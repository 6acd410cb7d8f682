"""The examples for verl: verl's own configuration accepts them, and the reward and the data are what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "verl"


@pytest.mark.parametrize("algorithm", ["sfpo", "grpo"])
@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.sh")))
def test_verl_accepts_the_command_lines(script: str, algorithm: str, tmp_path: Path) -> None:
    import yaml

    environment = {**os.environ, "PYTHON": sys.executable, "MODEL": "/model", "DATA": "/data"}
    command = ["bash", str(EXAMPLES / script), algorithm, "--cfg", "job"]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    config = yaml.safe_load(run.stdout[run.stdout.index("actor_rollout_ref:") :])
    sfpo = config["actor_rollout_ref"].get("sfpo")
    if algorithm == "grpo":
        assert sfpo is None
    else:
        from openrlhf_sfpo.verl.settings import settings_of

        found = settings_of({"sfpo": sfpo})
        assert found is not None
        assert (found.k, found.alpha, found.gate_window) == (3, 0.9 if "qwen3" in script else 0.8, 30)
    assert config["data"]["train_batch_size"] == 256
    assert config["actor_rollout_ref"]["rollout"]["n"] == 8


def test_a_word_that_is_no_algorithm_is_refused() -> None:
    run = subprocess.run(["bash", str(EXAMPLES / "run.sh"), "ppo"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (2, "run.sh: say sfpo or grpo first\n")


def test_the_data(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    for name in ("train.jsonl", "eval.jsonl"):
        rows = [{"prompt": "What is 1 + 1?", "label": "2", "datasource": "math500"}, {"prompt": "3?", "label": 3}]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, str(EXAMPLES / "to_parquet.py"), str(tmp_path), str(tmp_path / "verl")]
    subprocess.run(command, check=True, capture_output=True)
    rows = pyarrow.read_table(tmp_path / "verl" / "test.parquet").to_pylist()
    assert rows[0]["prompt"] == [{"role": "user", "content": "What is 1 + 1?"}]
    assert rows[1]["reward_model"]["ground_truth"] == "3"
    assert [row["data_source"] for row in rows] == ["math500", "math"]
