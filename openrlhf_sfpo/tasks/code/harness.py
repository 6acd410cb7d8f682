"""Runs inside the sandbox, before and around a response's program. Standard library only; it is not imported elsewhere.

Requests come in and answers go out as lines of JSON, through copies of the standard streams that the program is not
told about. The first request has the program and the limits; each other one is a test, and is sent after the last one's
answer. What a test expects stays outside, except for assertions, which come after the program has run.
"""

import builtins
import io
import json
import os
import resource
import sys
from typing import Any


def main() -> None:
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    first = json.loads(requests.readline())
    for name, value in first["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    sys.setrecursionlimit(200000)
    program = Program(first["program"], first["stdin"])
    os._exit = _end  # some programs end with it, to be fast; the other tests are still to come
    vars(builtins).update(exit=_end, quit=_end)  # as Python's own, which are not there without its site module
    for line in requests:
        request = json.loads(line)
        try:
            answer = program.answer(request)
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _end(status: object = 0) -> Any:
    raise SystemExit(status)


class Program:
    """A program that is run for each input, or once, and then called or asserted about."""

    def __init__(self, source: str, reads_input: bool) -> None:
        self.source, self.reads_input = source, reads_input
        self.names: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.reads_input:
            return {"output": self.run(request["stdin"])[: request["most"]]}
        if not self.names:
            self.run("")
        if "call" in request:
            return {"value": plain(self.function(request["call"])(*request["arguments"]))}
        exec(compile(request["code"], "<tests>", "exec"), self.names)
        return {"passed": request["word"]}

    def function(self, name: str) -> Any:
        if "Solution" in self.names and hasattr(self.names["Solution"], name):
            return getattr(self.names["Solution"](), name)
        return self.names[name]

    def run(self, given: str) -> str:
        """Run the program; return what it writes."""
        with open("/tmp/.in", "w", encoding="utf-8") as file:
            file.write(given)
        for descriptor, path, flags in (
            (0, "/tmp/.in", os.O_RDONLY),
            (1, "/tmp/.out", os.O_RDWR | os.O_CREAT | os.O_TRUNC),
            (2, "/dev/null", os.O_WRONLY),
        ):
            opened = os.open(path, flags, 0o600)
            if opened != descriptor:  # which it is if the last run has closed that
                os.dup2(opened, descriptor)
                os.close(opened)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)), encoding="utf-8")
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w", closefd=False)), encoding="utf-8")
        names = vars(builtins)
        kept = dict(names)
        self.names = {"__name__": "__main__", "__builtins__": builtins}
        try:
            exec(compile(self.source, "<program>", "exec"), self.names)
        except SystemExit:
            pass
        finally:
            # Else a program could make every assertion hold.
            names.clear()
            names.update(kept)
        sys.stdout.flush()
        with open("/tmp/.out", encoding="utf-8", errors="replace") as file:
            return file.read()


def plain(value: Any) -> Any:
    """A value in the types of JSON."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return plain(value.item()) if hasattr(value, "item") else str(value)


main()
