"""Ray with the hooks in place, for one run or for several after each other that share engines and actors."""

import argparse
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from openrlhf_sfpo.orchestration import events, flash_attn_stub, hooks
from openrlhf_sfpo.orchestration.devices import settle, start_ray
from openrlhf_sfpo.orchestration.kept import Kept, can_follow
from openrlhf_sfpo.orchestration.preflight import for_openrlhf, nested
from openrlhf_sfpo.report.console import Console
from openrlhf_sfpo.report.run_writer import RunWriter


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
        self._mailbox: Any = None  # there from the first run's start on, with the hooks

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
            self._device = start_ray(nested(flat))
        self._previous = asked
        settle(vars(flat), self._device)
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
            with _listening(self._mailbox, writer, console, total_steps):
                hooks.run_openrlhf(for_openrlhf(flat))
        except BaseException as error:
            self._previous = None  # its workers may be in any state
            writer.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", root_cause(error))
            raise
        writer.close("finished")

    def close(self) -> None:
        """Stop the workers and Ray, if it was started here."""
        self._previous = None
        self._mailbox = None
        self._stack.close()

    def _install_hooks(self, values: dict[str, Any]) -> None:
        if self._mailbox is not None:
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
        kept = Kept() if self._keep else None
        self._stack.enter_context(hooks.installed(values["actor.backend"], engine, kept))
        self._mailbox = self._stack.enter_context(events.mailbox())


def root_cause(error: BaseException) -> str:
    """The innermost message: Ray wraps what an actor raised, once for every actor that it went through."""
    while getattr(error, "cause", None) is not None or error.__cause__ is not None:
        error = getattr(error, "cause", None) or error.__cause__
    return f"{type(error).__name__}: {error}"


@contextmanager
def _listening(mailbox: Any, writer: RunWriter, console: Console, total_steps: int | None) -> Iterator[None]:
    """Empty the mailbox into the run directory and onto the console, until the block ends."""
    import ray

    finished = threading.Event()
    ray.get(mailbox.take.remote())  # what the run before said after its end

    def drain() -> None:
        for event in ray.get(mailbox.take.remote()):
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


def _stop_ray() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
