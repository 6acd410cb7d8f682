"""Finds the checkpoint that a run continues from, and checks that it is the same run."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from openrlhf_sfpo.checkpoints.directory import (
    PLACE,
    Checkpoint,
    CheckpointRefused,
    newest_complete,
    open_checkpoint,
    remove_leftovers,
)
from openrlhf_sfpo.config.flag_table import may_change_on_resume
from openrlhf_sfpo.config.stored_settings import RUN_DIR, portable
from openrlhf_sfpo.report.reading import CONFIG, METRICS, read_status
from openrlhf_sfpo.system.errors import UsageError

_MARKS = {"run.dir", "sfpo.preset"}  # settings that the config.yaml of every run has


def holds_a_run(directory: Path) -> bool:
    """Whether a run began in this directory.

    Raises:
        UsageError: it holds other files that would be mixed with the run's.
    """
    if (directory / CONFIG).exists():
        if not settings_in(directory).keys() >= _MARKS:
            raise UsageError("--run.dir", f"{directory} holds a {CONFIG} that is not a run's.", "Choose another one.")
        return True
    if (directory / METRICS).exists():
        raise UsageError(
            "--run.dir", f"{directory} holds {METRICS} of something other than a run.", "Choose another one."
        )
    return False


def settings_in(directory: Path) -> dict[str, Any]:
    """The settings in a run directory's config.yaml, by dotted name; empty if unreadable."""
    try:
        content = yaml.safe_load((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def has_finished(directory: Path) -> bool:
    """Whether the run in this directory has finished."""
    return holds_a_run(directory) and read_status(directory).get("state") == "finished"


def find(values: dict[str, Any], say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint that a run continues from; None if it starts from the beginning.

    A run directory that holds a run is continued; with --ckpt.load_enable, so is the run in --ckpt.path. Unfinished
    checkpoints of a killed run are removed.

    Args:
        values: the flags by dotted name.
        say: called with a message for each checkpoint that cannot be used.

    Raises:
        UsageError: flags have changed that affect what is learned.
    """
    directory = Path(values["run.dir"])
    continues = holds_a_run(directory)
    if values["actor.backend"] == "deepspeed":
        check_continues(values)
        return None
    root = Path(values["ckpt.path"]) / PLACE
    remove_leftovers(root)
    if not continues and not values["ckpt.load_enable"]:
        return None
    checkpoint = newest_complete(root, lambda reason: say(f"left out: {reason}"))
    if checkpoint is not None:
        check_same(checkpoint.manifest.get("settings", {}), values, f"the run of {checkpoint.path}")
    elif continues:
        check_same_as_in(directory, values)
    return checkpoint


def check_continues(values: dict[str, Any]) -> None:
    """If the run directory holds a run, check that it is this run.

    Args:
        values: the flags by dotted name.

    Raises:
        UsageError: flags have changed that affect what is learned, or the run cannot be continued there.
    """
    directory = Path(values["run.dir"])
    if not holds_a_run(directory):
        _check_loads(values)
        return
    if values["actor.backend"] == "deepspeed" and not has_finished(directory):
        raise UsageError(
            "--run.dir",
            f"{directory} already holds a run, and one with --actor.backend deepspeed is continued by OpenRLHF.",
            f"Choose another one, with --ckpt.path {values['ckpt.path']} --ckpt.load_enable.",
        )
    check_same_as_in(directory, values)


def _check_loads(values: dict[str, Any]) -> None:
    """With --ckpt.load_enable, compare the flags with the newest checkpoint's; whether it is complete is checked on
    loading."""
    if not values["ckpt.load_enable"] or values["actor.backend"] == "deepspeed":
        return
    root = Path(values["ckpt.path"]) / PLACE
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        with suppress(CheckpointRefused):
            found.append(open_checkpoint(path))
    if found:
        newest = max(found, key=lambda one: (one.step, one.is_best))
        check_same(newest.manifest.get("settings", {}), values, f"the run of {newest.path}")


def check_same_as_in(directory: Path, values: dict[str, Any]) -> None:
    """`check_same` with the settings in a run directory."""
    check_same(portable(settings_in(directory)), values, f"the run in {directory}")


def check_same(before: dict[str, Any], values: dict[str, Any], what: str) -> None:
    """Refuse flags that would change what the continued run learns, unless --run.allow_changed names them.

    Args:
        before: the settings of the run to continue, from `portable`.
        values: the flags now; those not yet resolved for the device are not compared.
        what: names the run to continue, for the error message.

    Raises:
        UsageError: listing the flags.
    """
    allowed = {name.removeprefix("--") for name in values["run.allow_changed"]}
    now = portable(values)
    changed = [
        name
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
        and name not in allowed
        and not may_change_on_resume(name)
        and now[name] not in ("auto", None)
        and not str(before[name]).startswith(f"{RUN_DIR}/data/")  # earlier versions stored the paths of prepared data
    ]
    if changed:
        raise UsageError(
            ", ".join(f"--{name}" for name in changed),
            f"changed since {what}: "
            + "; ".join(f"{name} was {before[name]!r}, is {now[name]!r}" for name in changed)
            + ".",
            f"Use the old values or another --run.dir, or allow the change: --run.allow_changed {' '.join(changed)}.",
        )
