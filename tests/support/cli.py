"""Commands of this package, as processes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from places import ROOT

BOOBY_TRAP = "raise SystemExit('this was imported from the current directory')\n"
# A reward that an untrained model gets for about half of its responses.
REWARD = (
    'def reward_func(queries, prompts, labels):\n    return {"rewards": [float(len(query) % 2) for query in queries]}\n'
)


def run(*arguments: Any, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """`openrlhf-sfpo` with these arguments."""
    command = [sys.executable, "-m", "openrlhf_sfpo.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def evaluate(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return run("eval", *arguments, timeout=300)


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("compare", *arguments)


def write_yaml(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def small_grid(testbed: Path, path: Path) -> Path:
    """GRPO and SFPO for six steps on the testbed, evaluated after every second one; deterministic."""
    base = yaml.safe_load((ROOT / "examples" / "testbed" / "base.yaml").read_text())
    base["actor"]["model_name_or_path"] = str(testbed / "model")
    base["data"] |= {"prompt_dataset": str(testbed / "train.jsonl"), "max_samples": 48}
    few = path.with_name("few.jsonl")
    few.write_text("".join((testbed / "eval.jsonl").read_text().splitlines(keepends=True)[::10]))
    base["eval"] |= {"dataset": str(few), "steps": 2}
    base["rollout"] |= {"batch_size": 8, "deterministic": True}
    base["train"] |= {"batch_size": 64}
    # The testbed's own reward may be 0 for all samples of the first steps, and then nothing moves.
    reward = path.with_name("reward.py")
    reward.write_text(REWARD)
    base["reward.remote_url"] = str(reward)
    variants = {"grpo": {"sfpo.preset": "grpo"}, "sfpo": {"sfpo.preset": "sfpo", "sfpo.k": 2}}
    return write_yaml(path, base=base, variants=variants, sweep={"actor.adam.lr": [1e-4]}, seeds=[1])


def make_traps(directory: Path) -> Path:
    """A working directory with modules that must not shadow the installed packages."""
    (directory / "openrlhf").mkdir(parents=True)
    for name in ("openrlhf/__init__", "datasets", "yaml", "transformers", "utils", "ray", "vllm"):
        (directory / f"{name}.py").write_text(BOOBY_TRAP)
    return directory
