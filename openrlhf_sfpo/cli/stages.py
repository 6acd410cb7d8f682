"""`openrlhf-sfpo train --train.stages FILE`: runs that go on from each other, such as with ever longer responses."""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_sfpo.cli.dry_run import dry_run
from openrlhf_sfpo.cli.flags import parse_settings
from openrlhf_sfpo.config.openrlhf_flags import MODEL_FLAG
from openrlhf_sfpo.config.settings_file import Section, Settings, flatten, read_yaml
from openrlhf_sfpo.report.reading import CONFIG, METRICS
from openrlhf_sfpo.report.stages import join_metrics
from openrlhf_sfpo.runs.paths import INSIDE, OUTPUTS
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.keys import take_keys
from openrlhf_sfpo.system.stopping import Stopping

_FLAG = "--train.stages"
_KEEP = "keep_optimizer"
_OWN = (*OUTPUTS, "ckpt.load_enable")  # each stage has its own
_MODEL = MODEL_FLAG.removeprefix("--")
_NOT_IN_STAGES = (*_OWN, "run.dir", "train.stages", "ckpt.start_from", _MODEL)


@dataclass(frozen=True)
class Stage:
    """One run.

    Attributes:
        name: as in the file.
        directory: its run directory.
        flat: its flags, with dotted names.
        given: names of the flags that were set.
        ahead: `flat`, but with the model that the first stage begins with: that of this stage may not exist yet.
        differs: the flags that the file sets for it, in one line.
    """

    name: str
    directory: Path
    flat: argparse.Namespace
    given: frozenset[str]
    ahead: argparse.Namespace
    differs: str

    @property
    def model(self) -> Path:
        """The model that it ends with."""
        return self.directory / INSIDE["ckpt.output_dir"]


def plan(flat: argparse.Namespace, given: set[str]) -> list[Stage]:
    """The stages of a run.

    Args:
        flat: the run's flags, with --train.stages and --run.dir.
        given: names of the flags that were set.

    Raises:
        UsageError: naming the file, or the flag that stages cannot have in common.
    """
    file, root = Path(getattr(flat, "train.stages")), Path(getattr(flat, "run.dir")).absolute()
    for name in _OWN:
        if name in given:
            raise UsageError(f"--{name}", f"is given, but with {_FLAG} each stage has its own.", "Leave it out.")
    content = read_yaml(_FLAG, file)
    if not content:
        raise UsageError(_FLAG, f"{file} has no stages.", "Write `NAME: {flag: value, ...}` lines.")
    read = [
        (name, *_read(file, name, section, content.lines[name], first=not number))
        for number, (name, section) in enumerate(content.items())
    ]
    keeps = [*(kept for _, _, kept in read), False]
    stages: list[Stage] = []
    model: dict[str, Any] = {}  # what the stage begins with, if not with the run's own model
    for number, (name, settings, _) in enumerate(read):
        own, set_here = parse_settings(settings, str(file))
        changes = {one: vars(own)[one] for one in set_here}
        directory = root / f"{number + 1}_{name}"
        if stages and keeps[number]:
            model = {**model, "ckpt.start_from": str(stages[-1].directory)}
        elif stages:
            model = {_MODEL: str(stages[-1].model), "ckpt.start_from": None}
        values = {
            **vars(flat),
            # With the same one, every stage would begin with the same prompts.
            "train.seed": vars(flat)["train.seed"] + number,
            **changes,
            "run.dir": str(directory),
            "train.stages": None,
        }
        if keeps[number + 1]:
            values["ckpt.save_last"] = True
        ahead = {**values, "ckpt.start_from": None} if stages else values
        stages.append(
            Stage(
                name,
                directory,
                argparse.Namespace(**{**values, **model}),
                frozenset(given | set_here),
                argparse.Namespace(**ahead),
                ", ".join(f"{one} {changes[one]}" for one in sorted(changes)) or "the run's flags",
            )
        )
    _check_directory(root, stages)
    return stages


def _read(file: Path, name: str, section: object, line: int, first: bool) -> tuple[Settings, bool]:
    """A stage's flags, and whether it keeps the optimizer's state."""
    place = f"{file}, line {line}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(place, f"has the stage {name!r}.", "Use letters, digits, dots, hyphens and underscores.")
    if section is not None and not isinstance(section, Section):
        raise UsageError(place, f"stage {name} is {section!r}.", "Give it flags: `NAME: {flag: value, ...}`.")
    settings = flatten(section if section is not None else Section(str(file)), _FLAG)
    keeps = str(settings.get(_KEEP, "false")).lower()
    if keeps not in ("true", "false"):
        raise UsageError(place, f"{_KEEP} is {keeps!r}.", "Use true or false.")
    if first and _KEEP in settings:
        raise UsageError(
            place, f"{_KEEP} is set for the first stage, which follows none.", "Use --ckpt.start_from, or leave it out."
        )
    for one in _NOT_IN_STAGES:
        if one in settings:
            raise UsageError(
                settings.places.get(one, place), f"sets {one} for a stage.", f"Leave it out: {_FLAG} sets it."
            )
    settings = settings.without(_KEEP)
    take_keys(settings)
    return settings, keeps == "true"


def _check_directory(root: Path, stages: list[Stage]) -> None:
    """Refuse a directory that holds something else."""
    if (root / CONFIG).exists():
        raise UsageError("--run.dir", f"{root} holds a run without stages.", "Choose another one.")
    planned = {stage.directory.name for stage in stages}
    others = sorted(path.parent.name for path in root.glob(f"*/{CONFIG}") if path.parent.name not in planned)
    if others:
        raise UsageError(
            "--run.dir",
            f"{root} was begun with other stages: {', '.join(others)}.",
            f"Give these in {_FLAG} as well, in the same order, or choose another directory.",
        )


def show(stages: list[Stage]) -> int:
    """--dry-run of every stage; the highest of their exit statuses."""
    status = 0
    for number, stage in enumerate(stages, 1):
        print(f"{chr(10) if number > 1 else ''}== stage {number}/{len(stages)}, {stage.name}: {stage.differs}")
        with _named(stage):
            status = max(status, dry_run(_checked(stage), stage.given))
    return status


def check(stages: list[Stage]) -> None:
    """`preflight.check` of every stage; prints the warnings.

    Raises:
        UsageError: naming the stage and the flag.
    """
    from openrlhf_sfpo.runs import preflight

    for stage in stages:
        with _named(stage):
            for line in preflight.check(_checked(stage), stage.given).warnings():
                print(f"warning: stage {stage.name}: {line}")


def run(stages: list[Stage], train: Callable[[argparse.Namespace, set[str]], int], stopping: Stopping) -> int:
    """Run what has not finished yet, until a stage fails or is stopped.

    Args:
        stages: as checked.
        train: trains with some flags; returns the exit status.
        stopping: requests to stop.

    Returns:
        The exit status of the last stage that ran.
    """
    from openrlhf_sfpo.runs import resume

    root = stages[0].directory.parent
    for number, stage in enumerate(stages, 1):
        where = f"stage {number}/{len(stages)}, {stage.name}"
        if stopping.requested is not None:
            return int(vars(stage.flat)["run.interrupted_exit_status"])
        if resume.has_finished(stage.directory):
            print(f"{where}, has finished before")
            continue
        print(f"{where}: {stage.differs}", flush=True)
        status = train(stage.flat, set(stage.given))
        join_metrics(root, {one.name: one.directory for one in stages[:number]})
        if not resume.has_finished(stage.directory):
            return status
    print(f"all stages have finished: model in {stages[-1].model}, metrics of all in {root / METRICS}")
    return 0


def _checked(stage: Stage) -> argparse.Namespace:
    """The flags with which a stage can be checked: its own once it has begun."""
    from openrlhf_sfpo.runs import resume

    return stage.flat if resume.holds_a_run(stage.directory) else stage.ahead


@contextmanager
def _named(stage: Stage) -> Iterator[None]:
    """Name the stage in errors."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"stage {stage.name}: {error.flag}", error.problem, error.fix) from None
