"""Starts Ray, puts the hooks in place, runs OpenRLHF, and keeps the run directory and the console up to date."""

import argparse
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openrlhf_sfpo.config import SFPOConfig, section
from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.orchestration import events, flash_attn_stub, hooks
from openrlhf_sfpo.orchestration.preflight import for_openrlhf, gpus_needed, nested
from openrlhf_sfpo.report.console import Console, before_and_after
from openrlhf_sfpo.report.reading import read_metrics
from openrlhf_sfpo.report.run_writer import RunWriter

_HOOK = "openrlhf_sfpo.orchestration.worker.setup"


def run(flat: argparse.Namespace, directory: Path) -> int:
    """Train. Flags are checked and the run directory is there.

    Returns:
        The exit status: 0, or 1 if the run failed (what failed is on the console).

    Raises:
        UsageError: Ray has fewer GPUs than the flags ask for.
    """
    args = nested(flat)
    with _quiet(directory / "logs" / "driver.log", args.run.verbose) as stream:
        console = Console(stream, "SFPO" if args.sfpo.preset == "sfpo" else args.sfpo.preset)
        console.say(f"run directory {directory}")
        try:
            device = _start_ray(args)
            _settle(vars(flat), device)
            dtype = vars(flat)["megatron.param_dtype"]
            console.say(f"Ray is up; actor on {device} in {dtype}, {_what_runs(args)}")
            _train(flat, directory, console, device)
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
            console.say(f"the run failed: {_root_cause(error)}")
            console.plain(f"What the libraries printed is in {directory / 'logs'} and {_ray_logs()}.")
            return 1
        finally:
            _stop_ray()


def _train(flat: argparse.Namespace, directory: Path, console: Console, device: str) -> None:
    flash_attn_stub.install_if_missing()
    hooks.check_signatures()
    from openrlhf_sfpo.orchestration.engine import EngineClass, engine_env

    values = vars(flat)
    engine = EngineClass(
        engine_env(device, eager=values["vllm.enforce_eager"], verbose=values["run.verbose"]),
        device=device,
        kv_cache_bytes=values["run.kv_cache_mb"] * 1024 * 1024,
        engine_dtype=values["run.engine_dtype"],
    )
    shown = {key: value for key, value in values.items() if key != "config"}
    if shown.get("logger.wandb.key"):
        shown["logger.wandb.key"] = "(not written down)"
    writer = RunWriter(directory, shown)
    console.say("starting vLLM and loading the model" if not values["rollout.replay_dir"] else "loading the model")
    with _listening(writer, console, _total_steps(values)), hooks.installed(engine):
        hooks.run_openrlhf(for_openrlhf(flat))


def _settle(values: dict[str, Any], device: str) -> None:
    """Fill in the settings that depend on the device.

    Raises:
        UsageError: a bucket of weights does not fit into shared memory.
    """
    cuda = device == "cuda"
    values["megatron.device"] = device
    if values["megatron.param_dtype"] == "auto":
        values["megatron.param_dtype"] = "bf16" if cuda or _cpu_has_bf16() else "fp32"
    if values["run.engine_dtype"] == "auto":
        values["run.engine_dtype"] = "bfloat16" if cuda else "float32"
    for name, value in (
        ("megatron.fp32_residual_connection", not cuda),
        ("megatron.overlap_grad_reduce", cuda),
        ("megatron.overlap_param_gather", cuda),
        ("megatron.log_prob_chunk_size", 1024 if cuda else 64),
    ):
        if values[name] is None:
            values[name] = value
    if not cuda and not values["rollout.replay_dir"]:
        free = shutil.disk_usage("/dev/shm").free // 2**20
        if free < values["megatron.weight_bucket_mb"]:
            raise UsageError(
                "--megatron.weight_bucket_mb",
                f"is {values['megatron.weight_bucket_mb']}, but the weights go to vLLM through /dev/shm, which has "
                f"{free} MB free.",
                "Lower it, or give the container more shared memory (docker run --shm-size=2g).",
            )


@contextmanager
def _listening(writer: RunWriter, console: Console, total_steps: int | None) -> Iterator[None]:
    """Empty the event queue into the run directory and onto the console, until the block ends."""
    import ray
    from ray.util.queue import Queue

    queue = Queue(actor_options={"name": events.NAME, "num_cpus": 0})
    finished = threading.Event()

    def drain() -> None:
        count = ray.get(queue.actor.qsize.remote())
        for event in ray.get(queue.actor.get_nowait_batch.remote(count)) if count else []:
            if event["kind"] == "phase":
                console.phase(event["text"], event.get("long", False))
            line = writer.handle(event)
            if line is not None:
                console.metrics(line, total_steps)

    def listen() -> None:
        while not finished.wait(0.5):
            drain()

    thread = threading.Thread(target=listen, name="events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        drain()
        writer.close()


def _start_ray(args: Any) -> str:
    """Connect to Ray or start it; return the device that the actor runs on.

    Without GPUs Ray is told that there are some ("logical" GPUs), so that OpenRLHF's placement works unchanged.
    """
    import ray

    needed = gpus_needed(args)
    environment = {
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "true"),
        "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
        "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": os.environ.get("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1"),
    }
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": environment, "worker_process_setup_hook": _HOOK},
        "log_to_driver": args.run.verbose,
        "logging_level": "INFO" if args.run.verbose else "ERROR",
    }
    joins = bool(os.environ.get("RAY_ADDRESS"))
    if not joins and args.megatron.device == "cuda" and not _has_cuda():
        raise UsageError("--megatron.device", "is cuda, and this machine has no GPU.", "Use auto, or set RAY_ADDRESS.")
    if not joins and args.megatron.device == "cpu" and _has_cuda():
        raise UsageError(
            "--megatron.device",
            "is cpu on a machine with GPUs.",
            "Use auto, or hide them with CUDA_VISIBLE_DEVICES=''.",
        )
    if not joins and (args.megatron.device == "cpu" or not _has_cuda()):
        cpus = max(os.cpu_count() or 1, needed + 4)
        options.update(num_gpus=needed, num_cpus=cpus, include_dashboard=False, object_store_memory=2**30)
        options["address"] = "local"  # a cluster that happens to run here is left alone
    ray.init(**options)
    resources = ray.cluster_resources()
    available = int(resources.get("GPU", 0))
    if available < needed:
        raise UsageError(
            "--actor.num_gpus_per_node, --ref.num_gpus_per_node, --vllm.num_engines, --vllm.tensor_parallel_size",
            f"ask for {needed} GPUs together, but Ray has {available}.",
            "Ask for fewer, or add nodes to the Ray cluster.",
        )
    if args.megatron.device != "auto":
        return args.megatron.device
    # Ray names the kind of a real GPU in a resource of its own; logical GPUs have none.
    return "cuda" if any(name.startswith("accelerator_type:") for name in resources) else "cpu"


def _stop_ray() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _cpu_has_bf16() -> bool:
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


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
def _quiet(log: Path, verbose: bool) -> Iterator[Any]:
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


def _root_cause(error: BaseException) -> str:
    """The innermost message: Ray wraps what an actor raised, once for every actor that it went through."""
    while getattr(error, "cause", None) is not None or error.__cause__ is not None:
        error = getattr(error, "cause", None) or error.__cause__
    return f"{type(error).__name__}: {error}"


def _ray_logs() -> str:
    import ray

    if not ray.is_initialized():
        return "Ray's session directory"
    return str(Path(ray._private.worker._global_node.get_session_dir_path()) / "logs")
