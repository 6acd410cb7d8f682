"""Grading in separate processes, which may hang or die."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import pytest

from openrlhf_sfpo.tasks import grading_pool
from openrlhf_sfpo.tasks.grading_pool import GradingError, GradingPool, Outcome
from openrlhf_sfpo.tasks.rewards import BUILTIN, TIMEOUTS

BUSY = ("builtins:pow", [[7, 10**9], *[[2, number] for number in range(8)]])


@pytest.fixture
def pool() -> Iterator[GradingPool]:
    one = GradingPool(workers=2, seconds=1.0)
    yield one
    one.close()


def test_a_slow_grading_ends_without_delaying_others(pool: GradingPool) -> None:
    """The large power is computed in C, where no signal interrupts it."""
    slow, *others = pool.run(*BUSY)
    assert slow.timed_out
    assert [outcome.value for outcome in others] == [2**number for number in range(8)]


def test_a_grading_that_only_waits_ends_too(pool: GradingPool) -> None:
    assert pool.run("time:sleep", [[600]])[0].timed_out


def test_killed_workers_are_started_again(pool: GradingPool) -> None:
    assert pool.run("builtins:abs", [[-1]] * 4)[0].value == 1
    before = pool.pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert [outcome.value for outcome in pool.run("builtins:abs", [[-2]] * 4)] == [2] * 4
    assert not set(before) & set(pool.pids())


def test_a_grading_is_tried_again_once(pool: GradingPool) -> None:
    """It kills its worker each time; later gradings must not be affected."""
    assert pool.run("os:abort", [[]])[0].timed_out
    assert pool.run("builtins:abs", [[-3]])[0].value == 3


def test_a_worker_killed_in_the_middle_of_a_grading() -> None:
    pool = GradingPool(workers=1, seconds=60.0)
    with ThreadPoolExecutor(1) as threads:
        pool.run("builtins:abs", [[-1]])
        outcome = threads.submit(pool.run, "time:sleep", [[2.0]])
        time.sleep(0.5)
        os.kill(pool.pids()[0], signal.SIGKILL)
        assert not outcome.result()[0].timed_out
    pool.close()


def test_errors_of_the_function_are_reported(pool: GradingPool) -> None:
    with pytest.raises(GradingError, match="ValueError: invalid literal"):
        pool.run("builtins:int", [["x"]])
    with pytest.raises(GradingError, match="No module named 'no_such_grader'"):
        pool.run("no_such_grader:grade", [["x"]])


def test_a_memory_hog_is_stopped(pool: GradingPool) -> None:
    with pytest.raises(GradingError, match="MemoryError"):
        pool.run("builtins:bytearray", [[2**36]])


def test_any_text_reaches_a_worker_unchanged(pool: GradingPool) -> None:
    text = "\ud800 \u2028 é \0 \n" * 50_000
    assert pool.run("builtins:len", [[text]])[0].value == len(text)


def test_timeouts_are_counted_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    late = SimpleNamespace(run=lambda function, arguments: [Outcome(None, timed_out=True) for _ in arguments])
    monkeypatch.setattr("openrlhf_sfpo.tasks.rewards.shared_pool", lambda: late)
    result = BUILTIN["math_boxed"](["P\\boxed{4}", "P4"], ["P", "P"], ["4", "4"])
    assert result["scores"] == [0.0, 0.0]
    assert result["rewards"] == [0.1, 0.0]
    assert result["extra_logs"][TIMEOUTS] == [1.0, 1.0]


SCRIPT = """
from openrlhf_sfpo.tasks.rewards import BUILTIN
print(BUILTIN["math"](["P\\\\boxed{1/2}"], ["P"], ["0.5"])["rewards"])
"""


@pytest.mark.parametrize("way", ["script", "stdin", "thread", "fork"])
def test_rewards_work_without_a_main_guard(way: str, tmp_path: object) -> None:
    scripts = {
        "thread": "import threading\ndef run():\n"
        + textwrap.indent(SCRIPT, "    ")
        + "\nthread = threading.Thread(target=run)\nthread.start()\nthread.join()\n",
        "fork": SCRIPT.replace(
            "print(", "BUILTIN['math'](['P'], ['P'], ['1'])\nimport os\nif os.fork():\n    os.wait()\nelse:\n    print("
        ),
    }
    script = scripts.get(way, SCRIPT)
    path = f"{tmp_path}/script.py"
    with open(path, "w", encoding="utf-8") as file:
        file.write(script)
    command = [sys.executable, "-"] if way == "stdin" else [sys.executable, path]
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[1.0]\n", done.stderr


def test_workers_end_with_their_parent_however_it_ends() -> None:
    """Even in the middle of a computation."""
    script = f"""
import threading, time
from openrlhf_sfpo.tasks.grading_pool import GradingPool
pool = GradingPool(workers=1, seconds=600.0)
threading.Thread(target=pool.run, args=({BUSY[0]!r}, [[7, 10**9]]), daemon=True).start()
while not pool.pids():
    time.sleep(0.05)
time.sleep(0.5)
print(*pool.pids(), flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        (worker,) = map(int, parent.stdout.readline().split())
        process = psutil.Process(worker)
        parent.kill()
    alive = psutil.wait_procs([process], timeout=30)[1]
    assert not alive or process.status() == psutil.STATUS_ZOMBIE


def test_out_of_memory_kills_a_grader_first(pool: GradingPool) -> None:
    pool.run("builtins:abs", [[-1]])
    with open(f"/proc/{pool.pids()[0]}/oom_score_adj", encoding="ascii") as file:
        assert file.read().strip() == "1000"


def test_the_pool_is_shared() -> None:
    assert grading_pool.shared_pool() is grading_pool.shared_pool()
