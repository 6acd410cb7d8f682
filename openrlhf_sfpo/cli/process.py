"""Wraps commands, so that a closed output pipe or Ctrl-C at any moment gives no traceback."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from openrlhf_sfpo.system.stopping import StopRequested
from openrlhf_sfpo.system.streams import best_effort_output

INTERRUPTED = 130  # the shell's exit status after Ctrl-C


def guarded(name: str, command: Callable[[], int]) -> int:
    """Run a command; return its exit status, 130 after Ctrl-C, or 143 after another request to stop.

    Args:
        name: the command's name.
        command: the function to run.
    """
    with best_effort_output(), _ctrl_c_recorded() as pressed:
        try:
            return command()
        except StopRequested:
            print(f"{name}: stopped", file=sys.stderr)
            return 128 + signal.SIGTERM
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception:
            # During an import the interrupt may surface as another exception.
            if not pressed:
                raise
            print(f"{name}: interrupted", file=sys.stderr)
            return INTERRUPTED


@contextmanager
def _ctrl_c_recorded() -> Iterator[list[int]]:
    """Yield a list that is empty until Ctrl-C is pressed, which still raises KeyboardInterrupt."""
    pressed: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
