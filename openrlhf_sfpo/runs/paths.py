"""Output paths of a run: their defaults below --run.dir, and checks that they do not belong to another run."""

import os
from collections.abc import Container
from pathlib import Path
from typing import Any

from openrlhf_sfpo.checkpoints.directory import PLACE
from openrlhf_sfpo.runs import resume
from openrlhf_sfpo.system.errors import UsageError

# Defaults of flags, relative to the run directory.
INSIDE: dict[str, str] = {"ckpt.path": "checkpoints", "ckpt.output_dir": "hf", "logger.tensorboard_dir": "tensorboard"}
OUTPUTS = (*INSIDE, "rollout.record_dir")


def places(run_directory: str | Path, given: Container[str]) -> dict[str, str]:
    """The default output paths, by flag, of flags that were not set.

    Args:
        run_directory: --run.dir.
        given: names of the flags that were set.
    """
    return {name: str(Path(run_directory) / place) for name, place in INSIDE.items() if name not in given}


def check_free(values: dict[str, Any]) -> None:
    """Check that the run overwrites nothing except its own output if it is continued.

    Args:
        values: the flags by dotted name, with the output paths filled in.

    Raises:
        UsageError: a path holds output of another run.
    """
    directory = Path(values["run.dir"])
    before = resume.settings_in(directory) if resume.holds_a_run(directory) else {}
    _check_model(values, before)
    if not _is_own("ckpt.path", values, before) and not values["ckpt.load_enable"]:
        _check_checkpoints(Path(values["ckpt.path"]), values["ckpt.save_hf"])
    record = values["rollout.record_dir"]
    continues = _is_own("rollout.record_dir", values, before) or values["ckpt.load_enable"]
    if record and not continues and any(Path(record).glob("rollouts_*.safetensors")):
        raise UsageError("--rollout.record_dir", f"{record} already holds recorded rollouts.", "Choose another one.")


def _check_model(values: dict[str, Any], before: dict[str, Any]) -> None:
    place = Path(values["ckpt.output_dir"])
    if not place.is_dir() or not any(place.iterdir()) or _is_own("ckpt.output_dir", values, before):
        return
    if _is_inside(place, values["run.dir"]):
        raise UsageError(
            "--run.dir",
            f"{values['run.dir']} holds no run, but {place} is not empty, and the final model would go there.",
            "Choose another one.",
        )
    raise UsageError(
        "--ckpt.output_dir",
        f"{place} is not empty, and its content is not from this run.",
        "Choose another one, or leave it out: the final model then goes into the run directory.",
    )


def _check_checkpoints(place: Path, with_models: bool) -> None:
    """Refuse a directory with another run's checkpoints: a new run must neither rotate them away nor continue from
    them."""
    root = place / PLACE
    models = with_models and any(place.glob("*global_step*_hf"))
    if models or (root.is_dir() and any(path.is_dir() for path in root.iterdir())):
        raise UsageError(
            "--ckpt.path",
            f"{place} already holds checkpoints of another run.",
            "Choose another one, or continue from them with --ckpt.load_enable.",
        )


def _is_own(name: str, values: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether the run that is continued wrote to this place."""
    if not before or not values[name]:
        return False
    return _is_inside(values[name], values["run.dir"]) or _real(values[name]) == _real(before.get(name) or "")


def _is_inside(place: str | Path, directory: str | Path) -> bool:
    return not os.path.relpath(_real(place), _real(directory)).startswith(os.pardir)


def _real(path: str | Path) -> str:
    return os.path.realpath(path)
