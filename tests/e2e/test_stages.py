"""Runs in stages: the second goes on from the first, with its optimizer to the bit, also after it was killed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli import run
from places import ROOT
from skywork_rows import write_skywork
from tiny_runs import comparable, replayed, train

from openrlhf_sfpo.report.reading import read_metrics
from openrlhf_sfpo.rollout.recording import record_files

PLAIN: dict[str, Any] = {
    "sfpo__gate": "off",
    "actor__lr_scheduler": "constant",
    "ckpt__save_steps": None,
    "eval__steps": None,
    "eval__n_samples_per_prompt": None,
    "data__max_samples": 32,
}


@pytest.fixture(scope="module")
def recordings(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recorded batches, as a whole and in two halves."""
    place = tmp_path_factory.mktemp("recordings")
    files = [Path(file) for file in record_files(str(undisturbed.parent / "rollouts"))][:4]
    for name, part in (("whole", files), ("first", files[:2]), ("second", files[2:])):
        (place / name).mkdir()
        for number, file in enumerate(part, 1):
            shutil.copy(file, place / name / f"rollouts_{number:06d}.safetensors")
    return place


def in_stages(place: Path, recordings: Path, keep_optimizer: bool) -> list[str]:
    stages = {
        "short": {"rollout.replay_dir": str(recordings / "first")},
        "long": {"rollout.replay_dir": str(recordings / "second"), "sfpo": {"k": 1}, "keep_optimizer": keep_optimizer},
    }
    (place / "stages.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    return [f"--train.stages={place / 'stages.yaml'}"]


def model_of(run_dir: Path) -> bytes:
    return (run_dir / "hf" / "model.safetensors").read_bytes()


def test_a_stage_that_keeps_the_optimizer_is_the_run_going_on(problems: Path, recordings: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    plain = replayed(run_dir, problems, recordings / "whole", **PLAIN)
    stages = [*plain, *in_stages(tmp_path, recordings, keep_optimizer=True)]
    # Killed in the second stage, which has no checkpoint of its own yet.
    killed = train(stages, [{"at": "slow", "nth": 4, "do": "kill_all"}], tmp_path / "faults")
    assert killed.returncode != 0
    assert (run_dir / "1_short" / "hf").is_dir() and not (run_dir / "2_long" / "hf").exists()
    done = train(stages, [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stage 1/2, short, has finished before" in done.stdout
    # The same four batches as one run, of which the second half has other flags.
    once = tmp_path / "once"
    half = replayed(once, problems, recordings / "first", **{**PLAIN, "ckpt__save_last": True})
    assert train(half, [], tmp_path / "faults").returncode == 0
    assert model_of(once) == model_of(run_dir / "1_short")
    on = replayed(tmp_path / "on", problems, recordings / "second", **{**PLAIN, "sfpo__k": 1, "ckpt__start_from": once})
    assert train(on, [], tmp_path / "faults").returncode == 0
    assert model_of(tmp_path / "on") == model_of(run_dir / "2_long")
    lines = read_metrics(run_dir)
    assert [(line["step"], line["stage"]) for line in lines] == [(1, "short"), (2, "short"), (3, "long"), (4, "long")]
    assert [line["sfpo/backward_passes_total"] for line in lines] == [3, 6, 8, 10]
    assert [line["rollouts_total"] for line in lines] == [16, 32, 48, 64]
    assert (run_dir / "curves.png").is_file()
    again = train(stages, [], tmp_path / "faults")
    assert (again.returncode, "all stages have finished" in again.stdout) == (0, True), again.stdout


@pytest.mark.slow
def test_the_optimizers_state_is_that_of_the_checkpoint(problems: Path, recordings: Path, tmp_path: Path) -> None:
    """A run over all batches, and two halves of it, are the same to the bit; without the optimizer they are not."""
    for name, changes in {
        "whole": {},
        "first": {"ckpt__save_last": True},
        "second": {"ckpt__start_from": tmp_path / "first"},
        "fresh": {"actor__model_name_or_path": tmp_path / "first" / "hf"},
    }.items():
        recording = recordings / ("second" if name == "fresh" else name)
        done = train(replayed(tmp_path / name, problems, recording, **{**PLAIN, **changes}), [], tmp_path / "faults")
        assert done.returncode == 0, done.stdout
    assert model_of(tmp_path / "second") == model_of(tmp_path / "whole")
    assert model_of(tmp_path / "fresh") != model_of(tmp_path / "whole")
    assert comparable(tmp_path / "second")[0]["train/actor_grad_norm"] == pytest.approx(
        comparable(tmp_path / "whole")[2]["train/actor_grad_norm"]
    )


@pytest.mark.slow
def test_the_recipe_of_skywork_or1_in_small(smollm2: Path, tmp_path: Path) -> None:
    """Its rows, difficulty, rewards, dropped groups, adaptive entropy and two stages, with a pretrained model."""
    write_skywork(tmp_path / "data", 51)
    recipes = ROOT / "examples" / "recipes"
    (tmp_path / "stages.yaml").write_text(
        "short: {rollout.max_new_tokens: 16}\nlonger: {rollout.max_new_tokens: 24, data.max_len: 104}\n"
    )
    own = {
        "run.dir": tmp_path / "run",
        "train.stages": tmp_path / "stages.yaml",
        "actor.model_name_or_path": smollm2,
        "actor.adam.lr": 1e-5,
        "vllm.num_engines": 1,
        "data.prompt_dataset": ",".join(str(tmp_path / "data" / f"{name}-0.parquet") for name in ("code", "math")),
        "data.difficulty_model": "DeepSeek-R1-Distill-Qwen-1.5B",
        "data.min_difficulty": 3,
        "data.max_len": 96,
        "data.max_samples": 24,
        "eval.steps": -1,
        "rollout.batch_size": 8,
        "train.num_episodes": 1,
        "train.max_tokens_per_gpu": 832,
        "algo.adaptive_entropy.target": 9,
        "ckpt.best_metric_key": "none",
    }
    words = [f"--config={recipes / 'paper.yaml'}", f"--config={recipes / 'skywork-or1.yaml'}"]
    done = run("train", *words, *(f"--{name}={value}" for name, value in own.items()), timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read_metrics(tmp_path / "run")
    assert {line["stage"] for line in lines} == {"short", "longer"}
    assert sum(line["rollout/equal_groups"] for line in lines) > 0
    for line in lines:
        assert line["rollout/num_samples"] == line["rollout/num_sampled"] - 16 * line["rollout/equal_groups"]
    assert lines[-1]["rollouts_total"] == 2 * 24 * 16
    assert any(line["reward_mean"] > 0 for line in lines), "some sums are solved"
    first = [line for line in lines if line["stage"] == "short"]
    assert [line["train/adaptive_entropy_coef"] for line in first] == pytest.approx(
        [1e-4 * n for n in range(len(first))]
    )
