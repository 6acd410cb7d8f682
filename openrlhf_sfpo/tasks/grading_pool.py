"""A few worker processes for gradings that may take too long, take too much memory, or crash.

math-verify and sympy limit their time with signals, which work only in a process's main thread, and not during
computations with big numbers. Here a grading that exceeds its time is killed with its process and counts as wrong,
while the others continue in the other workers. A worker that dies, for example by the kernel's out-of-memory killer, is
restarted.
"""

import atexit
import json
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from openrlhf_sfpo.tasks.child_process import python_command

# Processor time of one grading, so that a busy machine does not turn right answers into wrong ones.
SECONDS = 20.0
# Wall-clock time of a grading that waits instead of computing, as a multiple of that.
_WALL = 3.0
# Wall-clock time within which a worker must have started and imported the grader.
_START_SECONDS = 300.0
# A grading is repeated after its worker died; the second time the grading is to blame.
_TRIES = 2
_MAX_BYTES = 64 * 2**20


class GradingError(RuntimeError):
    """A grading function raised, or no worker could be started; the message has the reason."""


@dataclass(frozen=True)
class Outcome:
    """The result of a grading: the function's value (None if it took too long or killed its worker)."""

    value: Any
    timed_out: bool


class GradingPool:
    """Worker processes, started on demand; they end with this process, however it ends.

    Args:
        workers: the maximum number; None means 2, and more on machines with many cores.
        seconds: processor time of one grading. One that does not compute has three times as much wall-clock time.
    """

    def __init__(self, workers: int | None = None, seconds: float = SECONDS) -> None:
        self._limit = workers or max(2, min(8, (os.cpu_count() or 1) // 8))
        self._seconds = seconds
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._workers: list[_Worker] = []
        atexit.register(self.close)

    def run(self, function: str, arguments: Sequence[Sequence[Any]]) -> list[Outcome]:
        """Call a function with each of the arguments, in parallel; wait for all.

        Args:
            function: MODULE:NAME, importable in the workers. Its value must survive JSON; a dataclass is returned as a
                dictionary.
            arguments: the positional arguments of each call; they must survive JSON.

        Raises:
            GradingError: the function raised.
        """
        tasks = [_Task(function, list(one), Future()) for one in arguments]
        for task in tasks:
            self._submit(task)
        return [task.outcome.result() for task in tasks]

    def pids(self) -> list[int]:
        """The PIDs of the running workers."""
        return [worker.process.pid for worker in self._workers if worker.process and worker.process.poll() is None]

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()

    def _submit(self, task: "_Task") -> None:
        with self._lock:
            self._unfinished += 1
            if len(self._workers) < min(self._unfinished, self._limit):
                worker = _Worker(self._seconds)
                self._workers.append(worker)
                # The kernel ends a worker with the thread that started it, so each worker has its own lasting thread.
                threading.Thread(target=self._serve, args=(worker,), name="grading", daemon=True).start()
        self._tasks.put(task)

    def _serve(self, worker: "_Worker") -> None:
        while True:
            task = self._tasks.get()
            try:
                task.outcome.set_result(worker.run(task))
            except Exception as error:
                task.outcome.set_exception(error)
            finally:
                with self._lock:
                    self._unfinished -= 1


@dataclass
class _Task:
    function: str
    arguments: list[Any]
    outcome: "Future[Outcome]"


class _Died(Exception):
    """The worker died; the message has the end of its output."""


class _TookTooLong(Exception):
    pass


class _Worker:
    """One worker process, and its successors."""

    def __init__(self, seconds: float) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._seconds = seconds
        self._log: Any = None
        self._buffer = b""
        self._closed = False

    def run(self, task: _Task) -> Outcome:
        request = json.dumps({"function": task.function, "arguments": task.arguments}).encode() + b"\n"
        started = False
        reason = ""
        for _ in range(_TRIES):
            process = self.process  # `close` may clear it at any time
            if process is None or process.poll() is not None:
                process = self._start()
            try:
                self._send(process, request)
                message = self._receive(process, _START_SECONDS, _START_SECONDS)
                if "started" in message:
                    started = True
                    message = self._receive(process, self._seconds, _WALL * self._seconds)
            except _Died as died:
                reason = str(died)
                self.kill()
            except _TookTooLong:
                self.kill()
                if started:
                    return Outcome(None, timed_out=True)
                reason = f"it did not start within {_START_SECONDS:.0f} s"
            else:
                if "error" in message:
                    raise GradingError(message["error"])
                return Outcome(message["value"], timed_out=False)
        if started:
            return Outcome(None, timed_out=True)
        raise GradingError(f"the grading process cannot start: {reason}")

    def kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            with suppress(OSError):
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()

    def close(self) -> None:
        """End the process for good."""
        self._closed = True
        self.kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        self.kill()
        if self._closed:
            raise GradingError("the pool of grading processes is closed")
        self._buffer = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its last reference
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = process = subprocess.Popen(
            python_command("openrlhf_sfpo.tasks.grading_worker", str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **one_thread, "PYTHONWARNINGS": "ignore"},
            bufsize=0,
        )
        return process

    def _send(self, process: subprocess.Popen[bytes], request: bytes) -> None:
        assert process.stdin is not None  # a pipe
        view = memoryview(request)
        while view:
            try:
                view = view[process.stdin.write(view) :]
            except (OSError, ValueError):
                raise _Died(self._last_words(process)) from None

    def _receive(
        self, process: subprocess.Popen[bytes], processor_seconds: float, wall_seconds: float
    ) -> dict[str, Any]:
        """The next message.

        Raises:
            _Died: there is none.
            _TookTooLong: there was none in that time.
        """
        assert process.stdout is not None  # a pipe
        readable = select.poll()  # select.select does not support file descriptors above 1023
        try:
            readable.register(process.stdout, select.POLLIN)
        except ValueError:  # closed by another thread
            raise _Died(self._last_words(process)) from None
        begin, limit = time.monotonic(), None
        while b"\n" not in self._buffer:
            if not readable.poll(500):
                used = _processor_seconds(process)  # few gradings get here
                limit = used + processor_seconds if limit is None else limit
                if used > limit or time.monotonic() - begin > wall_seconds:
                    raise _TookTooLong
                continue
            read = os.read(process.stdout.fileno(), 65536)
            if not read or len(self._buffer) > _MAX_BYTES:
                raise _Died(self._last_words(process))
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5.0)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        status = process.returncode or 0
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"{lines[-1]} ({how})" if lines else how


def _processor_seconds(process: subprocess.Popen[bytes]) -> float:
    import psutil

    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


_pool: GradingPool | None = None
_pool_lock = threading.Lock()


def shared_pool() -> GradingPool:
    """This process's pool."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = GradingPool()
        return _pool


def _forget() -> None:
    """Reset in a forked process: threads and pipes belong to the parent."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
