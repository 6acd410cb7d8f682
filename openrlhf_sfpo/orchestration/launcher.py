"""One training run as `openrlhf-sfpo train` starts it: console, exit status, and what is said about it."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openrlhf_sfpo.config import SFPOConfig, section
from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.orchestration.preflight import nested
from openrlhf_sfpo.orchestration.session import Session, root_cause
from openrlhf_sfpo.report.console import Console, before_and_after
from openrlhf_sfpo.report.reading import read_metrics


def run(flat: argparse.Namespace, directory: Path) -> int:
    """Train. Flags are checked and the run directory is there.

    Returns:
        The exit status: 0, or 1 if the run failed (what failed is on the console).

    Raises:
        UsageError: Ray has fewer GPUs than the flags ask for.
    """
    with quiet(directory / "logs" / "driver.log", vars(flat)["run.verbose"]) as stream, Session() as session:
        return run_in(session, flat, directory, stream)


def run_in(session: Session, flat: argparse.Namespace, directory: Path, stream: Any) -> int:
    """`run` inside a session, printing to `stream`."""
    args = nested(flat)
    console = Console(stream, "SFPO" if args.sfpo.preset == "sfpo" else args.sfpo.preset)
    console.say(f"run directory {directory}")
    try:
        follows = session.prepare(flat)
        ready = "engines and actors are those of the run before" if follows else "Ray is up"
        dtype = vars(flat)["megatron.param_dtype"]
        console.say(f"{ready}; actor on {session.device} in {dtype}, {_what_runs(args)}")
        if not follows:
            console.say("loading the model" if args.rollout.replay_dir else "starting vLLM and loading the model")
        session.train(flat, directory, console, _total_steps(vars(flat)))
        for sentence in before_and_after(read_metrics(directory)):
            console.say(sentence)
        console.say(f"done: model in {vars(flat)['ckpt.output_dir']}, plot in {directory / 'curves.png'}")
        return 0
    except UsageError:
        raise
    except KeyboardInterrupt:
        console.say("interrupted")
        return 130
    except Exception as error:
        console.say(f"the run failed: {root_cause(error)}")
        console.plain(f"What the libraries printed is in {directory / 'logs'} and {_ray_logs()}.")
        return 1


def _what_runs(args: Any) -> str:
    ranks = args.actor.num_nodes * args.actor.num_gpus_per_node
    m = args.megatron
    tp, pp, vpp = (
        m.tensor_model_parallel_size,
        m.pipeline_model_parallel_size,
        m.virtual_pipeline_model_parallel_size,
    )
    sfpo = _update_in_words(section(SFPOConfig, args.sfpo))
    interleaved = f" VPP={vpp}" if vpp > 1 else ""
    engines = f"{args.vllm.num_engines or 0} vLLM engine(s)" if not args.rollout.replay_dir else "replayed rollouts"
    return f"{ranks} rank(s) TP={tp} PP={pp}{interleaved} DP={ranks // (tp * pp)}, {engines}, {sfpo}"


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
    rows = sum(sum(1 for line in path.open() if line.strip()) for path in paths)
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
    with log.open("a") as file:
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
