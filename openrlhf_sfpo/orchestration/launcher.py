"""One training run as `openrlhf-sfpo train` starts it: console, exit status, and what is said about it."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openrlhf_sfpo.config import SFPOConfig, section
from openrlhf_sfpo.errors import StepHung, Stopped, UsageError, WeightSyncFailed
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.orchestration import resume
from openrlhf_sfpo.orchestration.preflight import nested
from openrlhf_sfpo.orchestration.session import Session, causes, root_cause
from openrlhf_sfpo.placement import crowded
from openrlhf_sfpo.report.console import Console, before_and_after
from openrlhf_sfpo.report.reading import read_metrics


def run(flat: argparse.Namespace, directory: Path) -> int:
    """Train, or go on with the run that the directory holds. Flags are checked and the directory is this process's.

    Returns:
        The exit status: 0, also where the run was asked to end, or 1 if it failed (what failed is on the console).

    Raises:
        UsageError: Ray has fewer GPUs than the flags ask for, or they are not those of the run in the directory.
    """
    with (
        quiet(directory / "logs" / "driver.log", vars(flat)["run.verbose"]) as stream,
        Session(ends_on_sigterm=True) as session,
    ):
        return run_in(session, flat, directory, stream)


def run_in(session: Session, flat: argparse.Namespace, directory: Path, stream: Any) -> int:
    """`run` inside a session, printing to `stream`."""
    values = vars(flat)
    console = Console(stream, "SFPO" if values["sfpo.preset"] == "sfpo" else values["sfpo.preset"])
    console.say(f"run directory {directory}")
    try:
        _train(session, flat, directory, console)
        for sentence in before_and_after(read_metrics(directory)):
            console.say(sentence)
        console.say(f"done: model in {values['ckpt.output_dir']}, plot in {directory / 'curves.png'}")
        return 0
    except UsageError:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if session.asked_to_end is not None:
            *_, innermost = causes(error)
            what = str(innermost) if isinstance(innermost, Stopped) else "asked to end; the step in progress is lost"
            console.say(f"{what}. The same command goes on from the last checkpoint.")
            return 0
        if isinstance(error, KeyboardInterrupt):
            console.say("interrupted")
            return 130
        console.say(f"the run failed: {root_cause(error)}")
        console.plain(f"What the libraries printed is in {directory / 'logs'} and {_ray_logs()}.")
        return 1


def _train(session: Session, flat: argparse.Namespace, directory: Path, console: Console) -> None:
    """Train, and start again from the last checkpoint as often as --train.max_restarts says."""
    values = vars(flat)
    left = 0 if values["actor.backend"] == "deepspeed" else values["train.max_restarts"]
    while True:
        checkpoint = resume.find(values, console.say)
        if checkpoint is not None:
            console.say(f"going on after step {checkpoint.step}, from {checkpoint.path}")
        elif resume.holds_a_run(directory):
            console.say("there is no checkpoint to go on from: beginning again")
        _prepare(session, flat, console)
        try:
            session.train(flat, directory, console, _total_steps(values), checkpoint)
            return
        except Exception as error:
            if not left or session.asked_to_end is not None or not is_passing(error):
                raise
            left -= 1
            console.say(root_cause(error))
            console.say(f"starting again from the last checkpoint ({left} restarts left, --train.max_restarts)")
            session.close()


def _prepare(session: Session, flat: argparse.Namespace, console: Console) -> None:
    args = nested(flat)
    follows = session.prepare(flat)
    ready = "engines and actors are those of the run before" if follows else "Ray is up"
    dtype = vars(flat)["megatron.param_dtype"]
    console.say(f"{ready}; actor on {session.device} in {dtype}, {_what_runs(args)}")
    warning = crowded(args) if session.device == "cuda" else None
    if warning:
        console.say(warning)
    if not follows:
        console.say("loading the model" if args.rollout.replay_dir else "starting vLLM and loading the model")


def is_passing(error: BaseException) -> bool:
    """Whether a failure is one of a process, a machine or a connection, and not of the program or its data."""
    import ray
    import torch

    kinds = (
        StepHung,
        WeightSyncFailed,
        ray.exceptions.RayActorError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
        torch.distributed.DistError,
    )
    for cause in causes(error):
        if isinstance(cause, kinds):
            return True
        # gloo reports a peer that is gone as a plain RuntimeError.
        if type(cause) is RuntimeError and any(word in str(cause) for word in _CONNECTION_LOST):
            return True
    return False


_CONNECTION_LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL")


def _what_runs(args: Any) -> str:
    ranks = args.actor.num_nodes * args.actor.num_gpus_per_node
    sfpo = _update_in_words(section(SFPOConfig, args.sfpo))
    engines = f"{args.vllm.num_engines or 0} vLLM engine(s)" if not args.rollout.replay_dir else "replayed rollouts"
    return f"{ranks} rank(s) {Layout.of(args.megatron).in_words(ranks)}, {engines}, {sfpo}"


def _update_in_words(sfpo: SFPOConfig) -> str:
    if not sfpo.enable or sfpo.k == 0 or sfpo.preset == "grpo":
        return "GRPO"
    return {
        "sfpo": f"SFPO K={sfpo.k} alpha={sfpo.alpha}",
        "grpo_k_passes": f"GRPO with {sfpo.k + 1} passes",
        "grpo_scaled_lr": f"GRPO at {sfpo.k * sfpo.alpha + 1:g} times the learning rate",
        "lookahead": f"Lookahead K={sfpo.k} alpha={sfpo.alpha}, no slow pass",
        "extragradient": f"extragradient K={sfpo.k}",
    }[sfpo.preset]


def _total_steps(values: dict[str, Any]) -> int | None:
    """Rollout batches of the whole run, if the data is in files whose rows can be counted."""
    if values["rollout.replay_dir"] or values["algo.dynamic_filtering_enable"]:
        return None
    paths = [Path(part) for part in values["data.prompt_dataset"].split(",")]
    if not all(path.suffix == ".jsonl" and path.is_file() for path in paths):
        return None
    rows = sum(sum(1 for line in path.open(encoding="utf-8") if line.strip()) for path in paths)
    return -(-min(rows, values["data.max_samples"]) // values["rollout.batch_size"]) * values["train.num_episodes"]


@contextmanager
def quiet(log: Path, verbose: bool) -> Iterator[Any]:
    """Send everything that this process prints to a file, and give back a stream to the real output.

    File descriptors are redirected, because much of the noise comes from libraries written in C++.
    """
    if verbose:
        yield sys.stdout
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    stream = os.fdopen(os.dup(saved[0]), "w", encoding="utf-8")
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield stream
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)
        stream.close()


def _ray_logs() -> str:
    import ray

    if not ray.is_initialized():
        return "Ray's session directory"
    return str(Path(ray._private.worker._global_node.get_session_dir_path()) / "logs")
