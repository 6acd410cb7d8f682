"""Passes the workers' messages to the run directory and the console, and ends a run that hangs or does not stop when
asked to."""

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.cluster import mailbox as events
from openrlhf_sfpo.cluster.nodes import kill_on, on_node
from openrlhf_sfpo.cluster.watchdog import Watchdog
from openrlhf_sfpo.orchestration.engine_starts import EngineStarts
from openrlhf_sfpo.report.console import Console
from openrlhf_sfpo.report.run_writer import RunWriter
from openrlhf_sfpo.system.run_errors import WorkerLost
from openrlhf_sfpo.system.stopping import Stopping

if TYPE_CHECKING:
    from ray.actor import ActorHandle

_DEAF = 300.0  # seconds without an answer after which the mailbox counts as lost
_PATIENCE = 15.0  # seconds after which the main thread is interrupted again


class Listener:
    """Listens to one run, in a thread of its own. The thread survives all errors, because the run's guarantees depend
    on it.

    Args:
        watchdog: tracks the ranks.
        writer: writes the run directory.
        console: prints progress.
        stopping: whether the run was asked to stop.
        total_steps: the whole run's number of steps, if known.
        grace_seconds: --train.grace_seconds.
        continues_after: the step of the checkpoint that the run continues from, 0 for none.
        asynchronous: --train.async_enable: rollouts and updates overlap.

    Attributes:
        hung: the watchdog's report, if there is one.
        lost: set once the mailbox is gone.
        starts: tracks the engines' starts.
        training: whether the workers are up, and the first rollout or evaluation has begun.
    """

    def __init__(
        self,
        watchdog: Watchdog,
        writer: RunWriter,
        console: Console,
        stopping: Stopping,
        total_steps: int | None,
        grace_seconds: float,
        continues_after: int = 0,
        asynchronous: bool = False,
    ) -> None:
        self.hung: str | None = None
        self.lost: WorkerLost | None = None
        self.starts = EngineStarts(writer.directory / "logs")
        self._watchdog, self._writer, self._console, self._stopping = watchdog, writer, console, stopping
        self._total_steps, self._grace_seconds = total_steps, grace_seconds
        self._asynchronous = asynchronous
        self.training = False
        self._phase = ""
        self._step = self._saved = continues_after
        self._problem: str | None = None
        self._answer: Any = None
        self._told = self._killed = False
        self._interrupt_at = 0.0
        self._heard = time.monotonic()

    @contextmanager
    def listening(self, mailbox: "ActorHandle", is_new: bool = False) -> Iterator[None]:
        """Listen until the block ends.

        Args:
            mailbox: the mailbox that the workers write to.
            is_new: no run has used it yet. Its process takes seconds to start, which is not waited for.
        """
        import ray

        finished = threading.Event()
        if not is_new:
            ray.get(mailbox.begin.remote())  # discard the previous run's late messages

        def listen() -> None:
            while not finished.wait(0.5):
                try:
                    self._listen(mailbox)
                except Exception:
                    traceback.print_exc(file=sys.stderr)  # goes to the run's logs

        thread = threading.Thread(target=listen, name="events", daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()
            with suppress(Exception):  # the run's own failure matters more than its last messages
                if self._answer is not None:  # to a request from before the end
                    self._take(mailbox, 30.0)
                self._take(mailbox, 30.0)

    def _listen(self, mailbox: "ActorHandle") -> None:
        import ray

        try:
            if self._take(mailbox, 1.0):
                self._heard = time.monotonic()
        except ray.exceptions.RayError:
            pass
        if time.monotonic() - self._heard > _DEAF:
            self._mailbox_is_lost()
        for line in self.starts.progress():
            self._console.say(line)
        if self._stopping.requested is not None:
            self._stop(mailbox, self._stopping.requested)
        if self.hung is None:
            self.hung = self._watchdog.verdict()
            if self.hung is not None:
                self._end_workers(mailbox)

    def _take(self, mailbox: "ActorHandle", wait: float) -> bool:
        """Fetch the mailbox's content; return whether it answered. A late answer is used the next time, because its
        messages have already been removed from the mailbox."""
        import ray

        if self._answer is None:
            self._answer = mailbox.take.remote()
        if not ray.wait([self._answer], timeout=wait)[0]:
            return False
        answer, self._answer = self._answer, None
        events, beats = ray.get(answer)
        self._watchdog.hear(beats)
        for event in events:
            try:
                self._handle(event)
            except Exception:  # one event that cannot be shown must not hide the others
                traceback.print_exc(file=sys.stderr)
        problem = self._writer.problem
        if problem is not None and problem != self._problem:
            self._console.say(
                f"warning: cannot write to {self._writer.directory} ({problem}); training continues, and the lines are "
                "kept until they can be written"
            )
        self._problem = problem
        return True

    def _mailbox_is_lost(self) -> None:
        """End the run, which then restarts: without the mailbox, nothing is written and no hang is detected."""
        self.lost = WorkerLost(f"the process that passes on the workers' messages has been gone for {_DEAF:.0f} s")
        self._interrupt()

    def _handle(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "phase":
            self._phase = event["text"]
            self._console.phase(event["text"], event.get("long", False))
        elif kind == "notice":
            self._console.say(event["text"])
        elif kind == "training":
            self.training = True
        elif kind == "engine":
            self.starts.handle(event)
        elif kind == "checkpoint":
            self._console.checkpoint(event)
            if event["error"] is None:
                self._saved = max(self._saved, event["step"])
        elif kind == "step":
            self._step = max(self._step, event["step"])
        line = self._writer.handle(event)
        if line is not None:
            self._console.metrics(line, self._total_steps)

    def _stop(self, mailbox: "ActorHandle", requested: float) -> None:
        if not self._told:
            self._told = True
            self._console.say(f"{self._stopping.signal_name or 'stop'}: {self._what_follows()}")
            if self.training:
                with suppress(Exception):
                    mailbox.request_stop.remote()
        if not self.training or time.monotonic() - requested > self._grace_seconds:
            self._end_workers(mailbox)
            self._interrupt()

    def _end_workers(self, mailbox: "ActorHandle") -> None:
        """Unblock the callers that wait for the workers. Ray only asks a process to exit; one that is stopped, or stuck
        in a driver, does not, and would keep its GPU memory."""
        end_workers(mailbox)
        if self._killed:
            return
        self._killed = True
        for node, processes in self._watchdog.processes().items():
            kill_on(node, processes)

    def _interrupt(self) -> None:
        """Interrupt the main thread: once, because it must clean up, and again only if that takes too long."""
        now = time.monotonic()
        if now >= self._interrupt_at:
            self._interrupt_at = now + _PATIENCE
            self._stopping.interrupt()

    def _what_follows(self) -> str:
        """What happens after a request to stop, depending on the run's progress."""
        within = f"(up to {self._grace_seconds:.0f} s, --train.grace_seconds)"
        if not self.training:
            return "stopping before the first step; there is nothing to save"
        if self._phase == "saving the model":
            return "the training is over; saving the model"
        in_rollout = self._phase in ("rollout", "") or self._phase.startswith("evaluating")
        if self._asynchronous or not in_rollout:
            return f"finishing the step in progress and saving a checkpoint {within}"
        if self._step > self._saved:
            return f"saving a checkpoint of step {self._step} {within}; the rollout in progress is dropped"
        if self._saved:
            return f"stopping; the checkpoint of step {self._saved} is up to date, the rollout in progress is dropped"
        return "stopping; no step is finished yet, so there is nothing to save"


def end_workers(mailbox: "ActorHandle") -> None:
    """Kill the trainer and the policy's ranks unconditionally, to unblock the callers that wait for them."""
    import ray

    with suppress(ray.exceptions.RayError):
        for role in ("trainer", "policy"):
            for worker in events.workers(mailbox, role):
                ray.kill(worker)


def stack_of(rank: int, beat: dict[str, Any]) -> str:
    """The stack of a process that does not answer, from py-spy on its node.

    Args:
        rank: the process's rank.
        beat: its last heartbeat.
    """
    try:
        return on_node(beat["node"], _py_spy, beat["pid"])
    except Exception as error:  # the stack is only informative; the run ends in any case
        return f"not available ({type(error).__name__}: {error})"


def _py_spy(process: int) -> str:
    import subprocess

    # --nonblocking: a stopped process must stay stopped.
    command = [str(Path(sys.executable).with_name("py-spy")), "dump", "--nonblocking", "--pid", str(process)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, encoding="utf-8")
    return done.stdout or f"py-spy could not read it: {done.stderr.strip()}"
