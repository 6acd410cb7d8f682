"""`openrlhf-sfpo train`, and `python -m openrlhf_sfpo.cli.train` for `ray job submit`."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from openrlhf_sfpo.cli import dry_run, stages
from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.cli.help import help_asked, help_text
from openrlhf_sfpo.cli.process import guarded
from openrlhf_sfpo.system import keys
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import locked
from openrlhf_sfpo.system.home import prepare_command
from openrlhf_sfpo.system.stopping import Stopping, StopRequested


def main(argv: list[str] | None = None) -> int:
    """Train, or with --dry-run show what a run would do; return the exit status: 0, 1 if the run failed or does not
    fit, 2 for bad input, --run.interrupted_exit_status if the run was stopped."""
    words = sys.argv[1:] if argv is None else argv
    prepare_command()
    keys.hide(words)
    try:
        if (topic := help_asked(words)) is not None:
            print(help_text(topic))
            return 0
        dry_run.check_spelling(words)
        flat, given = parse([word for word in words if word not in dry_run.SPELLINGS])
        keys.take_keys(vars(flat))
        if getattr(flat, "run.dir") is None:
            vars(flat)["run.dir"] = f"runs/{datetime.now():%Y%m%d-%H%M%S}"
        planned = stages.plan(flat, given) if getattr(flat, "train.stages") else []
        if any(word in dry_run.SPELLINGS for word in words):
            return stages.show(planned) if planned else dry_run.dry_run(flat, given)
        stopping = Stopping()
        with stopping.installed():
            from openrlhf_sfpo.runs import preflight

            if planned:
                stages.check(planned)
                with locked("--run.dir", Path(getattr(flat, "run.dir"))):
                    return stages.run(planned, lambda flat, given: _run_locked(flat, given, stopping), stopping)

            for line in preflight.check(flat, given).warnings():
                print(f"warning: {line}")
            return _run_locked(flat, given, stopping)
    except StopRequested:
        print("openrlhf-sfpo train: stopped before the run began", file=sys.stderr)
        return getattr(flat, "run.interrupted_exit_status")
    except UsageError as error:
        print(f"openrlhf-sfpo train: error: {error}", file=sys.stderr)
        return 2


def _run_locked(flat: argparse.Namespace, given: set[str], stopping: Stopping) -> int:
    with locked("--run.dir", Path(getattr(flat, "run.dir"))):
        return _run(flat, given, stopping)


def _run(flat: argparse.Namespace, given: set[str], stopping: Stopping) -> int:
    from openrlhf_sfpo.runs import launcher, preflight, resume

    directory = preflight.prepare(flat, given)
    if resume.has_finished(directory):
        resume.check_same_as_in(directory, vars(flat))
        print(f"{directory} holds a finished run: nothing to do. For another one choose another --run.dir.")
        return 0
    with locked("--ckpt.path", Path(getattr(flat, "ckpt.path"))):
        return launcher.run(flat, directory, stopping)


if __name__ == "__main__":
    from openrlhf_sfpo.cli.main import use_utf8

    use_utf8()
    sys.exit(guarded("openrlhf-sfpo train", main))
