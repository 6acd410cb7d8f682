"""Runs whose processes are killed and stopped, whose disk is full, whose numbers go bad and whose output nobody reads:
nothing is lost, and what is said is true.

No limit of time is the machine's: they follow from how long the undisturbed run took.
"""

import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny_runs import STEPS, assert_the_same, flags, replayed, train

from openrlhf_sfpo.checkpoints.directory import PLACE, newest_complete
from openrlhf_sfpo.report.reading import read_metrics, read_status
from openrlhf_sfpo.report.runs import load_run
from openrlhf_sfpo.rollout.recording import load_rollouts, save_rollouts
from openrlhf_sfpo.system.files import locked


@pytest.fixture(scope="module")
def slowest_step(undisturbed: Path) -> float:
    """Seconds of the undisturbed run's slowest step on this machine."""
    return max(line.get("time/step_total", 0.0) for line in read_metrics(undisturbed))


@pytest.fixture(scope="module")
def start_up(undisturbed: Path) -> float:
    """Seconds until the undisturbed run had its engine and its model up and had made a step."""
    return next(line["wall_seconds"] for line in read_metrics(undisturbed) if line["step"] == 1)


def test_a_run_continues_when_its_output_is_closed(undisturbed: Path) -> None:
    """See the fixture: the first line was read, and then the pipe was closed."""
    status = read_status(undisturbed)
    assert status["state"] == "finished"
    assert "reason" not in status
    assert [line["step"] for line in read_metrics(undisturbed)] == list(range(STEPS + 1))
    assert (undisturbed / "hf" / "model.safetensors").is_file()


def assert_as_if_nothing_had_happened(run_dir: Path, undisturbed: Path) -> None:
    """Metrics are the same, weights and optimizer state to the bit."""
    assert_the_same(run_dir, undisturbed)
    newest = newest_complete(run_dir / "checkpoints" / PLACE)
    assert newest.step == STEPS
    common = torch.load(newest.path / "common.pt", weights_only=False)
    passes = common["sfpo"]["backward_passes_total"]
    assert STEPS < passes < 3 * STEPS, "the gate has closed on the way"
    assert common["actor"]["adam_step"] == 2 * passes, "two optimizer steps each"
    assert common["actor"]["learning_rate"]["last_epoch"] == STEPS * 2, "the schedule advances with the slow passes"
    same = torch.load(newest_complete(undisturbed / "checkpoints" / PLACE).path / "common.pt", weights_only=False)
    assert common["sfpo"] == same["sfpo"], "gate and counters"


def test_a_dead_engine_is_restarted_and_a_killed_run_continues(
    problems: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Each in the middle of a step; what was killed is started again by the same command."""
    arguments = flags(tmp_path / "run", problems)
    faults = [
        {"at": "rollout", "nth": 2, "do": "kill ray::RolloutEngine", "delay": 0.05},
        {"at": "saving a checkpoint", "nth": 3, "do": "kill_all", "delay": 0.05},
    ]
    done = train(arguments, faults, tmp_path / "faults")
    assert done.returncode == -9, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count("engine 0 died (its process is gone); restarting it") == 1
    assert done.stdout.count("engine 0 is up again with the current weights") == 1
    assert load_run(tmp_path / "run").state == "died"

    done = train(arguments, [], tmp_path / "later_faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "died without writing a final status" in done.stdout
    assert "continuing after step" in done.stdout
    assert_as_if_nothing_had_happened(tmp_path / "run", undisturbed)
    assert len(read_status(tmp_path / "run")["continued"]) == 1


@pytest.mark.slow
def test_engines_that_die_or_hang(problems: Path, undisturbed: Path, slowest_step: float, tmp_path: Path) -> None:
    """One in the middle of a rollout, one between a rollout and the weight transfer; then one hangs."""
    faults = [
        {"at": "rollout", "nth": 2, "do": "kill ray::RolloutEngine", "delay": 0.05},
        {"at": "slow", "nth": 3, "do": "kill ray::RolloutEngine"},
        {"at": "rollout", "nth": 5, "do": "stop EngineCore"},
    ]
    limit = max(6, round(5 * slowest_step))  # seconds after which a hang is noticed
    done = train(flags(tmp_path / "run", problems, rollout__engine_timeout=limit), faults, tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("engine 0 died (its process is gone); restarting it") == 2
    assert f"engine 0 has not answered for {limit} s (--rollout.engine_timeout)" in done.stdout
    assert done.stdout.count("engine 0 is up again with the current weights") == 3
    assert_as_if_nothing_had_happened(tmp_path / "run", undisturbed)


def kills(count: int) -> list[dict[str, Any]]:
    """Moments to kill everything at; each phase comes before any comes again."""
    moments = random.Random(6)
    phases = [
        "saving a checkpoint",
        "reposition",
        "rollout",
        "old log-probabilities",
        "fast 1/2",
        "slow",
        "weights to vLLM",
        "fast 2/2",
    ]
    faults = []
    for number in range(count):
        # The first one leaves a checkpoint behind; the others come before the gate closes and ends the fast passes.
        nth = 2 if number == 0 else 1
        fault: dict[str, Any] = {"at": phases[number % len(phases)], "nth": nth, "do": "kill_all"}
        if number % 2 == 0:
            fault["delay"] = round(moments.uniform(0.0, 0.1), 3)
        faults.append(fault)
    return faults


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_at_any_moment(problems: Path, undisturbed: Path, tmp_path: Path) -> None:
    arguments = flags(tmp_path / "run", problems)
    for number, fault in enumerate(kills(20)):
        done = train(arguments, [fault], tmp_path / f"faults{number}")
        assert done.returncode == -9, f"{fault}\n{done.stdout}\n{done.stderr}"
        assert load_run(tmp_path / "run").state == "died"
    done = train(arguments, [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "continuing after step" in done.stdout
    assert_as_if_nothing_had_happened(tmp_path / "run", undisturbed)
    assert len(read_status(tmp_path / "run")["continued"]) == 20


UPDATES = {
    "prediction, cosine, momentum": {
        "sfpo__preset": "prepo",
        "sfpo__k": 4,
        "sfpo__prepo_retention": "gradient",
        "sfpo__gate": "cosine",
        "sfpo__gate_threshold": 1.0,
        "sfpo__outer_momentum": 0.5,
        "sfpo__outer_lr": 0.7,
    },
    "part, limits, gradient norm": {
        "sfpo__fast_fraction": 0.5,
        "sfpo__fast_selection": "random",
        "sfpo__fast_rescale": True,
        "sfpo__max_fast_kl": 0.001,
        "sfpo__gate": "grad_norm",
        "sfpo__gate_threshold": 100,
        "sfpo__optimizer_state": "restore",
    },
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", UPDATES)
def test_killed_between_any_two_stages_of_an_update(problems: Path, tmp_path: Path, name: str) -> None:
    """Once in each stage; then the same command ends with the bits of a run that nothing happened to."""
    done = train(flags(tmp_path / "undisturbed", problems, **UPDATES[name]), [], tmp_path / "none")
    assert done.returncode == 0, done.stdout + done.stderr
    arguments = flags(tmp_path / "run", problems, **UPDATES[name])
    stages = ["fast 1/2", "reposition", "slow", "saving a checkpoint"]  # the other test has the rest
    for number, stage in enumerate(stages):
        fault = {"at": stage, "nth": 2 if number == 0 else 1, "do": "kill_all"}
        done = train(arguments, [fault], tmp_path / f"faults{number}")
        assert done.returncode == -9, f"{fault}\n{done.stdout}\n{done.stderr}"
    done = train(arguments, [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_the_same(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "deaths",
    [pytest.param([], id="hang"), pytest.param([{"at": "slow", "rank": 1, "do": "kill_self"}], id="dead rank")],
)
def test_a_hang_and_a_sigterm(
    problems: Path, undisturbed: Path, start_up: float, tmp_path: Path, deaths: list[dict[str, Any]]
) -> None:
    """On two data-parallel ranks; what is left of the run then continues on two pipeline stages."""
    faults = [
        *deaths,
        {"at": "fast 1/2", "nth": 2, "rank": 1, "do": "stop_self"},
        {"at": "reposition", "nth": 2, "do": "sigterm"},
    ]
    recording, run_dir = undisturbed.parent / "rollouts", tmp_path / "run"
    # Loading the model is a small part of what was measured, and so is everything else that has to happen in time.
    limit = max(12, round(start_up / 2))
    ranks = {"actor__num_gpus_per_node": 2, "train__timeout": limit, "train__grace_seconds": 500}
    arguments = replayed(run_dir, problems, recording, **ranks)
    done = train([*arguments, "--run.interrupted_exit_status=143"], faults, tmp_path / "faults")
    assert done.returncode == 143, done.stdout + done.stderr
    shown = done.stdout
    assert f"no rank made progress for {limit} s (--train.timeout) in: fast 1/2" in shown
    # Which of the two is seen first is up to the machine.
    died = re.search(r"the process of FaultyPolicy \(process \d+ on .*\) ended unexpectedly|onnection", shown)
    assert died or not deaths, shown
    assert re.search(r"Rank 1 \(process \d+ on .*\) did not arrive: it has given no sign of life for", shown)
    assert re.search(r"Rank\(s\) 0 wait for the others in \w+", shown)
    assert [process for process in psutil.process_iter(["name"]) if "FaultyPol" in process.info["name"]] == [], (
        "the rank that was stopped is gone, too"
    )
    stacks = (run_dir / "logs" / "stacks.txt").read_text()
    assert stacks.count("\nrank ") == 1, "one of each rank"
    assert stacks.count("run_pass") == 2, "also of the one that was stopped"
    assert shown.count("restarting from the last checkpoint") == 1 + len(deaths)
    assert "SIGTERM: finishing the step in progress and saving a checkpoint (up to 500 s" in shown
    ended = re.search(
        r"stopped after step (\d); its checkpoint is saved\. The same command continues after step \1", shown
    )
    assert ended, shown
    assert not re.search(r"\x1b|Traceback|File \"", shown), "one line for each failure"
    step = int(ended.group(1))
    assert newest_complete(run_dir / "checkpoints" / PLACE).step == step < STEPS
    assert not (run_dir / "hf").exists()
    status = read_status(run_dir)
    assert (status["state"], status["reason"]) == (
        "interrupted",
        f"SIGTERM: stopped after step {step}; its checkpoint is saved",
    )
    assert list((run_dir / "logs" / "workers").glob("FaultyPolicy-*.err"))

    changed = [*arguments, "--actor.adam.lr=1e-3"]
    done = train(changed, [], tmp_path / "faults")
    assert done.returncode == 2
    assert "actor.adam.lr was 0.0001, is 0.001" in done.stderr
    assert "--run.allow_changed actor.adam.lr" in done.stderr

    done = train([*arguments, "--megatron.pipeline_model_parallel_size=2"], [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"continuing after step {step}," in done.stdout
    assert "PP=2 DP=1" in done.stdout
    assert [line["step"] for line in read_metrics(run_dir)] == list(range(1, STEPS + 1))
    assert [line["rollouts_total"] for line in read_metrics(run_dir)] == [16 * n for n in range(1, STEPS + 1)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint and a half."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs needs root: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_and_a_reward_that_is_not_a_number(
    problems: Path, undisturbed: Path, tmp_path: Path, small_disk: Path
) -> None:
    recording = tmp_path / "rollouts"
    for number in range(1, 4):
        batch = load_rollouts(undisturbed.parent / "rollouts" / f"rollouts_{number:06d}.safetensors")
        if number == 2:
            batch[3].reward = float("nan")
        save_rollouts(recording, number, batch)
    run_dir = tmp_path / "run"
    changes = {"train__on_nonfinite": "skip", "ckpt__path": small_disk / "checkpoints"}
    done = train(replayed(run_dir, problems, recording, **changes), [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2: a reward is nan" in done.stdout
    assert "The update is skipped" in done.stdout
    (aside,) = (run_dir / "nonfinite").iterdir()
    assert [record.tokens.tolist() for record in load_rollouts(aside)] == [
        one.tokens.tolist() for one in batches(recording, 2)
    ]
    lines = read_metrics(run_dir)
    assert [line.get("train/skipped_update") for line in lines] == [0.0, 1.0, 0.0]
    assert lines[2]["sfpo/backward_passes_total"] == 6.0, "the second batch has none"
    first = read_metrics(undisturbed)[1]
    for name in ("reward_mean", "train/policy_loss", "train/actor_grad_norm", "sfpo/entropy", "sfpo/entropy_start"):
        assert lines[0][name] == pytest.approx(first[name], rel=1e-4, abs=1e-6), f"{name} as with an engine"
    assert re.search(r"checkpoint global_step2 could not be written \(no space left in .*small", done.stdout), (
        done.stdout
    )
    assert "the previous one is kept, and training continues" in done.stdout
    place = small_disk / "checkpoints" / PLACE
    assert newest_complete(place).step == 1
    assert {path.name for path in place.iterdir()} == {"global_step1"}, "nothing half-written is left"
    assert (run_dir / "hf" / "model.safetensors").is_file()


def batches(recording: Path, number: int) -> list[Any]:
    return load_rollouts(recording / f"rollouts_{number:06d}.safetensors")


@pytest.mark.slow
def test_load_enable_continues_in_a_new_run_directory(problems: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Half of the batches, then all of them from the first run's checkpoints, which come with models."""
    recording, half = undisturbed.parent / "rollouts", tmp_path / "half"
    half.mkdir()
    for number in range(1, 5):
        name = f"rollouts_{number:06d}.safetensors"
        (half / name).symlink_to(recording / name)
    place = tmp_path / "first" / "checkpoints"
    done = train(replayed(tmp_path / "first", problems, half, ckpt__save_hf=True), [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in place.glob("*_hf")} == {f"global_step{step}_hf" for step in (2, 3, 4)}
    assert (place / "global_step4_hf" / "model.safetensors").is_file()
    again = {"ckpt__path": place, "ckpt__load_enable": True, "run__allow_changed": "rollout.replay_dir"}
    done = train(replayed(tmp_path / "second", problems, recording, **again), [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"continuing after step 4, from {place}" in done.stdout
    found = [line["step"] for line in read_metrics(tmp_path / "second")]
    assert found == list(range(4, STEPS + 1)), "with the line of the step that it continues from"
    assert newest_complete(place / PLACE).step == STEPS


@pytest.mark.slow
def test_an_engine_that_cannot_start_gives_the_reason_once(problems: Path, tmp_path: Path) -> None:
    """One megabyte of key/value cache is less than vLLM wants for a sequence of the length that is asked for."""
    model = tmp_path / "model"
    shutil.copytree(problems / "model", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    changes = {"actor__model_name_or_path": model, "data__max_len": 4096, "run__kv_cache_mb": 1}
    done = train(flags(tmp_path / "run", problems, **changes), [], tmp_path / "faults")
    assert done.returncode == 1, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "failed" in line or "could not start" in line]
    assert re.search(r"the run failed: engine 0 could not start: ValueError: .*max seq len \(4096\).* KV cache", line)
    assert not re.search(r"\x1b|Traceback|File \"", done.stdout)
    assert "restarting" not in done.stdout
    status = read_status(tmp_path / "run")
    assert status["state"] == "failed"
    assert status["reason"] in line
    logs = tmp_path / "run" / "logs"
    assert "EngineCore failed to start" in (logs / "engine0.log").read_text()
    assert "Traceback" in (logs / "failure.txt").read_text()


@pytest.mark.slow
def test_two_runs_on_one_directory(problems: Path, undisturbed: Path, tmp_path: Path) -> None:
    arguments = replayed(tmp_path / "run", problems, undisturbed.parent / "rollouts")
    with locked("--run.dir", tmp_path / "run"):
        done = train(arguments, [], tmp_path / "faults")
    assert done.returncode == 2
    assert re.search(r"--run.dir: .*/run is in use by another run \(process \d+ on ", done.stderr)
    with locked("--ckpt.path", tmp_path / "checkpoints"):
        done = train([*arguments, f"--ckpt.path={tmp_path / 'checkpoints'}"], [], tmp_path / "faults")
    assert done.returncode == 2
    assert "--ckpt.path" in done.stderr
    assert "in use" in done.stderr
    done = train([*arguments, f"--ckpt.path={undisturbed / 'checkpoints'}"], [], tmp_path / "faults")
    assert done.returncode == 2
    assert "already holds checkpoints of another run" in done.stderr


def test_a_finished_run_is_left_alone(problems: Path, undisturbed: Path, tmp_path: Path) -> None:
    before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
    arguments = flags(undisturbed, problems, rollout__record_dir=undisturbed.parent / "rollouts")
    done = train(arguments, [], tmp_path / "faults")
    assert done.returncode == 0, done.stderr
    assert "holds a finished run: nothing to do" in done.stdout
    assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before
