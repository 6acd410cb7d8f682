"""Finds the checkpoint that a run continues from, and checks that it is the same run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from openrlhf_sfpo.checkpoints.directory import (
    MODEL,
    PLACE,
    Checkpoint,
    CheckpointRefused,
    find_checkpoint,
    newest_complete,
    remove_leftovers,
)
from openrlhf_sfpo.config.flag_table import may_change_on_resume
from openrlhf_sfpo.config.openrlhf_flags import MODEL_FLAG
from openrlhf_sfpo.config.stored_settings import RUN_DIR, portable
from openrlhf_sfpo.report.reading import CONFIG, METRICS, read_status
from openrlhf_sfpo.system.errors import NotThere, UsageError

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
    found = _newest(values)
    if found is not None:
        check_same(found.manifest.get("settings", {}), values, f"the run of {found.path}")


def _newest(values: dict[str, Any]) -> Checkpoint | None:
    """The newest checkpoint in --ckpt.path, whether complete or not."""
    return newest_complete(Path(values["ckpt.path"]) / PLACE, check=lambda checkpoint: None)


def check_start(values: dict[str, Any]) -> None:
    """Check that --ckpt.start_from names a checkpoint of the same model. Whether the checkpoint is complete is checked
    when it is loaded. A run with checkpoints of its own no longer needs it.

    Args:
        values: the flags by dotted name.

    Raises:
        UsageError: naming the flag. NotThere: there is no such path yet.
    """
    flag, start = "--ckpt.start_from", values["ckpt.start_from"]
    if not start or (holds_a_run(Path(values["run.dir"])) and _newest(values) is not None):
        return
    if values["actor.backend"] == "deepspeed":
        raise UsageError(flag, "is for --actor.backend megatron.", "Start from the model that the other run has saved.")
    if not Path(start).exists():
        raise NotThere(flag, f"{start} does not exist.", "Give a checkpoint, or a run's directory.")
    try:
        found = find_checkpoint(Path(start), check=lambda checkpoint: None)
    except CheckpointRefused as reason:
        raise UsageError(flag, f"{reason}.", reason.fix) from None
    own, others = (_sizes(path) for path in (values["actor.model_name_or_path"], found.path / MODEL))
    differing = [name for name, value in own.items() if value != others[name]]
    if differing:
        raise UsageError(
            flag,
            f"{found.path} is of another model than {MODEL_FLAG} {values['actor.model_name_or_path']}: "
            + ", ".join(f"{name} is {others[name]}, not {own[name]}" for name in differing)
            + ".",
            "Give a checkpoint of this model.",
        )


def _sizes(path: str | Path) -> dict[str, Any]:
    """What determines a model's weights."""
    from openrlhf_sfpo.megatron.model.config import ModelConfig

    model = ModelConfig.from_pretrained(path)
    names = ("num_layers", "hidden_size", "ffn_hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size")
    return {name: getattr(model, name) for name in (*names, "tied_embeddings", "qkv_bias", "qk_norm")}


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
