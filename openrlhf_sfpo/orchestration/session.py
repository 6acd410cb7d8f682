"""Ray with the hooks in place, for one run or for several after each other that share engines and actors."""

import argparse
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from openrlhf_sfpo.cpus import usable_cpus
from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.orchestration import events, flash_attn_stub, hooks
from openrlhf_sfpo.orchestration.kept import Kept, can_follow
from openrlhf_sfpo.orchestration.preflight import for_openrlhf, gpus_needed, nested
from openrlhf_sfpo.report.console import Console
from openrlhf_sfpo.report.run_writer import RunWriter

_WORKER_SETUP = "openrlhf_sfpo.orchestration.worker.setup"


class Session:
    """A context manager around runs.

    Args:
        keep: let a run have the engines and actors of the run before it where its flags allow that, with their
            weights, optimizers and random numbers reset.
    """

    def __init__(self, keep: bool = False) -> None:
        self._keep = keep
        self._stack = ExitStack()
        self._previous: dict[str, Any] | None = None
        self._device = ""
        self._installed = False
        self._queue: Any = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def prepare(self, flat: argparse.Namespace) -> bool:
        """Have Ray up for a run, and fill in the flags that depend on the device.

        Returns:
            Whether the run has the engines and actors of the one before.

        Raises:
            UsageError: Ray has fewer GPUs than the flags ask for, or the device does not fit.
        """
        asked = dict(vars(flat))
        follows = self._keep and self._previous is not None and can_follow(self._previous, asked)
        if not follows:
            self.close()
            self._stack.callback(_stop_ray)
            self._device = _start_ray(nested(flat))
        self._previous = asked
        _settle(vars(flat), self._device)
        return follows

    @property
    def device(self) -> str:
        """Where the actor runs, "cpu" or "cuda", after `prepare`."""
        return self._device

    def train(self, flat: argparse.Namespace, directory: Path, console: Console, total_steps: int | None) -> None:
        """Run what `prepare` prepared. Whatever OpenRLHF and its workers raise comes through; then nothing is kept."""
        values = vars(flat)
        shown = {key: value for key, value in values.items() if key != "config"}
        if shown.get("logger.wandb.key"):
            shown["logger.wandb.key"] = "(not written down)"
        writer = RunWriter(directory, shown)
        try:
            self._install_hooks(values)
            with _listening(self._queue, writer, console, total_steps):
                hooks.run_openrlhf(for_openrlhf(flat))
        except BaseException as error:
            self._previous = None  # its workers may be in any state
            writer.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", root_cause(error))
            raise
        writer.close("finished")

    def close(self) -> None:
        """Stop the workers and Ray, if it was started here."""
        self._previous = None
        self._installed = False
        self._stack.close()

    def _install_hooks(self, values: dict[str, Any]) -> None:
        if self._installed:
            return
        flash_attn_stub.install_if_missing()
        hooks.check_signatures()
        from openrlhf_sfpo.orchestration.engine import EngineClass, engine_env

        engine = EngineClass(
            engine_env(self._device, eager=values["vllm.enforce_eager"], verbose=values["run.verbose"]),
            device=self._device,
            kv_cache_bytes=values["run.kv_cache_mb"] * 1024 * 1024,
            engine_dtype=values["run.engine_dtype"],
            response_seed=values["train.seed"] if values["rollout.deterministic"] else None,
        )
        self._stack.enter_context(hooks.installed(engine, Kept() if self._keep else None))
        self._queue = self._stack.enter_context(_queue())
        self._installed = True


def root_cause(error: BaseException) -> str:
    """The innermost message: Ray wraps what an actor raised, once for every actor that it went through."""
    while getattr(error, "cause", None) is not None or error.__cause__ is not None:
        error = getattr(error, "cause", None) or error.__cause__
    return f"{type(error).__name__}: {error}"


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
def _queue() -> Iterator[Any]:
    """The queue that the workers' events go through."""
    from ray.util.queue import Queue

    queue = Queue(actor_options={"name": events.NAME, "num_cpus": 0})
    try:
        yield queue
    finally:
        queue.shutdown(force=True)  # frees the name for the next session's queue


def _waiting(queue: Any) -> list[dict[str, Any]]:
    """Take the events that are in the queue."""
    import ray

    count = ray.get(queue.actor.qsize.remote())
    return ray.get(queue.actor.get_nowait_batch.remote(count)) if count else []


@contextmanager
def _listening(queue: Any, writer: RunWriter, console: Console, total_steps: int | None) -> Iterator[None]:
    """Empty the queue into the run directory and onto the console, until the block ends."""
    finished = threading.Event()
    _waiting(queue)  # what the run before said after its end

    def drain() -> None:
        for event in _waiting(queue):
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
        "runtime_env": {"env_vars": environment, "worker_process_setup_hook": _WORKER_SETUP},
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
        cpus = max(usable_cpus(), needed + 4)
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
