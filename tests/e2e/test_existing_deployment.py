"""OpenRLHF's own command line, patched, on CPU with real vLLM engines: SFPO on its DeepSpeed actor."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import openrlhf_versions
import pytest
from openrlhf_versions import VERSIONS
from places import ROOT

from openrlhf_sfpo.cli.patch import main

REWARD = """
def reward_func(queries, prompts, labels):
    answers = [query.removeprefix(prompt) for query, prompt in zip(queries, prompts)]
    scores = [float(answer[:1] in set("13579")) for answer in answers]
    return {"rewards": scores, "scores": scores, "extra_logs": {}}
"""


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newest OpenRLHF as pip installs it, patched; the one that the environment has stays as it is."""
    directory = tmp_path_factory.mktemp("openrlhf")
    tree = openrlhf_versions.install(VERSIONS[-1], directory)
    assert main([str(tree)]) == 0
    return tree


def flags(testbed: Path, directory: Path, **others: Any) -> list[str]:
    reward = directory / "odd.py"
    reward.write_text(REWARD)
    values = {
        "actor.model_name_or_path": testbed / "model",
        "actor.num_gpus_per_node": 2,
        "actor.adam.lr": 3e-4,
        "actor.lr_scheduler": "constant",
        "vllm.num_engines": 1,
        "data.prompt_dataset": testbed / "train.jsonl",
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.max_len": 24,
        "data.max_samples": 160,
        "reward.remote_url": reward,
        "rollout.batch_size": 16,
        "rollout.n_samples_per_prompt": 8,
        "rollout.max_new_tokens": 4,
        "rollout.micro_batch_size": 32,
        "train.batch_size": 128,
        "train.micro_batch_size": 32,
        "algo.advantage.estimator": "group_norm",
        "algo.kl.init_coef": 0,
        "ckpt.output_dir": directory / "hf",
        "ckpt.path": directory / "checkpoints",
        "sfpo.k": 2,
        **{name.replace("__", "."): value for name, value in others.items()},
    }
    words = [f"--{name}={value}" for name, value in values.items()]
    return [*words, "--sfpo.enable", "--vllm.enforce_eager"]


def run(tree: Path, words: list[str]) -> str:
    """Run Python with a patched OpenRLHF before the environment's own; what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=900, cwd=tree.parent
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-5000:]
    return output


def logged(output: str, metric: str) -> list[float]:
    """A metric's values, as OpenRLHF prints them after each step."""
    return [float(value) for value in re.findall(rf"'{metric}': '?([-\d.e]+)", output)]


def test_sfpo_through_a_patched_openrlhf(patched: Path, testbed: Path, tmp_path: Path) -> None:
    """Three steps with every part in them; that they train is shown by the slow tests."""
    changes = {"data__max_samples": 24, "rollout__batch_size": 8, "train__batch_size": 64}
    output = run(patched, ["-m", "openrlhf.cli.train_ppo_ray", *flags(testbed, tmp_path, **changes)])
    assert len(logged(output, "reward")) == 3
    assert_trained_with_sfpo(output, steps=3)
    assert (tmp_path / "hf" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_the_patched_openrlhf_learns(patched: Path, testbed: Path, tmp_path: Path, stage: int) -> None:
    words = ["-m", "openrlhf.cli.train_ppo_ray", *flags(testbed, tmp_path, ds__zero_stage=stage)]
    output = run(patched, words)
    rewards = logged(output, "reward")
    assert len(rewards) >= 10
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.2, rewards
    assert_trained_with_sfpo(output, steps=10)
    assert (tmp_path / "hf" / "model.safetensors").exists()


def assert_trained_with_sfpo(output: str, steps: int) -> None:
    assert logged(output, "sfpo/active")[:2] == [1.0, 1.0]
    assert logged(output, "sfpo/backward_passes_total")[-1] == 3 * steps
    assert min(logged(output, "sfpo/displacement")) > 0
    assert max(logged(output, "rollout_log_prob_abs_diff")) < 0.03, "the engine has the weights that the actor has"


@pytest.mark.slow
def test_the_megatron_actor_through_a_patched_openrlhf(patched: Path, testbed: Path, tmp_path: Path) -> None:
    words = flags(testbed, tmp_path, actor__backend="megatron", megatron__pipeline_model_parallel_size=2)
    output = run(patched, ["-m", "openrlhf.cli.train_ppo_ray", *words])
    rewards = logged(output, "reward")
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.2, rewards
    assert max(logged(output, "rollout_log_prob_abs_diff")) < 0.03, "the engine has the weights that the actor has"


@pytest.mark.slow
def test_without_a_patch(testbed: Path, tmp_path: Path) -> None:
    """One import before OpenRLHF's command line runs."""
    code = (
        "import openrlhf_sfpo.orchestration.patched.import_hook, runpy; "
        "runpy.run_module('openrlhf.cli.train_ppo_ray', run_name='__main__')"
    )
    tree = tmp_path / "tree"
    tree.mkdir()
    output = run(tree, ["-c", code, *flags(testbed, tmp_path, data__max_samples=32)])
    assert logged(output, "sfpo/active") == [1.0, 1.0]


@pytest.mark.slow
def test_the_trainer_of_this_package_on_the_deepspeed_actor(testbed: Path, tmp_path: Path) -> None:
    words = [word for word in flags(testbed, tmp_path) if not word.startswith(("--ckpt", "--train.micro"))]
    command = [sys.executable, "-m", "openrlhf_sfpo.cli.main", "train", *words]
    command += ["--actor.backend=deepspeed", "--train.micro_batch_size=32", f"--run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "hf" / "model.safetensors").exists()
    assert "10/10" in done.stdout
