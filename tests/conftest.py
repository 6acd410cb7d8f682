"""Fixtures: rank processes, the pretrained model and a small one, the testbed. Also: which tests are skipped where."""

import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import REWARD
from places import ROOT, UNIT
from ranks import RankPool
from tiny_runs import command, flags

# Time limit in seconds for all tests but the slow ones; they take about a third of it on two cores.
SESSION_S = 4500


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")
    parser.addoption("--quick", action="store_true", help="run tests/unit, and of the others those that are marked so")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Limit the time of the run, so that it ends with a summary before continuous integration kills it. And handle
    SIGHUP and SIGINT as in a terminal: under nohup and in a script's background they are ignored, and the commands
    under test would ignore them as well."""
    if not config.option.slow and not config.option.session_timeout:
        config.option.session_timeout = SESSION_S
    for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    if config.getoption("--quick"):
        chosen = [item for item in items if UNIT in item.path.parents or "quick" in item.keywords]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report the time by file: on a slow machine a few files that start engines take nearly all of it."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    total = sum(seconds.values())
    if total < 60:
        return
    terminalreporter.section("seconds by file")
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1])[:12]:
        terminalreporter.write_line(f"{spent:7.0f}  {100 * spent / total:3.0f} %  {name}")


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Rank processes, shared by all tests."""
    pool = RankPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The pretrained model of the quickstart, unpacked once and kept in models/."""
    from openrlhf_sfpo.tasks.smollm2 import make

    return make(ROOT / "models" / "SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def small_model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first four layers of the pretrained model, with its tokenizer: quick to load."""
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("models") / "four_layers"
    shutil.copytree(smollm2, path, ignore=shutil.ignore_patterns("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    model.model.layers = model.model.layers[:4]
    model.config.num_hidden_layers = 4
    model.config.layer_types = None
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The testbed's model and problems; the model is trained so briefly that it answers hardly anything correctly."""
    directory = tmp_path_factory.mktemp("testbed")
    command = [sys.executable, str(ROOT / "examples" / "testbed" / "prepare.py"), str(directory)]
    done = subprocess.run([*command, "--steps", "20", "--batch", "64"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 20/20" in done.stdout
    return directory


@pytest.fixture(scope="session")
def problems(testbed: Path) -> Path:
    """The testbed with its own reward function (reward.py) and a few evaluation problems (few.jsonl)."""
    (testbed / "reward.py").write_text(REWARD)
    lines = (testbed / "eval.jsonl").read_text().splitlines(True)
    (testbed / "few.jsonl").write_text("".join(lines[:24]))
    return testbed


@pytest.fixture(scope="session")
def undisturbed(problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without faults, except that the reader of its output closes the pipe after the first line, like
    `| head -1`. Its rollouts are recorded next to it."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    arguments = flags(run_dir, problems, rollout__record_dir=run_dir.parent / "rollouts")
    started = command(arguments, [], run_dir.parent / "faults")
    with subprocess.Popen(**started, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(timeout=800)
    assert first.strip(), "warnings of the data, or the run directory"
    log = (run_dir / "logs" / "driver.log").read_text()
    assert (process.returncode, errors) == (0, ""), log
    assert "Traceback" not in log
    return run_dir
