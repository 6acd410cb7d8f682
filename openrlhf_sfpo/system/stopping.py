"""SIGTERM and SIGHUP as requests to stop, during the whole run."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequested(KeyboardInterrupt):
    """A signal asked the process to stop while nothing had to be finished first."""


class Stopping:
    """Turns SIGTERM and SIGHUP into one request to stop.

    While training, the request is only recorded: the run's listener sees it and lets the step end. At any other time
    there is nothing to save, and `StopRequested` is raised in the main thread. Only the first signal counts.

    Attributes:
        requested: when the first signal arrived, on the monotonic clock; None if none has.
        signal_name: which one it was, such as "SIGTERM".
    """

    def __init__(self) -> None:
        self.requested: float | None = None
        self.signal_name = ""
        self._deferred = self._interrupted = False
        self._numbers: list[int] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals until the block ends; outside the main thread, do nothing. A SIGHUP that is ignored, as
        under `nohup`, stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)
        self._numbers = list(before)
        self.take_back()
        try:
            yield
        finally:
            self._numbers = []
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def is_installed(self) -> bool:
        """Whether the signals are handled now."""
        return bool(self._numbers)

    def take_back(self) -> None:
        """Install the handlers again, after a library has put its own there."""
        for number in self._numbers:
            signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only record requests until the block ends.

        Raises:
            StopRequested: there was a request before the block began.
        """
        self._deferred = True
        try:
            if self.requested is not None:  # after the flag, so that no signal falls in between
                raise StopRequested
            yield
        finally:
            self._deferred = False

    def interrupt(self) -> None:
        """From another thread, raise `StopRequested` in the main thread; where the handlers are not installed,
        KeyboardInterrupt."""
        self._interrupted = True
        # Not simply SIGINT: processes that a script starts with & ignore it.
        for number in (*self._numbers, signal.SIGINT, signal.SIGUSR1):
            if callable(signal.getsignal(number)):
                main = threading.main_thread().ident
                assert main is not None
                signal.pthread_kill(main, number)  # a real signal, which also interrupts a blocking system call
                return

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            self._interrupted = False
            raise StopRequested
        if self.requested is not None:
            return
        self.requested = time.monotonic()
        self.signal_name = signal.Signals(number).name
        if not self._deferred:
            raise StopRequested


@contextmanager
def hangups_blocked() -> Iterator[None]:
    """Block SIGHUP, which a closing terminal sends to all processes, while starting processes that must not receive it:
    they inherit the signal mask. A SIGHUP in the meantime is delivered at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
