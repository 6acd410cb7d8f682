"""Everything that can be checked before a model is loaded or a GPU is taken."""

import argparse
import itertools
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path

from openrlhf_sfpo.cluster import address as ray_cluster
from openrlhf_sfpo.config.checks import check_flags
from openrlhf_sfpo.config.namespaces import NestedFlags, nested
from openrlhf_sfpo.config.openrlhf_flags import MODEL_FLAG
from openrlhf_sfpo.orchestration import hooks, model_checks
from openrlhf_sfpo.rollout.recording import load_rollouts, record_files
from openrlhf_sfpo.runs import data_check, resume, run_data
from openrlhf_sfpo.runs import paths as places
from openrlhf_sfpo.runs.batch_check import check_batches
from openrlhf_sfpo.runs.reward_check import check_rewards, try_rewards
from openrlhf_sfpo.system.errors import NotThere, UsageError
from openrlhf_sfpo.system.files import check_writable
from openrlhf_sfpo.system.home import check_caches
from openrlhf_sfpo.system.search_path import check_packages
from openrlhf_sfpo.tasks.tokenizers import check_model_code


def check(flat: argparse.Namespace, given: Container[str] = ()) -> data_check.DataCheck:
    """Check flags, OpenRLHF's version, model, layout, reward, data, tokenizer and run directory; write nothing.

    Args:
        flat: the flags.
        given: names of those that were set.

    Returns:
        The checked data.

    Raises:
        UsageError: for the first problem.
    """
    flat = _with_places(flat, given)
    data = data_check.DataCheck(nested(flat))
    for step in _steps(flat, given, data):
        step()
    return data


def still_to_do(
    flat: argparse.Namespace, given: Container[str] = (), data: data_check.DataCheck | None = None
) -> list[UsageError]:
    """Like `check`, for a command line that is not being run: return what must exist or be created before the run,
    instead of raising for the first such thing. Writes nothing, not even a probe.

    Args:
        flat: the flags.
        given: names of those that were set.
        data: checks the data; created for these flags with `ahead`.

    Raises:
        UsageError: for the first flag that is wrong.
    """
    found: list[UsageError] = []
    flat = _with_places(flat, given)
    for step in _steps(flat, given, data or data_check.DataCheck(nested(flat), ahead=True), probe=False):
        try:
            step()
        except UsageError as error:
            if not isinstance(error, NotThere) and step.func is not _check_writable:
                raise
            if str(error) not in map(str, found):  # several steps need the same file
                found.append(error)
    return found


def _with_places(flat: argparse.Namespace, given: Container[str]) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(flat), **places.places(vars(flat)["run.dir"], given)})


def _steps(
    flat: argparse.Namespace, given: Container[str], data: data_check.DataCheck, probe: bool = True
) -> Iterator[partial[None] | partial[ray_cluster.Cluster | None]]:
    """The checks, in order. `probe`: try directories by writing to them."""
    args = nested(flat)
    yield partial(check_packages)
    yield partial(_check_given, args)
    yield partial(check_caches)
    yield partial(ray_cluster.check_cluster, args.run.allow_open_ray)
    yield partial(check_flags, args)
    yield partial(_check_rewards, args)
    yield partial(data.flags)
    yield partial(data.rows, data_check.PROMPTS, args.data.prompt_dataset)
    yield partial(data.rows, data_check.EVAL, args.eval.dataset)
    yield partial(check_batches, args, data, given)
    yield partial(_check_writable, args, probe)
    yield partial(resume.check_continues, vars(flat))
    yield partial(places.check_free, vars(flat))
    yield partial(model_checks.check_directory, args)
    yield partial(resume.check_start, vars(flat))
    yield partial(_check_code, args, probe)
    yield partial(model_checks.check_layout, args)
    yield partial(model_checks.check_against_config, args)
    yield partial(model_checks.check_engine_limits, args)
    yield partial(model_checks.check_compiled_operators, args)
    yield partial(data.tokenizer)  # loading it takes seconds
    yield partial(try_rewards, args, data)


def _check_given(args: NestedFlags) -> None:
    hooks.check_version()
    if not args.actor.model_name_or_path:
        raise UsageError(MODEL_FLAG, "is not given.", "Give a Hugging Face model directory.")
    if not args.data.prompt_dataset:
        raise UsageError(
            "--data.prompt_dataset", "is not given.", "Give a file, a Hugging Face name or reasoning_gym:NAME."
        )


def _check_rewards(args: NestedFlags) -> None:
    if args.rollout.replay_dir:
        _check_recording(args)
    check_rewards(args)


def _check_recording(args: NestedFlags) -> None:
    """Check the recording's first batch against the flag for samples per prompt."""
    first = load_rollouts(record_files(args.rollout.replay_dir)[0])
    runs = [len(list(group)) for _, group in itertools.groupby(record.prompt for record in first)]
    asked, recorded = args.rollout.n_samples_per_prompt, min(runs)
    if recorded != asked:
        raise UsageError(
            "--rollout.n_samples_per_prompt",
            f"is {asked}, but {args.rollout.replay_dir} was recorded with {recorded}.",
            f"Use {recorded}.",
        )


def _check_code(args: NestedFlags, download: bool) -> None:
    """Refuse a model with code of its own, unless a flag allows it."""
    model, allowed = args.actor.model_name_or_path, args.actor.trust_remote_code
    is_name = args.actor.backend == "deepspeed"  # or it may be a name on the Hub
    check_model_code(MODEL_FLAG, model, data_check.CODE_FLAG, allowed, download and is_name)


def _check_writable(args: NestedFlags, probe: bool) -> None:
    """Check the directories that the run writes to; without this, an error may only surface hours later."""
    for flag, place in (
        ("--run.dir", args.run.dir),
        ("--ckpt.path", args.ckpt.path),
        ("--ckpt.output_dir", args.ckpt.output_dir),
        ("--logger.tensorboard_dir", args.logger.tensorboard_dir),
        ("--rollout.record_dir", args.rollout.record_dir),
    ):
        if place:
            check_writable(flag, Path(place), probe)


def prepare(flat: argparse.Namespace, given: set[str]) -> Path:
    """Create the run directory, write the data sets into it, and fill in the defaults that depend on it.

    Args:
        flat: the flags; changed in place.
        given: names of the flags that the user set.

    Returns:
        The run directory.

    Raises:
        UsageError: for the first row of the data that is wrong.
    """
    values = vars(flat)
    directory = Path(values["run.dir"]).absolute()
    values["run.dir"] = str(directory)
    (directory / "logs").mkdir(parents=True, exist_ok=True)
    values |= places.places(directory, given)
    Path(values["ckpt.path"]).mkdir(parents=True, exist_ok=True)
    run_data.prepare(nested(flat), directory / "data")  # does not change the flags
    return directory
