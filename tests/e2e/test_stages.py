"""Runs in stages: the second continues the first bit for bit when it keeps the optimizer, even if it is killed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli import run
from places import ROOT
from skywork_rows import write_skywork
from tiny_runs import replayed, train

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
    """Four recorded batches, as a whole and in two parts."""
    place = tmp_path_factory.mktemp("recordings")
    files = [Path(file) for file in record_files(str(undisturbed.parent / "rollouts"))][:4]
    for name, part in (("whole", files), ("first", files[:1]), ("second", files[1:])):
        (place / name).mkdir()
        for number, file in enumerate(part, 1):
            shutil.copy(file, place / name / f"rollouts_{number:06d}.safetensors")
    return place


def model_of(run_dir: Path) -> bytes:
    return (run_dir / "hf" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_stage_that_keeps_the_optimizer_is_the_run_going_on(problems: Path, recordings: Path, tmp_path: Path) -> None:
    """Four batches in two stages, killed in the second one, are the same to the bit as in one run."""
    run_dir = tmp_path / "run"
    second = {"rollout.replay_dir": str(recordings / "second"), "keep_optimizer": True}
    stages = {"short": {"rollout.replay_dir": str(recordings / "first")}, "long": second}
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    arguments = replayed(run_dir, problems, recordings / "whole", **PLAIN, train__stages=tmp_path / "stages.yaml")
    killed = train(arguments, [{"at": "slow", "nth": 2, "do": "kill_all"}], tmp_path / "faults")
    assert killed.returncode != 0
    assert (run_dir / "1_short" / "hf").is_dir() and not (run_dir / "2_long" / "hf").exists()
    done = train(arguments, [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stage 1/2, short, has finished before" in done.stdout
    assert "all stages have finished" in done.stdout
    whole = train(replayed(tmp_path / "whole", problems, recordings / "whole", **PLAIN), [], tmp_path / "faults")
    assert whole.returncode == 0, whole.stdout
    assert model_of(run_dir / "2_long") == model_of(tmp_path / "whole")
    lines = read_metrics(run_dir)
    assert [(line["step"], line["stage"]) for line in lines] == [(1, "short"), (2, "long"), (3, "long"), (4, "long")]
    assert [line["sfpo/backward_passes_total"] for line in lines] == [3, 6, 9, 12]
    assert [line["rollouts_total"] for line in lines] == [16, 32, 48, 64]
    assert (run_dir / "curves.png").is_file()


@pytest.mark.slow
def test_a_stage_begins_with_the_model_alone_by_default(problems: Path, recordings: Path, tmp_path: Path) -> None:
    stages = {name: {"rollout.replay_dir": str(recordings / name)} for name in ("first", "second")}
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    run_dir = tmp_path / "run"
    arguments = replayed(run_dir, problems, recordings / "whole", **PLAIN, train__stages=tmp_path / "stages.yaml")
    assert train(arguments, [], tmp_path / "faults").returncode == 0
    model = {**PLAIN, "actor__model_name_or_path": run_dir / "1_first" / "hf", "train__seed": 43}
    alone = train(replayed(tmp_path / "alone", problems, recordings / "second", **model), [], tmp_path / "faults")
    assert alone.returncode == 0, alone.stdout
    assert model_of(run_dir / "2_second") == model_of(tmp_path / "alone")
    assert not (run_dir / "1_first" / "checkpoints" / "_actor").exists()


@pytest.mark.slow
def test_the_recipe_of_skywork_or1_in_small(smollm2: Path, tmp_path: Path) -> None:
    """Its rows, difficulty, rewards, dropped groups, adaptive entropy and two stages, with a pretrained model."""
    write_skywork(tmp_path / "data", 8)  # five of each are difficult enough
    recipes = ROOT / "examples" / "recipes"
    (tmp_path / "stages.yaml").write_text(
        "short: {rollout.max_new_tokens: 10}\nlonger: {rollout.max_new_tokens: 16, data.max_len: 116}\n"
    )
    own = {
        "run.dir": tmp_path / "run",
        "train.stages": tmp_path / "stages.yaml",
        "actor.model_name_or_path": smollm2,
        "actor.num_gpus_per_node": 1,
        "actor.adam.lr": 1e-5,
        "vllm.num_engines": 1,
        "data.prompt_dataset": ",".join(
            str(tmp_path / "data" / f"{name}-0.parquet") for name in ("math", "math", "code")
        ),
        "data.difficulty_model": "DeepSeek-R1-Distill-Qwen-1.5B",
        "data.min_difficulty": 3,
        "data.max_len": 110,
        "eval.steps": -1,
        "rollout.batch_size": 5,
        "rollout.n_samples_per_prompt": 8,
        "megatron.param_dtype": "fp32",
        "sfpo.k": 1,
        "train.num_episodes": 1,
        "train.max_tokens_per_gpu": 928,
        "algo.adaptive_entropy.target": 9,
        "ckpt.best_metric_key": "none",
    }
    words = [
        f"--config={recipes / 'paper.yaml'}",
        f"--config={recipes / 'skywork-or1.yaml'}",
        "--rollout.deterministic",
        "--vllm.enforce_eager",
    ]
    done = run("train", *words, *(f"--{name}={value}" for name, value in own.items()), timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read_metrics(tmp_path / "run")
    assert {line["stage"] for line in lines} == {"short", "longer"}
    assert sum(line["rollout/equal_groups"] for line in lines) > 0
    for line in lines:
        assert line["rollout/num_samples"] == line["rollout/num_sampled"] - 8 * line["rollout/equal_groups"]
    assert lines[-1]["rollouts_total"] == sum(line["rollout/num_sampled"] for line in lines)
    assert any(line["reward_mean"] > 0 for line in lines), "some sums are solved"
    first = [line for line in lines if line["stage"] == "short"]
    assert [line["train/adaptive_entropy_coef"] for line in first] == pytest.approx(
        [1e-4 * n for n in range(len(first))]
    )
