"""Heartbeats of the ranks, so that the driver can say where a run hangs."""

import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil

_COLLECTIVES = "distributed_c10d.py"


class Heartbeat:
    """Sends heartbeats about the rank's main thread, from a thread of its own.

    A heartbeat has `phase`, `busy` (whether the trainer waits for a call), `progress` (a number that increases with the
    work), `pid`, `started` (the process's start, in seconds since the epoch) and `host`. If the rank is busy and has
    made no progress for half of the timeout, it also has `waits_in` (the collective that the main thread is in, or
    None) and `stack` (of the main thread).

    Args:
        send: called with each heartbeat.
        timeout: --train.timeout in seconds.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], timeout: float) -> None:
        self._send = send
        self._timeout = timeout
        main = threading.main_thread().ident
        assert main is not None  # the main thread is running
        self._main = main
        self._phase, self._busy, self._progress = "", False, 0
        self._moved = time.monotonic()
        self._started = psutil.Process().create_time()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def tick(self, phase: str | None = None) -> None:
        """Record progress, and the phase that begins."""
        if phase is not None:
            self._phase = phase
        self._progress += 1
        self._moved = time.monotonic()

    @contextmanager
    def busy(self, phase: str) -> Iterator[None]:
        """Mark a call that the trainer waits for."""
        self.tick(phase)
        outer, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = outer
            self.tick()

    def close(self) -> None:
        """Stop sending."""
        self._stopped.set()

    def _run(self) -> None:
        self._send(self._beat())  # a rank that dies at once must be known, too
        while not self._stopped.wait(min(2.0, self._timeout / 8)):
            self._send(self._beat())

    def _beat(self) -> dict[str, Any]:
        beat: dict[str, Any] = {
            "phase": self._phase,
            "busy": self._busy,
            "progress": self._progress,
            "pid": os.getpid(),
            "started": self._started,
            "host": platform.node(),
        }
        if self._busy and time.monotonic() - self._moved > self._timeout / 2:
            frame = sys._current_frames().get(self._main)
            beat["waits_in"] = collective_of(frame)
            beat["stack"] = "".join(traceback.format_stack(frame))
        return beat


def collective_of(frame: FrameType | None) -> str | None:
    """The outermost function of torch.distributed that a thread is in."""
    found = None
    while frame is not None:
        if frame.f_code.co_filename.endswith(_COLLECTIVES) and not frame.f_code.co_name.startswith("wrapper"):
            found = frame.f_code.co_name
        frame = frame.f_back
    return found
