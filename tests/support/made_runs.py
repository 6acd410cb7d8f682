"""Handmade run directories with known results."""

import json
from pathlib import Path
from typing import Any

import yaml

SFPO = {
    "sfpo.enable": True,
    "sfpo.k": 3,
    "sfpo.alpha": 0.8,
    "sfpo.preset": "sfpo",
    "sfpo.gate": "upper",
    "sfpo.gate_window": 30,
    "sfpo.gate_after": "latch",
    "sfpo.gate_decay_steps": 10,
    "sfpo.stop_step": None,
    "sfpo.optimizer_state": "maintain",
    "sfpo.snapshot_device": "same",
}


def make_run(
    directory: Path, accuracies: list[float], passes: int = 1, state: str = "finished", **settings: Any
) -> Path:
    """A run with 64 rollouts, 2 s (4 with several passes) and an evaluation per step; `settings` have __ for dots."""
    directory.mkdir(parents=True)
    changes = {name.replace("__", "."): value for name, value in settings.items()}
    config = {**SFPO, "actor.adam.lr": 1e-5, "train.seed": 1, "run.dir": str(directory), **changes}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "status.json").write_text(json.dumps({"state": state, "versions": {"torch": "2.13.0"}}))
    lines = [
        {
            "step": step,
            "rollouts_total": 64 * step,
            "time/step_total": (2.0 if passes == 1 else 4.0) if step else None,
            "sfpo/backward_passes_total": float(passes * step),
            "sfpo/backward_tokens_total": float(1000 * passes * step),
            "sfpo/entropy": 1.0 / (1 + step),
            "reward_mean": accuracy,
            "eval/sums_pass1": accuracy,
        }
        for step, accuracy in enumerate(accuracies)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory
