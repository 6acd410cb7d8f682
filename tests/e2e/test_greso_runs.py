"""GRESO in real runs: what is thrown away is counted, recordings replay it, and a killed run decides alike."""

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import flags, replayed, train

from openrlhf_sfpo.report.reading import read_metrics

# Three episodes of 60 problems, with an entropy bonus that adapts.
GRESO: dict[str, Any] = {
    "algo__greso__enable": True,
    "algo__adaptive_entropy__enable": True,
    "algo__adaptive_entropy__target": 9.0,
    "data__max_samples": 60,
    "train__num_episodes": 3,
    "reward__remote_url": "exact",
    "eval__dataset": None,
    "eval__steps": None,
    "eval__n_samples_per_prompt": None,
}
SAME = (
    *("rollouts_total", "reward_mean", "train/actor_grad_norm", "train/adaptive_entropy_coef"),
    *("greso/skipped_easy", "greso/skipped_hard", "greso/p_hard", "greso/rounds", "rollout/num_sampled"),
)


@pytest.fixture(scope="module")
def undisturbed(problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("greso") / "run"
    recording = run_dir.parent / "recording"
    done = train(flags(run_dir, problems, rollout__record_dir=recording, **GRESO), [], run_dir.parent / "faults")
    assert done.returncode == 0, done.stdout
    return run_dir


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run_dir) if line["step"] > 0]


def test_every_response_counts_and_groups_without_variance_are_left_out(undisturbed: Path) -> None:
    lines = lines_of(undisturbed)
    assert len(lines) >= 2
    assert lines[-1]["rollouts_total"] == sum(line["rollout/num_sampled"] for line in lines)
    for line in lines:
        assert line["rollout/num_samples"] <= line["rollout/num_sampled"]
        assert line["rollout/num_samples"] % 4 == 0
        assert line["train/group_reward_std"] > 0
    assert any(line["rollout/num_samples"] < line["rollout/num_sampled"] for line in lines)
    assert sum(line["greso/skipped_hard"] for line in lines) > 0, "the model solves hardly anything"
    rises = [line["train/adaptive_entropy_coef"] for line in lines]
    assert rises == pytest.approx([1e-4 * number for number in range(len(lines))])


@pytest.mark.slow
def test_a_recording_replays_it(undisturbed: Path, problems: Path, tmp_path: Path) -> None:
    others = {name: value for name, value in GRESO.items() if not name.startswith(("data", "eval", "reward"))}
    again = replayed(tmp_path / "run", problems, undisturbed.parent / "recording", **others)
    done = train(again, [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout
    for ours, theirs in zip(lines_of(tmp_path / "run"), lines_of(undisturbed), strict=True):
        for name in ("rollouts_total", "reward_mean", "greso/skipped_hard", "greso/rounds", "rollout/num_sampled"):
            assert ours[name] == theirs[name], name


@pytest.mark.slow
def test_a_killed_run_continues_with_the_same_decisions(undisturbed: Path, problems: Path, tmp_path: Path) -> None:
    arguments = flags(tmp_path / "run", problems, **GRESO)
    fault = {"at": "rollout", "nth": 3, "do": "kill_all"}  # after two steps
    killed = train(arguments, [fault], tmp_path / "faults")
    assert killed.returncode != 0
    done = train([*arguments, "--ckpt.load_enable"], [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout
    for ours, theirs in zip(lines_of(tmp_path / "run"), lines_of(undisturbed), strict=True):
        for name in SAME:
            assert ours[name] == pytest.approx(theirs[name]), name
