"""SIGTERM, SIGHUP and Ctrl-C, at any moment."""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.stopping import Stopping, StopRequested, hangups_blocked


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Handlers as in a new process: Ray, which another test has started in this one, leaves its own."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_outside_of_training_a_signal_stops_at_once(number: int) -> None:
    stopping = Stopping()
    with stopping.installed():
        with pytest.raises(StopRequested):
            os.kill(os.getpid(), number)
        assert stopping.signal_name == signal.Signals(number).name
        os.kill(os.getpid(), number)  # while it is being handled, another one changes nothing
        with pytest.raises(StopRequested), stopping.deferred():
            pytest.fail("training must not begin")
    assert signal.getsignal(number) == signal.SIG_DFL


def test_during_training_a_signal_is_only_recorded() -> None:
    stopping = Stopping()
    with stopping.installed(), stopping.deferred():
        assert stopping.requested is None
        os.kill(os.getpid(), signal.SIGHUP)
        assert stopping.requested is not None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.signal_name == "SIGHUP", "the first one counts"


def test_nohup_stays_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping().installed() as stopping:
            assert stopping is None
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_a_library_installs_is_replaced() -> None:
    stopping = Stopping()
    with stopping.installed():
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(1))
        stopping.take_back()
        with pytest.raises(StopRequested):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("ignored", [False, True], ids=["SIGINT as usual", "SIGINT ignored, as after &"])
def test_another_thread_interrupts_the_main_one(ignored: bool) -> None:
    stopping = Stopping()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else signal.getsignal(signal.SIGINT)
    try:
        with stopping.installed(), stopping.deferred():
            thread = threading.Thread(target=stopping.interrupt)
            with pytest.raises(StopRequested):
                thread.start()
                time.sleep(10)
            thread.join()
            assert stopping.requested is None, "nobody asked"
            os.kill(os.getpid(), signal.SIGTERM)  # is noted again
            assert stopping.requested is not None
    finally:
        signal.signal(signal.SIGINT, before)


def test_no_handlers_are_installed_in_another_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stopping, seen = Stopping(), []

    def start() -> None:
        with stopping.installed():
            seen.append(stopping.is_installed)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGTERM) == before


def test_processes_that_a_closing_terminal_must_not_reach() -> None:
    stopping = Stopping()
    with stopping.installed(), pytest.raises(StopRequested):
        with hangups_blocked():
            child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
                                     stdout=subprocess.PIPE)  # fmt: skip
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
            assert stopping.requested is None
        time.sleep(1)
    assert child.poll() is None, "it inherited the mask"
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize("words", [["plan", "MODEL"], ["train", "--dry-run"]])
def test_ctrl_c_during_the_imports(words: list[str]) -> None:
    """Raised by an import as Ctrl-C raises it, at a moment that does not depend on the machine's speed."""
    program = f"""
import builtins, os, signal, sys
from openrlhf_sfpo.cli.main import main
real = builtins.__import__
def interrupting(name, *args, **kwargs):
    if name.startswith("openrlhf_sfpo.system.errors"):
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *args, **kwargs)
builtins.__import__ = interrupting
sys.exit(main({words!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, f"openrlhf-sfpo {words[0]}: interrupted\n")


def test_an_interrupt_that_an_import_turns_into_another_exception(capsys: pytest.CaptureFixture[str]) -> None:
    from openrlhf_sfpo.cli.process import guarded

    def command() -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("cannot load the library") from None
        return 0

    assert guarded("openrlhf-sfpo plan", command) == 130
    assert capsys.readouterr().err == "openrlhf-sfpo plan: interrupted\n"
    with pytest.raises(ImportError):
        guarded("openrlhf-sfpo plan", lambda: __import__("no_such_module") and 0)


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (UsageError("--vllm.num_engines", "is 9.", "Use 1."), 2, "--vllm.num_engines: is 9. Use 1.\n"),
        (KeyError("a fault of this package"), 1, "Traceback (most recent call last):\n"),
    ],
)
def test_a_failed_run_of_a_comparison_gives_the_reason(
    error: Exception, status: int, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openrlhf_sfpo.runs import launcher, parallel_runs, preflight

    def fails(*args: Any) -> int:
        raise error

    monkeypatch.setattr(preflight, "prepare", lambda flat, given: tmp_path / "run")
    monkeypatch.setattr(launcher, "run_in", fails)
    run = parallel_runs.PlannedRun("run", tmp_path / "run", argparse.Namespace(), frozenset(), {})
    assert parallel_runs._run(SimpleNamespace(stopping=Stopping()), run) == status
    console = (tmp_path / "run" / "logs" / "console.log").read_text()
    assert console.startswith(shown)
    assert str(error.args[0]) in console


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_comparison_ends_as_with_ctrl_c(number: int) -> None:
    from openrlhf_sfpo.runs.parallel_runs import ParallelRuns

    with pytest.raises(KeyboardInterrupt), ParallelRuns(1, False, lambda run: None, lambda run, status, seconds: None):
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == signal.SIG_DFL
