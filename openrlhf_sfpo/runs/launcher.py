"""One training run of `openrlhf-sfpo train`: console, exit status, failure report."""

import argparse
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from openrlhf_sfpo.checkpoints.directory import PLACE, CheckpointRefused, open_checkpoint
from openrlhf_sfpo.cluster.failures import details, full_text, reason, root_of
from openrlhf_sfpo.cluster.recovery import Repetitions, may_recover
from openrlhf_sfpo.cluster.start import keep_logs
from openrlhf_sfpo.cluster.worker_logs import collect
from openrlhf_sfpo.config.effective_update import has_outer_momentum
from openrlhf_sfpo.config.flag_table import section, settings
from openrlhf_sfpo.config.flags import REFILLING, SFPOConfig
from openrlhf_sfpo.config.namespaces import NestedFlags, nested
from openrlhf_sfpo.config.placement import crowded
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.report.console import Console, before_and_after
from openrlhf_sfpo.report.reading import read_metrics, state_of
from openrlhf_sfpo.report.status import StatusFile
from openrlhf_sfpo.runs import resume
from openrlhf_sfpo.runs.run_data import prepared_rows
from openrlhf_sfpo.runs.session import Session
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import write_atomically
from openrlhf_sfpo.system.run_errors import Stopped
from openrlhf_sfpo.system.stopping import Stopping
from openrlhf_sfpo.system.streams import quiet


def run(flat: argparse.Namespace, directory: Path, stopping: Stopping) -> int:
    """Train, or continue the run in the directory. The flags have been checked, and this process owns the directory.

    Args:
        flat: the flags.
        directory: the run directory.
        stopping: requests to stop, with its handlers installed.

    Returns:
        The exit status: 0; --run.interrupted_exit_status if the run was asked to stop; 130 after Ctrl-C; 1 if it failed
        (the console says why).

    Raises:
        UsageError: Ray has fewer GPUs than the flags ask for, or the flags differ from those of the run in the
            directory.
    """
    with (
        quiet(directory / "logs" / "driver.log", vars(flat)["run.verbose"]) as stream,
        Session(stopping=stopping) as session,
    ):
        return run_in(session, flat, directory, stream)


def run_in(session: Session, flat: argparse.Namespace, directory: Path, stream: TextIO) -> int:
    """`run` inside a session, printing to `stream`."""
    values = vars(flat)
    console = Console(stream, "SFPO" if values["sfpo.preset"] == "sfpo" else values["sfpo.preset"])
    status = StatusFile(directory)
    try:
        console.say(f"run directory {directory}")
        if state_of(status.before) == "died":
            before = status.before
            console.say(
                f"the last process of this run ({before.get('pid')} on {before.get('host')}) died without writing a "
                "final status"
            )
        status.begin()
        _train(session, flat, directory, console, status)
        for sentence in before_and_after(read_metrics(directory)):
            console.say(sentence)
        console.say(f"done: model in {values['ckpt.output_dir']}, plot in {directory / 'curves.png'}")
        return 0
    except UsageError as error:
        root = root_of(error)
        if root is error:
            status.refuse(str(error))
        else:  # found by a worker after the run had begun
            status.end("failed", str(root))
        raise root from None
    except (KeyboardInterrupt, Exception, SystemExit) as error:
        if status.state == "finished" and isinstance(error, KeyboardInterrupt):
            return 0  # the request came too late
        if session.stopping.requested is not None:
            what = _how_it_stopped(error, session.was_training)
            status.end("interrupted", f"{session.stopping.signal_name}: {what}")
            console.say(f"{what}. {_what_continues(values)}")
            return values["run.interrupted_exit_status"]
        if isinstance(error, KeyboardInterrupt):
            status.end("interrupted", "Ctrl-C")
            console.say(f"interrupted. {_what_continues(values)}")
            return 130
        _report_failure(error, directory, console, status)
        return 1


def _report_failure(error: BaseException, directory: Path, console: Console, status: StatusFile) -> None:
    """Report the reason in one line on the console and in status.json, and all details in logs/."""
    why = reason(error)
    status.end("failed", why)
    console.say(f"the run failed: {why}")
    for line in details(error):
        console.plain(line)
    with suppress(OSError):
        write_atomically(directory / "logs" / "failure.txt", full_text(error).encode())
    _collect_logs(directory)
    console.plain(
        f"The whole error is in {directory / 'logs' / 'failure.txt'}; what the libraries printed, in that directory."
    )


def _collect_logs(directory: Path) -> None:
    """Collect the workers' last output, if Ray answers: Ray may be what failed."""

    def copy() -> None:
        with suppress(Exception):
            collect(directory / "logs" / "workers")
        with suppress(Exception):
            keep_logs(directory / "logs" / "ray")

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    thread.join(40)


def _how_it_stopped(error: BaseException, was_training: bool) -> str:
    innermost = root_of(error)
    if isinstance(innermost, Stopped) and innermost.args:
        return str(innermost)
    return "stopped; the step in progress is lost" if was_training else "stopped before training began"


def _what_continues(values: dict[str, Any]) -> str:
    """What the same command will do next time."""
    step = _newest_step(Path(values["ckpt.path"]) / PLACE)
    if step is None:
        return "There is no checkpoint: the same command starts over."
    return f"The same command continues after step {step}."


def _newest_step(root: Path) -> int | None:
    """The step of the newest checkpoint, by its manifest."""
    steps = []
    for path in root.iterdir() if root.is_dir() else []:
        with suppress(CheckpointRefused, OSError):
            steps.append(open_checkpoint(path).step)
    return max(steps, default=None)


def _train(session: Session, flat: argparse.Namespace, directory: Path, console: Console, status: StatusFile) -> None:
    """Train, and restart from the last checkpoint up to --train.max_restarts times."""
    values = vars(flat)
    left = 0 if values["actor.backend"] == "deepspeed" else values["train.max_restarts"]
    repetitions = Repetitions()
    total_steps = _total_steps(values)
    _warn_of_no_checkpoints(values, total_steps, console)
    while True:
        checkpoint = resume.find(values, console.say)
        if checkpoint is not None:
            console.say(f"continuing after step {checkpoint.step}, from {checkpoint.path}")
        elif resume.holds_a_run(directory):
            console.say("there is no checkpoint to continue from: starting over")
        try:
            _prepare(session, flat, console)
            session.train(flat, directory, console, total_steps, checkpoint, status)
            return
        except Exception as error:
            if not left or session.stopping.requested is not None or not may_recover(error):
                raise
            lines = read_metrics(directory)
            if repetitions.again(error, lines[-1]["step"] if lines else 0):
                console.say("the same happened before, and no step was finished since: not restarting")
                raise
            left -= 1
            console.say(reason(error))
            _collect_logs(directory)
            console.say(f"restarting from the last checkpoint ({left} restarts left, --train.max_restarts)")
            session.close()


def _warn_of_no_checkpoints(values: dict[str, Any], total_steps: int | None, console: Console) -> None:
    every = values["ckpt.save_steps"]
    saves_best = values["eval.dataset"] and values["eval.steps"] > 0 and values["ckpt.best_metric_key"] != "none"
    if values["actor.backend"] == "deepspeed" or total_steps == 1 or saves_best:
        return
    if values["ckpt.disable_ds"]:
        console.say("warning: no checkpoints are written (--ckpt.disable_ds): if this run is killed, it starts over")
    elif every < 0 or (total_steps is not None and every >= total_steps):
        chosen = "default" if every < 0 else f"and the run has {total_steps} steps"
        fewer = 10 if total_steps is None or total_steps > 10 else total_steps // 2
        saves = f"saves one every {fewer} steps" if fewer > 1 else "saves one after every step"
        console.say(
            f"warning: no checkpoint is written on the way (--ckpt.save_steps {every}, {chosen}): if this run is "
            f"killed, it starts over. --ckpt.save_steps {fewer} {saves}"
        )


def _prepare(session: Session, flat: argparse.Namespace, console: Console) -> None:
    args = nested(flat)
    follows = session.prepare(flat)
    ready = "reusing the previous run's engines and actors" if follows else "Ray is up"
    dtype = vars(flat)["megatron.param_dtype"]
    console.say(f"{ready}; actor on {session.device} in {dtype}, {_what_runs(args)}")
    warning = crowded(args) if session.device == "cuda" else None
    if warning:
        console.say(warning)
    if not follows:
        console.say("loading the model" if args.rollout.replay_dir else "starting vLLM and loading the model")


def _what_runs(args: NestedFlags) -> str:
    ranks = args.actor.num_nodes * args.actor.num_gpus_per_node
    sfpo = _describe_update(section(SFPOConfig, args.sfpo))
    engines = f"{args.vllm.num_engines or 0} vLLM engine(s)" if not args.rollout.replay_dir else "replayed rollouts"
    return f"{ranks} rank(s) {Layout.of(settings(args)).describe(ranks)}, {engines}, {sfpo}"


def _describe_update(sfpo: SFPOConfig) -> str:
    outer = ""
    if has_outer_momentum(sfpo):
        outer = f", outer momentum {sfpo.outer_momentum:g}, outer learning rate {sfpo.outer_lr:g}"
    if not sfpo.enable or sfpo.k == 0 or sfpo.preset == "grpo":
        return f"GRPO{outer}"
    names = {
        "sfpo": f"SFPO K={sfpo.k} alpha={sfpo.alpha}",
        "prepo": f"PrePO K={sfpo.k} alpha={sfpo.alpha}",
        "grpo_k_passes": f"GRPO with {sfpo.k + 1} passes",
        "grpo_scaled_lr": f"GRPO at {sfpo.k * sfpo.alpha + 1:g} times the learning rate",
        "lookahead": f"Lookahead K={sfpo.k} alpha={sfpo.alpha}, no slow pass",
        "extragradient": f"extragradient K={sfpo.k}",
    }
    return f"{names[sfpo.preset]}{outer}"


def _total_steps(values: dict[str, Any]) -> int | None:
    """The number of rollout batches of the whole run; None if the number of prompts is unknown."""
    if values["rollout.replay_dir"] or any(values[name] for name in REFILLING):
        return None
    rows = prepared_rows(Path(values["run.dir"]))
    if rows is None or values["data.prompt_probs"]:
        return None
    return -(-min(rows, values["data.max_samples"]) // values["rollout.batch_size"]) * values["train.num_episodes"]
