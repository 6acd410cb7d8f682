"""The run directory and what is seen on the console."""

import io
import json
import math
import random
from pathlib import Path
from statistics import fmean, stdev

import pytest
import yaml

from openrlhf_sfpo.report.console import Console, accuracy, before_and_after, warnings
from openrlhf_sfpo.report.reading import read_metrics, read_status
from openrlhf_sfpo.report.run_writer import RunWriter
from openrlhf_sfpo.report.statistics import standard_errors

STATUS = {
    "rollout/num_samples": 64.0,
    "rollout/reward_mean": 0.25,
    "timing/generation": 3.0,
    "sfpo/active": 1.0,
    "sfpo/entropy": 1.5,
    "sfpo/entropy_z": None,
    "policy_loss": 0.1,
}


def step(number: int) -> dict[str, object]:
    return {"kind": "step", "step": number, "metrics": STATUS}


def test_metrics_have_one_line_per_step_with_its_evaluation(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, {"sfpo.alpha": 0.8, "actor.adam.betas": (0.9, 0.95)})
    writer.handle({"kind": "eval", "step": 0, "metrics": {"eval_sums_pass1": 0.1}})
    writer.handle({"kind": "sync", "metrics": {"weight_sync/bytes": 10.0}})
    writer.handle(step(1))
    writer.handle(step(2))
    writer.handle({"kind": "eval", "step": 2, "metrics": {"eval_sums_pass1": 0.5, "eval_sums_pass1_stderr": 0.02}})
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert [line["rollouts_total"] for line in lines] == [0, 64, 128]
    assert lines[0]["eval/sums_pass1"] == 0.1
    assert lines[1]["time/generation"] == 3.0
    assert lines[1]["train/policy_loss"] == 0.1
    assert lines[1]["weight_sync/bytes"] == 10.0
    assert lines[1]["reward_mean"] == 0.25
    assert lines[2]["eval/sums_pass1_stderr"] == 0.02
    assert lines[2]["sfpo/entropy"] == 1.5
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {
        "actor.adam.betas": [0.9, 0.95],
        "sfpo.alpha": 0.8,
    }
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_samples_are_written_as_they_are(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, {})
    writer.handle({"kind": "samples", "step": 3, "samples": [{"prompt": "é?", "response": "\n7", "reward": 1.0}]})
    (line,) = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, "prompt": "é?", "response": "\n7", "reward": 1.0}


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "rew')
    assert read_metrics(tmp_path) == [{"step": 1}]


def test_the_console_shows_steps_and_accuracies() -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.phase("rollout")  # shown in place on terminals only
    console.phase("evaluating on 3 prompts", long=True)
    console.metrics({"step": 1, "reward_mean": 0.5, "sfpo/active": 1.0, "sfpo/entropy": 1.25}, 12)
    console.metrics({"step": 12, "eval/sums_pass1": 0.5, "eval/sums_pass1_stderr": 0.021}, 12)
    shown = stream.getvalue()
    assert "rollout" not in shown
    assert "evaluating on 3 prompts ..." in shown
    assert "step 1/12: SFPO  reward 0.500  entropy 1.25" in shown
    assert "held-out accuracy sums 50.0 ± 2.1 %" in shown


def test_too_large_k_or_alpha_is_said_once_with_the_flags() -> None:
    quiet = {"sfpo/fast_clip_ratio": 0.05, "sfpo/displacement_rel": 3e-4}
    assert warnings(quiet) == {}
    assert warnings({"sfpo/fast_clip_ratio": None}) == {}, "metrics of a batch without fast passes"
    stream = io.StringIO()
    console = Console(stream)
    for step in (1, 2):
        console.metrics({"step": step, "sfpo/fast_clip_ratio": 0.41, "sfpo/displacement_rel": 0.025}, None)
    shown = [line for line in stream.getvalue().splitlines() if "warning" in line]
    assert len(shown) == 2
    assert "41 % of the tokens were clipped" in shown[0]
    assert "--sfpo.k" in shown[0]
    assert "2.5 % of their norm" in shown[1]
    assert "--sfpo.alpha, --sfpo.k" in shown[1]


def test_accuracy_without_an_error() -> None:
    assert accuracy(0.123, None) == "12.3 %"


def test_the_gain_is_told_from_the_first_and_the_last_evaluation() -> None:
    name = "eval/sums_pass1"
    lines = [
        {"step": 0, name: 0.25, f"{name}_stderr": 0.05, f"{name}_sampling_stderr": 0.02, "eval/sums_prompts": 80.0},
        {"step": 1, "reward_mean": 0.5},
        {"step": 2, name: 0.75, f"{name}_stderr": 0.03, f"{name}_sampling_stderr": 0.011, "eval/sums_prompts": 80.0},
    ]
    gain, errors = before_and_after(lines)
    assert "sums: 25.0 ± 2.0 % before, 75.0 ± 1.1 % after step 2 (+50.0 points)" in gain
    assert "these 80 prompts" in errors
    assert "5.0 and 3.0" in errors
    assert before_and_after(lines[:2]) == []


def test_standard_errors_against_a_simulation() -> None:
    generator = random.Random(0)

    def draw(difficulties: list[float], samples: int) -> list[list[float]]:
        return [[float(generator.random() < p) for _ in range(samples)] for p in difficulties]

    fixed = [generator.random() for _ in range(60)]
    mean_of = [fmean(fmean(scores) for scores in draw(fixed, 4)) for _ in range(2000)]
    errors = [standard_errors(draw(fixed, 4))["sampling_stderr"] for _ in range(200)]
    assert fmean(errors) == pytest.approx(stdev(mean_of), rel=0.05)
    fresh = [draw([generator.random() for _ in range(60)], 4) for _ in range(2000)]
    mean_of = [fmean(fmean(scores) for scores in prompts) for prompts in fresh]
    assert fmean(standard_errors(p)["stderr"] for p in fresh) == pytest.approx(stdev(mean_of), rel=0.05)


def test_standard_errors_that_cannot_be_known_are_left_out() -> None:
    assert standard_errors([[1.0], [0.0]]).keys() == {"stderr"}
    assert standard_errors([[1.0, 0.0]]).keys() == {"sampling_stderr"}
    assert standard_errors([]) == {}


def test_a_run_that_goes_on_forgets_what_comes_again(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, {})
    for step in range(1, 5):
        writer.handle({"kind": "samples", "step": step, "samples": [{"response": f"line\u2028{step}"}]})
        writer.handle({"kind": "step", "step": step, "metrics": {"rollout/num_samples": 16.0, "loss": float(step)}})
        writer.handle({"kind": "eval", "step": step, "metrics": {"eval_set_pass1": step / 10}})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "cut sho')
    again = RunWriter(tmp_path, {}, step=3)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    for kind, fields in (("samples", {"samples": [{"response": "x"}]}), ("step", {"metrics": {}})):
        assert again.handle({"kind": kind, "step": 3, **fields, "again": True}) is None, "it is there"
    again.handle({"kind": "eval", "step": 3, "metrics": {"eval_set_pass1": 0.9}})
    again.handle({"kind": "step", "step": 4, "metrics": {"rollout/num_samples": 16.0, "loss": math.nan}})
    lines = read_metrics(tmp_path)
    assert [line["rollouts_total"] for line in lines] == [16, 32, 48, 64]
    assert [line.get("eval/set_pass1") for line in lines] == [0.1, 0.2, 0.9, None]
    assert lines[3]["train/loss"] is None, "JSON has no NaN"
    assert lines[3]["wall_seconds"] >= lines[2]["wall_seconds"]
    samples = (tmp_path / "samples.jsonl").read_text().split("\n")
    assert [json.loads(line)["step"] for line in samples if line] == [1, 2, 3]
    assert [one["step"] for one in read_status(tmp_path)["continued"]] == [3]


def test_lines_wait_for_a_disk_with_room(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, {})
    writer.handle({"kind": "step", "step": 1, "metrics": {}})
    (tmp_path / "metrics.jsonl").rename(tmp_path / "aside")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")  # full for who writes, and without an end for who reads
    writer._next_drawing = math.inf
    assert writer.handle({"kind": "step", "step": 2, "metrics": {}})["step"] == 2
    assert "No space left on device" in writer.problem
    writer.handle({"kind": "eval", "step": 2, "metrics": {"eval_set_pass1": 0.5}})
    (tmp_path / "aside").rename(tmp_path / "metrics.jsonl")
    writer.handle({"kind": "step", "step": 3, "metrics": {}})
    assert writer.problem is None
    assert [(line["step"], line.get("eval/set_pass1")) for line in read_metrics(tmp_path)] == [
        (1, None),
        (2, 0.5),
        (3, None),
    ]
