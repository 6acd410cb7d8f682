"""Runs of a tiny model, eight steps of half a second, for the tests of faults and of shared devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from openrlhf_sfpo.report.reading import read_metrics

HERE = Path(__file__).parent
STEPS = 8


def flags(run_dir: Path, problems: Path, **changes: Any) -> list[str]:
    """Eight steps of half a second, each with a checkpoint; names have __ for dots, None drops a flag."""
    chosen = {
        "run.dir": run_dir,
        "actor.model_name_or_path": problems / "model",
        "actor.num_gpus_per_node": 1,
        "megatron.param_dtype": "fp32",
        "vllm.num_engines": 1,
        "vllm.enforce_eager": True,
        "run.kv_cache_mb": 128,
        "rollout.deterministic": True,
        "sfpo.k": 2,
        "sfpo.gate_window": 3,
        "actor.adam.lr": 1e-4,
        "data.prompt_dataset": problems / "train.jsonl",
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.max_len": 24,
        "data.max_samples": 4 * STEPS,
        "eval.dataset": problems / "few.jsonl",
        "eval.steps": 3,
        "eval.n_samples_per_prompt": 1,
        "reward.remote_url": problems / "reward.py",
        "rollout.batch_size": 4,
        "rollout.n_samples_per_prompt": 4,
        "rollout.max_new_tokens": 6,
        "train.batch_size": 8,
        "train.max_tokens_per_gpu": 256,
        "ckpt.save_steps": 1,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in chosen.items() if value is not None
    ]


def replayed(run_dir: Path, problems: Path, recording: Path, **changes: Any) -> list[str]:
    """The same from recorded rollouts, without an engine."""
    without = dict.fromkeys(("vllm__num_engines", "reward__remote_url", "eval__dataset", "rollout__deterministic"))
    return flags(run_dir, problems, **{**without, "rollout__replay_dir": recording, **changes})


def command(arguments: list[str], faults: list[dict[str, Any]], done: Path) -> dict[str, Any]:
    """Arguments of `subprocess` to train with faults."""
    done.mkdir(exist_ok=True)
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "FAULTS": json.dumps(faults), "FAULTS_DONE": str(done)}
    return {"args": [sys.executable, str(HERE / "faulty_train.py"), *arguments], "text": True, "env": environment}


def train(arguments: list[str], faults: list[dict[str, Any]], done: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(arguments, faults, done), capture_output=True, timeout=800)


def comparable(run_dir: Path) -> list[dict[str, Any]]:
    """The metrics without those that depend on time, such as when checkpoints were saved and weights sent."""
    left_out = ("time/", "checkpoint/", "weight_sync/")
    return [
        {k: v for k, v in line.items() if not k.startswith(left_out) and "seconds" not in k}
        for line in read_metrics(run_dir)
    ]


def assert_the_same(run_dir: Path, other: Path) -> None:
    """Metrics, samples and the exported model must be equal to the bit."""
    assert comparable(run_dir) == comparable(other)
    for name in ("hf/model.safetensors", "samples.jsonl"):
        assert (run_dir / name).read_bytes() == (other / name).read_bytes(), name
