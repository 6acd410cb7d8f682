"""Parallel runs: each worker process has one session, which its runs share one after another."""

import argparse
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from openrlhf_sfpo.config.placement import ray_address
from openrlhf_sfpo.report.reading import CONFIG, METRICS, read_status
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.stopping import Stopping

if TYPE_CHECKING:
    from openrlhf_sfpo.runs.session import Session

SETTINGS = "settings.json"
_MAX_FAILURES_IN_A_ROW = 3
# Ends a worker like Ctrl-C. Not SIGINT itself: processes that a script starts with & ignore it.
_INTERRUPT = signal.SIGUSR1
# These end the whole comparison.
_ENDS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        name: its name in messages, and its directory's.
        directory: the run directory.
        flat: its flags, with dotted names.
        given: names of the flags that were set.
        settings: what was set, by dotted name, as written into the run directory.
    """

    name: str
    directory: Path
    flat: argparse.Namespace
    given: frozenset[str]
    settings: dict[str, Any]


def still_to_do(runs: list[PlannedRun]) -> list[PlannedRun]:
    """The runs that have not finished. The directory of an interrupted run is renamed, not deleted.

    Raises:
        UsageError: a directory holds a run with other settings.
    """
    for run in runs:
        path = run.directory / SETTINGS
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            names = sorted(n for n in before.keys() | run.settings.keys() if before.get(n) != run.settings.get(n))
            if names:
                changes = ", ".join(
                    f"{name}: {before.get(name)!r} then, {run.settings.get(name)!r} now" for name in names
                )
                raise UsageError(
                    "--out", f"{run.directory} was begun with other settings ({changes}).", "Choose another directory."
                )
        elif (run.directory / CONFIG).exists() or (run.directory / METRICS).exists():
            raise UsageError("--out", f"{run.directory} holds a run of something else.", "Choose another directory.")
    todo = [run for run in runs if read_status(run.directory).get("state") != "finished"]
    for run in todo:
        if (run.directory / CONFIG).exists():
            set_aside(run.directory)
    return todo


def set_aside(directory: Path) -> None:
    """Rename a directory out of the way; `report` leaves it out."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.incomplete-{number}")).exists():
        number += 1
    directory.rename(aside)


class ParallelRuns:
    """Executes runs in `count` worker processes. Use it as a context manager: on exit the workers have ended.

    Args:
        count: workers. Without a Ray cluster they divide the machine's processors, equally even if there are fewer
            runs than workers: a run's numbers and duration depend on its number of threads.
        keep: whether a run reuses the engines and actors of its worker's previous run.
        started: called with each run when it starts.
        ended: called with each run when it ends, its exit status and its seconds.
    """

    def __init__(
        self,
        count: int,
        keep: bool,
        started: Callable[[PlannedRun], None],
        ended: Callable[[PlannedRun, int, float], None],
    ) -> None:
        self._count, self._keep = count, keep
        self._started, self._ended = started, ended
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, tuple[Any, int]] = {}
        self._busy: dict[Connection, tuple[PlannedRun, float]] = {}
        self._installed: list[signal.Signals] = []

    def __enter__(self) -> "ParallelRuns":
        if threading.current_thread() is threading.main_thread():
            for number in _ENDS:  # as Ctrl-C does: the workers stop, and no run stays "running"
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, signal.default_int_handler)
                    self._installed.append(number)
        return self

    def __exit__(self, *exc: Any) -> None:
        for number in self._installed:
            signal.signal(number, signal.SIG_IGN)  # until the workers have ended
        self._end_workers(interrupt=exc[0] is not None)
        for number in self._installed:
            signal.signal(number, signal.SIG_DFL)

    def _end_workers(self, interrupt: bool) -> None:
        for pipe, (process, _) in self._workers.items():
            pipe.close()
            if interrupt and process.is_alive():
                os.kill(process.pid, _INTERRUPT)
        for process, _ in self._workers.values():
            process.join(60)
            if process.is_alive():
                process.kill()

    def run(self, runs: list[PlannedRun]) -> bool:
        """Execute the runs; return False if it gave up after several failures in a row."""
        waiting, failures = list(runs), 0
        for number in range(min(self._count, len(runs))):
            self._hand_out(self._start_worker(number), waiting)
        while self._busy:
            for pipe in cast("list[Connection]", wait(list(self._busy))):  # its type also allows sockets and files
                run, since = self._busy.pop(pipe)
                try:
                    status = pipe.recv()
                except EOFError:  # the worker itself died, for example because memory ran out
                    status = -1
                    pipe = self._start_worker(self._workers.pop(pipe)[1])
                self._ended(run, status, time.monotonic() - since)
                failures = failures + 1 if status else 0
                if failures < _MAX_FAILURES_IN_A_ROW:
                    self._hand_out(pipe, waiting)
        return not waiting

    def _hand_out(self, pipe: Connection, waiting: list[PlannedRun]) -> None:
        if waiting:
            run = waiting.pop(0)
            self._started(run)
            self._busy[pipe] = (run, time.monotonic())
            pipe.send(run)

    def _start_worker(self, number: int) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_worker, args=(theirs, self._keep, _processors(number, self._count)))
        process.start()
        theirs.close()
        self._workers[ours] = (process, number)
        return ours


def _processors(worker: int, workers: int) -> set[int]:
    """The processors for one of several workers on this machine."""
    usable = sorted(os.sched_getaffinity(0))
    if ray_address():
        return set(usable)
    return set(usable[worker % len(usable) :: workers])


def _worker(pipe: Connection, keep: bool, processors: set[int]) -> None:
    """Execute the runs that arrive through the pipe until it closes, and answer each with its exit status."""
    os.sched_setaffinity(0, processors)
    signal.signal(_INTERRUPT, signal.default_int_handler)
    threading.Thread(target=_interrupt_without_parent, args=(os.getppid(),), daemon=True).start()
    from openrlhf_sfpo.runs.session import Session

    stopping = Stopping()
    with stopping.installed(), Session(keep, stopping) as session:
        while True:
            try:
                run = pipe.recv()
                pipe.send(_run(session, run))
            except (EOFError, BrokenPipeError, KeyboardInterrupt):
                return


def _run(session: "Session", run: PlannedRun) -> int:
    from openrlhf_sfpo.runs import launcher, preflight
    from openrlhf_sfpo.system.streams import quiet

    logs = run.directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (run.directory / SETTINGS).write_text(json.dumps(run.settings, indent=1) + "\n", encoding="utf-8")
    with quiet(logs / "driver.log", verbose=False), (logs / "console.log").open("w", encoding="utf-8") as console:
        try:
            directory = preflight.prepare(run.flat, set(run.given))
            status = launcher.run_in(session, run.flat, directory, console)
        except UsageError as error:  # one that is only found once Ray is up
            console.write(f"{error}\n")
            status = 2
        except Exception:  # a bug in this package
            console.write(traceback.format_exc())
            status = 1
    if status == 130 or session.stopping.requested is not None:
        raise KeyboardInterrupt
    return status


def _interrupt_without_parent(parent: int) -> None:
    """End as after Ctrl-C when the comparison's own process has died, so that no Ray is left running."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), _INTERRUPT)
