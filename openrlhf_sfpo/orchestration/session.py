"""Ray with the hooks in place, for one run or for several after each other that share engines and actors."""

import _thread
import argparse
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from openrlhf_sfpo.checkpoints.directory import Checkpoint
from openrlhf_sfpo.errors import StepHung
from openrlhf_sfpo.orchestration import events, flash_attn_stub, hooks
from openrlhf_sfpo.orchestration.devices import settle, start_ray
from openrlhf_sfpo.orchestration.kept import Kept, can_follow
from openrlhf_sfpo.orchestration.nodes import on_node
from openrlhf_sfpo.orchestration.preflight import for_openrlhf, nested
from openrlhf_sfpo.orchestration.resume import as_asked
from openrlhf_sfpo.orchestration.watchdog import Watchdog
from openrlhf_sfpo.placement import engines_share_gpus
from openrlhf_sfpo.report.console import Console
from openrlhf_sfpo.report.run_writer import RunWriter


class Session:
    """A context manager around runs.

    Args:
        keep: let a run have the engines and actors of the run before it where its flags allow that, with their
            weights, optimizers and random numbers reset.
        ends_on_sigterm: have SIGTERM, from Slurm or Kubernetes before the machine is taken away, end the run with a
            checkpoint; for the main thread of a process with one run.
    """

    def __init__(self, keep: bool = False, ends_on_sigterm: bool = False) -> None:
        self._keep = keep
        self._ends_on_sigterm = ends_on_sigterm
        self._stack = ExitStack()
        self._previous: dict[str, Any] | None = None
        self._device = ""
        self._asked_to_end: float | None = None
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
            flash_attn_stub.install_if_missing()
            with ThreadPoolExecutor(1) as thread:  # both take seconds, and Ray's are other processes'
                checked = thread.submit(hooks.check_signatures)
                self._device = start_ray(nested(flat))
            checked.result()
        self._previous = asked
        settle(vars(flat), self._device)
        return follows

    @property
    def device(self) -> str:
        """Where the actor runs, "cpu" or "cuda", after `prepare`."""
        return self._device

    def ask_to_end(self) -> None:
        """Have the run end as soon as nothing is lost by it, and in --train.grace_seconds in any case. Does nothing
        itself, so that a signal's handler may call it."""
        if self._asked_to_end is None:
            self._asked_to_end = time.monotonic()

    @property
    def asked_to_end(self) -> float | None:
        """When `ask_to_end` was called, on the monotonic clock; None if it was not."""
        return self._asked_to_end

    def train(
        self,
        flat: argparse.Namespace,
        directory: Path,
        console: Console,
        total_steps: int | None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Run what `prepare` prepared. Whatever OpenRLHF and its workers raise comes through; then nothing is kept.

        Args:
            flat: the flags.
            directory: the run directory.
            console: for progress.
            total_steps: of the whole run, if known.
            checkpoint: what the run continues from.

        Raises:
            StepHung: no rank made progress for --train.timeout.
        """
        values = vars(flat)
        writer = RunWriter(directory, as_asked(values), checkpoint.step if checkpoint else 0)
        listener = None
        try:
            self._install_hooks(values)
            watchdog = Watchdog(values["train.timeout"], directory / "logs" / "stacks.txt", stack_of)
            listener = _Listener(self, watchdog, writer, console, total_steps, values["train.grace_seconds"])
            with self._handling_sigterm(), listener.listening(self._mailbox):
                hooks.run_openrlhf(for_openrlhf(flat, checkpoint))
        except BaseException as error:
            self._previous = None  # its workers may be in any state
            hung = listener.hung if listener else None
            ended = self.asked_to_end is not None or isinstance(error, KeyboardInterrupt)
            writer.close("interrupted" if ended else "failed", hung or root_cause(error))
            if hung:
                raise StepHung(hung) from None
            raise
        writer.close("finished")

    @contextmanager
    def _handling_sigterm(self) -> Iterator[None]:
        if not self._ends_on_sigterm:
            yield
            return
        # Ray has put a handler there that exits at once.
        before = signal.signal(signal.SIGTERM, lambda number, frame: self.ask_to_end())
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def close(self) -> None:
        """Stop the workers and Ray, if it was started here."""
        self._previous = None
        self._mailbox = None
        self._stack.close()

    def _install_hooks(self, values: dict[str, Any]) -> None:
        if self._mailbox is not None:
            return
        from openrlhf_sfpo.orchestration.engine import EngineClass, engine_env
        from openrlhf_sfpo.rollout.weight_sync import backend_for

        engine = EngineClass(
            engine_env(self._device, eager=values["vllm.enforce_eager"], verbose=values["run.verbose"]),
            device=self._device,
            weight_backend=backend_for(self._device, engines_share_gpus(nested(argparse.Namespace(**values)))),
            sleep_level=values["vllm.sleep_level"],
            kv_cache_bytes=values["run.kv_cache_mb"] * 1024 * 1024,
            engine_dtype=values["run.engine_dtype"],
            response_seed=values["train.seed"] if values["rollout.deterministic"] else None,
            finite_rewards=False,  # our trainer looks at them
        )
        kept = Kept() if self._keep else None
        self._stack.enter_context(hooks.installed(values["actor.backend"], engine, kept))
        self._mailbox = self._stack.enter_context(events.mailbox())


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was made from: Ray wraps what an actor raised, once for every actor on its way."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = getattr(found, "cause", None) or found.__cause__


def root_cause(error: BaseException) -> str:
    """The innermost message."""
    *_, innermost = causes(error)
    return f"{type(innermost).__name__}: {innermost}"


class _Listener:
    """Empties the mailbox into the run directory and onto the console, and ends the run when it hangs or was asked to
    end and does not.

    Attributes:
        hung: what the watchdog said, once it said something.
    """

    def __init__(
        self,
        session: Session,
        watchdog: Watchdog,
        writer: RunWriter,
        console: Console,
        total_steps: int | None,
        grace_seconds: float,
    ) -> None:
        self.hung: str | None = None
        self._session, self._watchdog, self._writer, self._console = session, watchdog, writer, console
        self._total_steps, self._grace_seconds = total_steps, grace_seconds
        self._problem: str | None = None
        self._told = False

    @contextmanager
    def listening(self, mailbox: Any) -> Iterator[None]:
        """Listen, in a thread, until the block ends."""
        import ray

        finished = threading.Event()
        ray.get(mailbox.begin.remote())  # what the run before said after its end

        def listen() -> None:
            while not finished.wait(0.5):
                self._listen(mailbox)

        thread = threading.Thread(target=listen, name="events", daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()
            with suppress(ray.exceptions.RayError):  # what the run failed of matters more than its last words
                self._take(mailbox)

    def _listen(self, mailbox: Any) -> None:
        self._take(mailbox)
        asked = self._session.asked_to_end
        if asked is not None:
            self._end(mailbox, asked)
        if self.hung is None:
            self.hung = self._watchdog.verdict()
            if self.hung is not None:
                end_workers(mailbox)

    def _take(self, mailbox: Any) -> None:
        import ray

        events, beats = ray.get(mailbox.take.remote())
        self._watchdog.hear(beats)
        for event in events:
            self._show(event)
            line = self._writer.handle(event)
            if line is not None:
                self._console.metrics(line, self._total_steps)
        problem = self._writer.problem
        if problem is not None and problem != self._problem:
            self._console.say(
                f"warning: {self._writer.directory} cannot be written ({problem}); the run goes on, and what is to be "
                "written there is kept until it can be"
            )
        self._problem = problem

    def _show(self, event: dict[str, Any]) -> None:
        if event["kind"] == "phase":
            self._console.phase(event["text"], event.get("long", False))
        elif event["kind"] == "notice":
            self._console.say(event["text"])
        elif event["kind"] == "checkpoint":
            self._console.checkpoint(event)

    def _end(self, mailbox: Any, asked: float) -> None:
        if not self._told:
            self._told = True
            self._console.say(f"asked to end: a checkpoint follows, within {self._grace_seconds:.0f} s")
            mailbox.request_stop.remote()
        elif time.monotonic() - asked > self._grace_seconds:
            end_workers(mailbox)
            _thread.interrupt_main()


def end_workers(mailbox: Any) -> None:
    """Kill the trainer and the policy's ranks, whatever they are at, so that who waits for them need not."""
    import ray

    for role in ("trainer", "policy"):
        for worker in events.workers(mailbox, role):
            ray.kill(worker)


def stack_of(rank: int, beat: dict[str, Any]) -> str:
    """The stack of a process that does not answer, by py-spy on its machine.

    Args:
        rank: whose it is.
        beat: the last one.
    """
    try:
        return on_node(beat["node"], _py_spy, beat["pid"])
    except Exception as error:  # it is only for the reader; the run ends in any case
        return f"not to be had ({type(error).__name__}: {error})"


def _py_spy(process: int) -> str:
    import subprocess
    import sys

    # --nonblocking: a process that was stopped stays as it is.
    command = [str(Path(sys.executable).with_name("py-spy")), "dump", "--nonblocking", "--pid", str(process)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, encoding="utf-8", errors="replace")
    return done.stdout or f"py-spy could not read it: {done.stderr.strip()}"


def _stop_ray() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
