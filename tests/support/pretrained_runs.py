"""Runs of the pretrained model, two small steps, as `openrlhf-sfpo train` starts them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROBLEMS = "reasoning_gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1"
# Of four prompts each, on two pipeline stages.
TWO_SMALL_STEPS = {
    "actor.num_gpus_per_node": 2,
    "megatron.pipeline_model_parallel_size": 2,
    "vllm.num_engines": 1,
    "run.kv_cache_mb": 256,
    "data.max_len": 64,
    "reward.remote_url": "last_integer",
    "rollout.batch_size": 4,
    "rollout.n_samples_per_prompt": 4,
    "rollout.max_new_tokens": 8,
    "train.batch_size": 16,
    "train.max_tokens_per_gpu": 128,
    "ckpt.best_metric_key": "none",
}


def flags(run_dir: Path, model: Path, **changes: Any) -> list[str]:
    """Two small steps on two pipeline stages; `changes` has names with __ for dots, None drops a flag."""
    chosen = {
        **TWO_SMALL_STEPS,
        "run.dir": run_dir,
        "actor.model_name_or_path": model,
        "vllm.enforce_eager": True,
        "sfpo.k": 2,
        "sfpo.alpha": 0.8,
        "actor.adam.lr": 1e-5,
        "actor.lr_scheduler": "constant",
        "data.prompt_dataset": f"{PROBLEMS}&size=8&seed=1",
        "data.input_key": "question",
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in chosen.items() if value is not None
    ]


def train(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openrlhf_sfpo.cli.main", "train", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=800, env=env)


def logs_of(run_dir: Path) -> str:
    log = run_dir / "logs" / "driver.log"
    return log.read_text()[-4000:] if log.exists() else "no log"
