"""Output that nobody reads: closed pipes and files, full devices, terminals that are gone."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openrlhf_sfpo.report.console import Console
from openrlhf_sfpo.system.streams import BestEffort, best_effort_output, quiet


def closed_pipe() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def hung_up_terminal() -> Any:
    """A terminal whose other end is gone: writing gives EIO."""
    ours, theirs = pty.openpty()
    os.close(ours)
    return os.fdopen(theirs, "w")


def closed_file() -> Any:
    file = open(os.devnull, "w")  # noqa: SIM115
    file.close()
    return file


BROKEN = {
    "closed pipe": closed_pipe,
    "full device": lambda: open("/dev/full", "w"),  # noqa: SIM115
    "hung-up terminal": hung_up_terminal,
    "closed file": closed_file,
    "none at all": lambda: None,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_console_whose_output_is_closed(kind: str) -> None:
    stream = BestEffort(BROKEN[kind]())
    console = Console(stream)
    for step in range(3):
        console.say("run directory")
        console.phase("evaluating", long=True)
        console.metrics({"step": step, "reward_mean": 0.5}, 3)
        console.plain("text")
    print("more", file=stream, flush=True)
    stream.release()
    assert stream.broken == (kind != "full device"), "which may have room again"
    assert not stream.isatty()


def test_a_working_stream_gets_everything_with_unencodable_letters_escaped() -> None:
    raw = io.BytesIO()
    stream = BestEffort(io.TextIOWrapper(raw, encoding="latin-1"))
    print("± é", file=stream, flush=True)
    print("∞", file=stream, flush=True)
    assert raw.getvalue().decode("latin-1") == "± é\n\\u221e\n"
    assert stream.encoding == "latin-1"
    assert not stream.broken


def test_standard_streams_are_restored(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with best_effort_output():
        print("shown")
        assert isinstance(sys.stdout, BestEffort)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "shown\n"


COMMAND = [sys.executable, "-m", "openrlhf_sfpo.cli.main"]


@pytest.mark.parametrize(
    ("redirection", "kept"),
    [("| head -1", "usage"), (">/dev/full", ""), (">&-", ""), ("2>&- >&- <&-", "")],
)
def test_a_command_whose_output_is_closed(redirection: str, kept: str) -> None:
    shell = f"set -o pipefail; {' '.join(COMMAND)} --help {redirection}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert kept in done.stdout


@pytest.mark.parametrize("verbose", [False, True])
def test_libraries_may_print_in_a_run_whose_output_is_closed(verbose: bool, tmp_path: Path) -> None:
    """In a separate process, whose output is a pipe that closes at the other end."""
    program = f"""
import os, sys
from pathlib import Path
from openrlhf_sfpo.system.streams import best_effort_output, quiet
with best_effort_output(), quiet(Path({str(tmp_path / "log")!r}), {verbose}) as stream:
    print("first", file=stream, flush=True)
    sys.stdin.read()
    for _ in range(3):
        print("a library", flush=True)
        print("a progress bar", file=sys.stderr, flush=True)
        os.system("echo a child")
        print("the run", file=stream, flush=True)
    Path({str(tmp_path / "end")!r}).touch()
"""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.readline() == "first\n"
    _, errors = process.communicate(b"", timeout=60)
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
    assert (tmp_path / "end").exists()
    if not verbose:
        assert (tmp_path / "log").read_text().count("a library") == 3


def test_output_is_restored_after_a_run(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with quiet(tmp_path / "log", verbose=False) as stream:
        os.system("echo noise")
        print("progress", file=stream, flush=True)
    os.system("echo after")
    assert capfd.readouterr().out == "progress\nafter\n"
    assert (tmp_path / "log").read_text() == "noise\n"


def test_a_slow_reader_is_not_mistaken_for_a_closed_one() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = BestEffort(os.fdopen(writer, "w"))
    for _ in range(40):
        print("x" * 10_000, file=stream, flush=True)
    assert not stream.broken
    while len(os.read(reader, 2**20)) == 2**16:
        pass
    print("the end", file=stream, flush=True)
    os.set_blocking(reader, False)
    shown = b""
    while not shown.endswith(b"the end\n"):
        shown += os.read(reader, 2**20)
        print(end="", file=stream, flush=True)
    stream.release()
    os.close(reader)
