"""`openrlhf-sfpo train --dry-run`: everything that can be checked before a run starts."""

import argparse
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openrlhf_sfpo.cli.plan import GPU_MEMORY_GB
from openrlhf_sfpo.config.device_defaults import has_cuda
from openrlhf_sfpo.config.namespaces import nested
from openrlhf_sfpo.system.errors import UsageError

if TYPE_CHECKING:
    from openrlhf_sfpo.runs.data_check import DataCheck

SPELLINGS = ("--dry-run", "--dry_run")
HELP = (
    "check everything that can be known before a run, list what is still to do, and print the plan of GPU memory (see "
    "openrlhf-sfpo plan) and which GPUs hold what. Nothing is started or written, and the model directory need hold no "
    "more than config.json. The exit status is 0 if the run fits 80 GiB GPUs, 1 if not, 2 if a flag is wrong"
)


def check_spelling(words: Sequence[str]) -> None:
    """Refuse --dry-run with a value.

    Raises:
        UsageError: naming the value.
    """
    for word in words:
        if word.partition("=")[0] in SPELLINGS and "=" in word:
            raise UsageError(word.partition("=")[0], "takes no value.", "Write it alone, or leave it out.")


def dry_run(flat: argparse.Namespace, given: Container[str] = ()) -> int:
    """Check the flags and print what the run would do.

    Args:
        flat: the flags.
        given: names of those that were set.

    Returns:
        The exit status: 0, or 1 if it does not fit.

    Raises:
        UsageError: a flag is wrong.
    """
    from openrlhf_sfpo.plan.flags import model_at, planned
    from openrlhf_sfpo.plan.planner import make_plan
    from openrlhf_sfpo.plan.text import as_text, placement_text
    from openrlhf_sfpo.runs import data_check, preflight, resume

    data = data_check.DataCheck(nested(flat), ahead=True)
    print(_to_do(preflight.still_to_do(flat, given, data)))
    directory = Path(vars(flat)["run.dir"])
    if resume.has_finished(directory):
        print(f"{directory} holds this run, and it has finished: nothing to do.")
    _print_data(data)
    if vars(flat)["actor.backend"] == "deepspeed":
        print("\nThe flags are valid. Memory is planned for --actor.backend megatron only.")
        return 0
    model = model_at(vars(flat)["actor.model_name_or_path"])
    if model.warning:
        print(model.warning)
    setup = planned(flat, model)
    plan = make_plan(setup, GPU_MEMORY_GB)
    print(f"\n{placement_text(setup)}\n")
    if setup.cuda:
        here = "" if has_cuda() else ", as this machine has none"
        print(
            f"GPUs of {GPU_MEMORY_GB:g} GiB are assumed{here}; for others: openrlhf-sfpo plan MODEL_DIR "
            "--gpu_memory_gb G, with the same flags.\n"
        )
    print(as_text(plan))
    return 0 if plan.fits else 1


def _print_data(data: "DataCheck") -> None:
    """Print a prompt as the model gets it, and warnings about the data."""
    example = data.example()
    if example:
        print(f"\n{example}")
    for line in data.warnings():
        print(f"warning: {line}")


def _to_do(errors: list[UsageError]) -> str:
    if not errors:
        return "Flags, model, data and reward are valid."
    return "\n".join(["The flags are valid. Still to do:", *(f"  {error}" for error in errors)])
