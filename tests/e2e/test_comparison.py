"""A comparison whose runs are real, killed and continued."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli import compare, small_grid

from openrlhf_sfpo.report.runs import load_run

FIRST, SECOND = "grpo_lr=0.0001_seed=1", "sfpo_lr=0.0001_seed=1"


def accuracies(out: Path) -> dict[str, list[list[tuple[float, ...]]]]:
    """The curves in a report, without what depends on the machine's speed."""
    groups = json.loads((out / "report.json").read_text())["groups"]
    return {
        group["variant"]: [
            [(p["step"], p["rollouts"], p["passes"], p["accuracy"]) for p in curve] for curve in group["curves"]
        ]
        for group in groups
    }


@pytest.fixture(scope="module")
def continued(testbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison whose process was killed during its second run, and that was then started again."""
    directory = tmp_path_factory.mktemp("comparison")
    config, out = small_grid(testbed, directory / "grid.yaml"), directory / "out"
    command = [sys.executable, "-m", "openrlhf_sfpo.cli.main", "compare", str(config), "--out", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Like `command &` in a script.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    wait_for(lambda: len(curve_of(out / "runs" / SECOND)) >= 2)  # four more steps follow
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(started, timeout=90)[1] == []  # no process is left
    finished = out / "runs" / FIRST / "metrics.jsonl"
    before = finished.read_bytes()
    done = compare(str(config), "--out", str(out))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs_of(out)}"
    assert "2 runs in" in done.stdout
    assert "1 of them finished" in done.stdout
    assert finished.read_bytes() == before
    return out


@pytest.mark.slow
def test_a_killed_comparison_resumes_to_the_same_result(continued: Path) -> None:
    """The second run reused the engines and actors of the first until it was killed; repeated, it had fresh ones."""
    runs = continued / "runs"
    cut_short, again = numbers_of(runs / f"{SECOND}.incomplete-1"), numbers_of(runs / SECOND)
    assert "reusing the previous run's engines and actors" in console_of(runs / f"{SECOND}.incomplete-1")
    assert "Ray is up" in console_of(runs / SECOND)
    assert len(again) == 7
    *whole, last = cut_short
    assert again[: len(whole)] == whole
    # An evaluation is added to its step's line later; the kill may have come before that.
    assert {name: again[len(whole)][name] for name in last} == last
    assert all(line["train/actor_grad_norm"] > 0 for line in cut_short[1:])
    assert list(accuracies(continued).values()) == [[curve_of(runs / FIRST)], [curve_of(runs / SECOND)]]


@pytest.mark.slow
def test_the_resumed_comparisons_table_is_that_of_an_undisturbed_one(
    continued: Path, testbed: Path, tmp_path: Path
) -> None:
    done = compare(str(small_grid(testbed, tmp_path / "grid.yaml")), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs_of(tmp_path)}"
    assert accuracies(tmp_path / "out") == accuracies(continued)


def curve_of(run: Path) -> list[tuple[float, ...]]:
    """A run's evaluations, without what depends on the machine's speed."""
    return [(p.step, p.rollouts, p.passes, p.accuracy) for p in load_run(run).points()]


def numbers_of(run: Path) -> list[dict[str, Any]]:
    """Everything that a run's steps measured of the model, its samples and its updates.

    The engine's log-probabilities of its samples are left out: training does not use them here, and they have been seen
    to differ (0.0082 and 0.0090) where samples, losses and gradients were the same to the last bit.
    """
    taken = ("time/", "wall_seconds", "sfpo/reposition_seconds", "train/rollout_log_prob_abs_diff")
    return [{name: value for name, value in line.items() if not name.startswith(taken)} for line in load_run(run).lines]


def wait_for(condition: Callable[[], bool], seconds: float = 400.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def console_of(run: Path) -> str:
    return (run / "logs" / "console.log").read_text()


def logs_of(out: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in out.rglob("*.log"))
