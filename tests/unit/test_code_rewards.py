"""Rewards for programs: right and wrong ones in every form of tests, and programs that are up to something."""

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from openrlhf_sfpo.tasks.code import sandbox
from openrlhf_sfpo.tasks.code.programs import has_tests, program_of, same_text, same_value, suite_of
from openrlhf_sfpo.tasks.code.sandbox import Limits, Verdict, run_tests
from openrlhf_sfpo.tasks.labels import label_problem
from openrlhf_sfpo.tasks.rewards import BUILTIN

pytestmark = pytest.mark.skipif(sandbox.problem() is not None, reason=f"no sandbox: {sandbox.problem()}")

DOUBLE = json.dumps({"inputs": ["3\n", "10\n"], "outputs": ["6\n", "20\n"]})
ADD = json.dumps({"inputs": [[1, 2], [3, 4]], "outputs": [3, [7]], "fn_name": "add"})
CHECK = json.dumps(
    {
        "import_prefix": "import math\n",
        "test_code": "def check(candidate):\n    assert candidate(4) == 2.0\n    assert all([candidate(9) == 3.0])\n",
        "entry_point": "root",
    }
)
ASSERTS = json.dumps({"assert_case": ["assert twice(2) == 4", "assert twice('a') == 'aa'"]})


def graded(program: str, label: str = DOUBLE, **limits: Any) -> Verdict:
    return run_tests(program, suite_of(label), Limits(**limits))


@pytest.mark.parametrize(
    ("program", "label"),
    [
        ("print(int(input()) * 2)", DOUBLE),
        ("import sys\nprint(int(sys.stdin.readline()) * 2)", DOUBLE),
        ("import sys\nsys.stdout.write(str(int(sys.stdin.buffer.read()) * 2))", DOUBLE),
        ("print(int(open(0).read()) * 2)", DOUBLE),
        ("import os\nos.write(1, str(int(input()) * 2).encode())", DOUBLE),
        ("print(int(input()) * 2)\nexit()", DOUBLE),
        ("import os\nprint(int(input()) * 2, flush=True)\nos._exit(0)", DOUBLE),
        ("if __name__ == '__main__':\n    print(int(input()) * 2)", DOUBLE),
        ("import numpy as np\nprint(np.array([int(input())])[0] * 2)", DOUBLE),
        (
            "import sys, threading\nsys.setrecursionlimit(10**6)\ndef main():\n    print(int(input()) * 2)\n"
            "threading.stack_size(2**26)\nt = threading.Thread(target=main)\nt.start()\nt.join()",
            DOUBLE,
        ),
        ("def add(a, b):\n    return a + b", ADD),
        ("class Solution:\n    def add(self, a: int, b: int) -> int:\n        return a + b", ADD),
        ("def root(x):\n    return math.sqrt(x)", CHECK),
        ("def twice(x):\n    return x + x", ASSERTS),
    ],
)
def test_right_programs(program: str, label: str) -> None:
    assert graded(program, label) == Verdict(True)


@pytest.mark.parametrize(
    ("program", "label", "reason"),
    [
        ("print(int(input()) * 3)", DOUBLE, "test 1 of 2: another output"),
        ("print(6)", DOUBLE, "test 2 of 2: another output"),
        ("", DOUBLE, "another output"),
        ("print(1", DOUBLE, "SyntaxError"),
        ("raise ValueError('no')", DOUBLE, "ValueError: no"),
        ("def add(a, b):\n    return a - b", ADD, "test 1 of 2: another value"),
        ("def other(a, b):\n    return a + b", ADD, "KeyError"),
        ("def root(x):\n    return 2.0", CHECK, "AssertionError"),
        ("def twice(x):\n    return 2 * int(x)", ASSERTS, "test 2 of 2: ValueError"),
    ],
)
def test_wrong_programs(program: str, label: str, reason: str) -> None:
    verdict = graded(program, label)
    assert not verdict.passed
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("program", "label"),
    [
        ("import sys\ndef root(x):\n    sys.exit(0)", CHECK),
        ("import os\ndef root(x):\n    os._exit(0)", CHECK),
        ("import os, signal\ndef root(x):\n    os.kill(os.getpid(), signal.SIGKILL)", CHECK),
        ("import builtins\nbuiltins.all = lambda *a: True\ndef root(x):\n    return 2.0", CHECK),
        ("def check(candidate): pass\ndef root(x): return None", CHECK),
        ("import sys\nsys.stdin.close()\nprint('{\"passed\": 1}')\ndef root(x): return 0", CHECK),
        (
            'import os\nfor fd in range(3, 30):\n  try: os.write(fd, b\'{"output": "6"}\\n\')\n  except OSError: pass',
            DOUBLE,
        ),
        ("import os\nfor fd in range(3, 30):\n  try: os.close(fd)\n  except OSError: pass", DOUBLE),
    ],
)
def test_programs_that_pretend(program: str, label: str) -> None:
    assert not graded(program, label).passed


@pytest.mark.parametrize(
    ("program", "timed_out"),
    [
        ("import os\nwhile True:\n    os.fork()", False),
        ("import subprocess\nsubprocess.run(['ls'])\nprint(6)", False),
        ("import multiprocessing as m\np = m.Process(target=print)\np.start()\np.join()", False),
        ("import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,)).start()", False),
        ("data = bytearray(10 * 2**30)", False),
        ("data = []\nwhile True:\n    data.append(' ' * 2**20)", False),
        ("while True:\n    print('x' * 1000)", None),  # whichever limit comes first
        ("file = open('/tmp/big', 'wb')\nwhile True:\n    file.write(bytes(2**20))", None),
        ("for n in range(10**9):\n    open(f'/tmp/{n}', 'w').write('x' * 50000)", None),
        ("while True:\n    pass", True),
        ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass", True),
        ("import time\ntime.sleep(1000)", True),
        ("def f(): return f()\nf()", False),
        ("'a' * 10**8 * 10**8", False),
        ("import ctypes\nctypes.string_at(0)", False),
    ],
)
def test_programs_that_use_too_much(program: str, timed_out: bool | None) -> None:
    started = time.monotonic()
    verdict = graded(program, seconds=1, memory_mb=512)
    assert not verdict.passed
    assert timed_out is None or verdict.timed_out == timed_out, verdict
    assert time.monotonic() - started < 30
    assert left_processes() == []


def left_processes() -> list[str]:
    """Children of this process that belong to a sandbox."""
    return [
        p.name()
        for p in psutil.Process().children(recursive=True)
        if p.name() == "bwrap" or "harness" in str(p.cmdline())
    ]


def told(program: str, **limits: Any) -> str:
    """What a program finds out, as the text of its exception."""
    return graded(f"{program}\nraise Exception(found)", **limits).reason


def test_a_program_sees_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "abc")
    secret = tmp_path / "secret"
    secret.write_text("abc")
    assert "SECRET" not in told("import os\nfound = dict(os.environ)")
    for path in (secret, Path(__file__), Path(sandbox.__file__), Path("/etc/passwd"), Path("/proc/self/environ")):
        assert "FileNotFoundError" in graded(f"open({str(path)!r}).read()").reason, path
    assert "proc" not in told("import os\nfound = os.listdir('/')")
    assert told("import os\nfound = sorted(os.listdir('/tmp'))").endswith("['.in', '.out']")
    for place in ("/usr", "/packages/numpy", "", "/dev", "/dev/shm"):
        assert "Error" in graded(f"open({place + '/here'!r}, 'w')").reason, place
    assert "another output" in graded("open('/tmp/here', 'w').write('x')").reason
    assert not Path("/tmp/here").exists(), "its /tmp is not ours"


def test_a_program_reaches_nobody() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        verdict = graded(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)")
        assert "Error" in verdict.reason
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert "unreachable" in graded("import socket\nsocket.create_connection(('1.1.1.1', 53), 2)").reason
    assert "gaierror" in graded("import socket\nsocket.gethostbyname('example.org')").reason


def test_a_program_cannot_end_others() -> None:
    for target in (os.getpid(), os.getppid(), 1, -1):
        graded(f"import os, signal\nos.kill({target}, signal.SIGKILL)")
    assert psutil.pid_exists(os.getppid())
    assert (
        "Permission"
        in graded(
            "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            "if libc.unshare(0x10000000): raise PermissionError(ctypes.get_errno())"
        ).reason
    )


def test_many_programs_at_a_time() -> None:
    responses = [f"```python\nprint(int(input()) * {2 + n % 2})\n```" for n in range(20)]
    result = BUILTIN["code"].grade(responses, [DOUBLE] * 20)
    assert result["scores"] == [1.0, 0.0] * 10
    assert result["extra_logs"]["program_rate"] == [1.0] * 20


def test_math_or_code_goes_by_the_label() -> None:
    responses = ["```python\nprint(int(input()) * 2)\n```", "so it is \\boxed{42}", "no program", "\\boxed{1}"]
    result = BUILTIN["math_or_code"].grade(responses, [DOUBLE, "42", DOUBLE, "42"])
    assert result["scores"] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python\na\n```", "a\n"),
        ("```python\na\n```\nor\n```python\nb\n```", "b\n"),
        ("<think>```python\na\n```</think> it is\n```python\nb\n```", "b\n"),
        ("<think>```python\na\n```</think> it is b", None),
        ("<think>\n```python\na\n```", "a\n"),  # cut off: there is nothing else
        ("```\na\n```", None),
        ("```cpp\na\n```", None),
        ("``` Python \na\n```", "a\n"),
        ("text ```python a```", None),
        ("", None),
    ],
)
def test_the_program_of_a_response(response: str, program: str | None) -> None:
    assert program_of(response) == program


@pytest.mark.parametrize(
    ("written", "expected", "same"),
    [
        ("6\n", "6", True),
        ("6 \n\n", "6\n", True),
        ("6\n7", "6 7", False),
        ("0.3333333", "0.333333333", True),
        ("0.3334", "0.333333333", False),
        ("3", "3.0", True),
        ("3.0", "3", False),
        ("nan", "1.5", False),
        ("YES", "yes", False),
        ("a  b", "a b", True),
    ],
)
def test_the_same_text(written: str, expected: str, same: bool) -> None:
    assert same_text(written, expected) is same


@pytest.mark.parametrize(
    ("returned", "expected", "same"),
    [
        (3, 3, True),
        (3, [3], True),
        ([3], [3], True),
        ([1, 2], [[1, 2]], True),
        ([1, 2], [2, 1], False),
        (True, 1, False),
        (True, True, True),
        (0.1 + 0.2, 0.3, True),
        (None, None, True),
        ("a", "b", False),
    ],
)
def test_the_same_value(returned: Any, expected: Any, same: bool) -> None:
    assert same_value(returned, expected) is same


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (DOUBLE, None),
        (ASSERTS, None),
        ("42", "not a JSON object"),
        ("{", "not JSON"),
        (json.dumps({"inputs": ["1"], "outputs": []}), "not lists of the same length"),
        (json.dumps({"assert_case": []}), "no assertions"),
        (json.dumps({"answer": 3}), "none of inputs, test_code, assert_case"),
    ],
)
def test_labels_are_checked_before_a_run(label: str, problem: str | None) -> None:
    found = label_problem("code", label)
    assert (found is None) if problem is None else (found is not None and problem in found)
    assert has_tests(DOUBLE)
    assert not has_tests("42")
    assert label_problem("math_or_code", "42") is None


def test_a_killed_sandbox_takes_its_program_along() -> None:
    with sandbox._spawned(Limits(), ["-c", "import time\nprint(1, flush=True)\ntime.sleep(99)"], stderr=-3) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        inner = psutil.Process(process.pid).children(recursive=True)
        assert inner
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in inner):
            assert time.monotonic() < deadline
            time.sleep(0.05)
