"""The worker process of `grading_pool`: calls functions one after another in its main thread.

It reads one JSON object per line from standard input, {"function": "module:name", "arguments": [...]}, and answers with
{"started": true} once the function is imported and then {"value": ...} or {"error": "..."}.
"""

import ctypes
import dataclasses
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

_PR_SET_PDEATHSIG = 1
# Memory of a grading in addition to the worker's own: a huge power must not fill the machine.
_EXTRA_BYTES = 4 * 2**30


def main(parent: int) -> None:
    """Answer requests until standard input ends. `parent`: PID of the parent process."""
    # A computing worker does not notice the end of its input, so the kernel is told to end it with its parent.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    _limit_memory()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # library output must not mix with the answers
    for line in sys.stdin.buffer:
        _answer(json.loads(line), answers)


def _limit_memory() -> None:
    """Limit the memory, and make the kernel kill this process first if memory runs out anyway."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    with suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
        limit = pages * resource.getpagesize() + _EXTRA_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    try:
        function = _function(request["function"])
        _write(answers, {"started": True})
        value = function(*request["arguments"])
        is_instance = dataclasses.is_dataclass(value) and not isinstance(value, type)
        _write(answers, {"value": dataclasses.asdict(value) if is_instance else value})
    except Exception as error:
        _write(answers, {"error": f"{type(error).__name__}: {error}"})


def _write(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
