"""The start of vLLM engines, on both sides: an engine's process reports its progress or failure; the driver displays
that, and callers wait until the engines are up."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openrlhf_sfpo.cluster.error_text import exception_line, plain
from openrlhf_sfpo.cluster.failures import failed_to_start
from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.rollout.engine_handle import EngineHandle
from openrlhf_sfpo.system.run_errors import EngineStartFailed, WorkerLost

_REPORTS_EVERY = 10.0  # seconds
_FIRST_SHOWN = 60.0  # seconds after which the console first mentions a start; then after twice that, and so on


@contextmanager
def start_reported(index: int, events: Events) -> Iterator[None]:
    """Report the start of vLLM in an engine's process.

    Args:
        index: which of the run's engines this is.
        events: receives the reports.

    Raises:
        EngineStartFailed: instead of vLLM's exception, with vLLM's own reason.
    """
    from openrlhf_sfpo.cluster import worker_logs

    files = worker_logs.own_files()
    done = threading.Event()
    events.send("engine", index=index, state="starting", text="")

    def report() -> None:
        while not done.wait(_REPORTS_EVERY):
            newest = max(files, key=lambda file: file.stat().st_mtime, default=None)
            text = worker_logs.last_line(worker_logs.tail(newest, 4096)) if newest else ""
            events.send("engine", index=index, state="starting", text=text)

    threading.Thread(target=report, name="engine start", daemon=True).start()
    try:
        yield
    except Exception as error:
        texts = [worker_logs.tail(file) for file in reversed(files)]  # vLLM's logger uses standard output
        why = worker_logs.why_engine_failed(error, texts)
        events.send_now("engine", index=index, state="failed", text=why, log="\n".join(texts))
        raise EngineStartFailed(f"engine {index} could not start: {why}") from None
    else:
        events.send("engine", index=index, state="up", text="")
    finally:
        done.set()


class EngineStarts:
    """Tracks the starts of engines by their events, in the driver.

    Args:
        logs: the run's directory for logs; receives the output of engines that could not start.
        clock: a monotonic clock, in seconds.

    Attributes:
        failure: why an engine could not start, in one line; None if none has failed.
    """

    def __init__(self, logs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.failure: str | None = None
        self._logs = logs
        self._clock = clock
        self._starting: dict[int, tuple[float, str]] = {}
        self._show_at: dict[int, float] = {}

    def handle(self, event: dict[str, Any]) -> None:
        """Process an event of kind `engine`."""
        index, state, text = event["index"], event["state"], event["text"]
        if state == "starting":
            since, before = self._starting.get(index, (self._clock(), ""))
            self._starting[index] = since, text or before
            self._show_at.setdefault(index, since + _FIRST_SHOWN)
            return
        self._starting.pop(index, None)
        self._show_at.pop(index, None)
        if state == "failed":
            path = self._logs / f"engine{index}.log"
            said = ""
            try:
                path.write_text(event["log"], encoding="utf-8")
                said = f" (what it printed is in {path})"
            except OSError:
                pass
            if self.failure is None:
                self.failure = f"engine {index} could not start: {text}{said}"

    def progress(self) -> list[str]:
        """Lines for the console about engines that take long to start."""
        now, lines = self._clock(), []
        for index, (since, text) in sorted(self._starting.items()):
            if now >= self._show_at[index]:
                self._show_at[index] = since + 2 * (now - since)
                doing = f": {text}" if text else ""
                lines.append(f"engine {index} is starting, for {now - since:.0f} s so far{doing}")
        return lines


def wait_until_started(engines: list[EngineHandle], timeout: float, waiting: Callable[[], None] = lambda: None) -> None:
    """Wait until all engines can answer.

    Args:
        engines: the handles of `engine.RolloutEngine` actors.
        timeout: seconds, --rollout.engine_start_timeout.
        waiting: called at intervals meanwhile.

    Raises:
        EngineStartFailed: vLLM refused, or an engine has not started in time.
        WorkerLost: an engine's process died.
    """
    import ray

    asked = {engine.processes.remote(): index for index, engine in enumerate(engines)}
    deadline = time.monotonic() + timeout
    while asked:
        ready, _ = ray.wait(list(asked), timeout=min(5.0, max(0.0, deadline - time.monotonic())))
        waiting()
        for ref in ready:
            index = asked.pop(ref)
            try:
                ray.get(ref)
            except ray.exceptions.RayActorError as error:
                raise start_error(index, error) from None
        if asked and time.monotonic() >= deadline:
            names = ", ".join(str(index) for index in sorted(asked.values()))
            raise EngineStartFailed(
                f"engine {names} has not started within {timeout:.0f} s (--rollout.engine_start_timeout). A large "
                "model or a slow disk may need more."
            )


def start_error(index: int, error: Exception) -> EngineStartFailed | WorkerLost:
    """The error of an engine that did not start: its constructor's exception, or the end of its process."""
    if failed_to_start(error):
        line = exception_line(plain(str(error)))
        found = line.removeprefix("EngineStartFailed: ")
        return EngineStartFailed(found if found != line else f"engine {index} could not start: {line}")
    return WorkerLost(f"the process of engine {index} died while it started: it was killed, or ran out of memory")
