"""The examples that are not shell scripts around the trainer."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from tiny_models import make_model

from openrlhf_sfpo.report.reading import read_metrics


@pytest.mark.slow
def test_sfpo_in_trl(tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's real trainer, two rollout batches: the weights after each step must be SFPO's."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    from transformers import TrainerCallback
    from trl_sfpo import ALPHA, SFPO, K, make_trainer

    class Recorder(TrainerCallback):
        """Records the weights at the end of each step; used once before SFPO's callback and once after it."""

        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

        def on_train_begin(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
            self.on_step_end(model=model)

        def on_step_end(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
            self.seen.append(torch.cat([value.detach().view(-1).clone() for value in model.parameters()]))

    model = make_model(tmp_path / "model", "llama", vocab_size=49152)
    for file in smollm2.glob("*token*"):
        shutil.copy(file, model)
    before, after = Recorder(), Recorder()
    trainer = make_trainer(str(model), str(tmp_path / "out"), 2, [before, SFPO(), after], batch_size=8)
    monkeypatch.setattr(trainer, "reward_funcs", [lambda completions, **kwargs: [float(len(c)) for c in completions]])
    trainer.train()
    assert len(after.seen) == 2 * (K + 1) + 1
    for batch in range(2):
        start = batch * (K + 1)
        slow, fast, moved = after.seen[start], before.seen[start + K], after.seen[start + K]
        assert (fast - slow).norm() > 0
        torch.testing.assert_close(moved, slow + ALPHA * (fast - slow), rtol=0, atol=1e-7)
        for step in (*range(1, K), K + 1):
            assert torch.equal(before.seen[start + step], after.seen[start + step])
        assert not torch.equal(after.seen[start + K + 1], moved), "the slow pass"


@pytest.mark.parametrize("dry", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["dry", "trained"])
def test_a_task_of_ones_own(small_model: Path, tmp_path: Path, dry: bool) -> None:
    """The example's problems, reward and settings must work unchanged, for one step."""
    run_dir = tmp_path / "run"
    flags = {
        "run.dir": run_dir,
        "actor.model_name_or_path": small_model,
        "data.max_samples": 10,
        "rollout.max_new_tokens": 3,
        "run.kv_cache_mb": 128,
        "eval.n_samples_per_prompt": 1,
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    command = [
        sys.executable,
        "-m",
        "openrlhf_sfpo.cli.main",
        "train",
        "--config",
        "examples/own_task/run.yaml",
        *words,
        *(["--dry-run"] if dry else []),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    if dry:
        assert "Singular: " in done.stdout, "a prompt as it is rendered"
        return
    before, after = read_metrics(run_dir)
    assert after["rollouts_total"] == 80
    assert 0 <= after["train/one_word"] <= 1, "what the reward function logs is a metric"
    assert {"eval/default_pass1"} <= set(before) & set(after)
    samples = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]
    assert samples[0]["prompt"].startswith("Singular: ")
    assert samples[0]["prompt"].endswith("\nPlural:")


def test_the_reward_of_ones_own_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "own_task"))
    from reward import reward_func

    prompt = "Singular: city\nPlural:"
    responses = [" cities", " cities and towns", " citys", "", " Cities"]
    results = [reward_func([prompt + response], [prompt], ["cities"]) for response in responses]
    assert [result["rewards"] for result in results] == [[1.0], [0.5], [0.0], [0.0], [1.0]]
    assert [result["scores"] for result in results] == [[1.0], [1.0], [0.0], [0.0], [1.0]]
    assert [result["extra_logs"]["one_word"] for result in results] == [[1.0], [0.0], [1.0], [0.0], [1.0]]
