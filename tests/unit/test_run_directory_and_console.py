"""The run directory, and what the console shows."""

import io
import json
import math
import random
import subprocess
import time
from pathlib import Path
from statistics import fmean, stdev

import psutil
import pytest
import yaml

from openrlhf_sfpo.report.alarms import Alarms
from openrlhf_sfpo.report.console import Console, accuracy, before_and_after
from openrlhf_sfpo.report.reading import read_metrics, read_status, state_of
from openrlhf_sfpo.report.run_writer import RunWriter
from openrlhf_sfpo.report.runs import load_run
from openrlhf_sfpo.report.statistics import standard_errors
from openrlhf_sfpo.report.status import StatusFile

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


# A step that raises no alarm; then for each alarm what raises it, in how many steps in a row, and its words.
HEALTHY = {
    "reward_mean": 0.5,
    "train/rollout_log_prob_abs_diff": 0.02,
    "sfpo/fast_clip_ratio": 0.05,
    "sfpo/displacement_rel": 3e-4,
    "sfpo/entropy": 0.8,
    "rollout/truncated_rate": 0.95,  # as in the quickstart, whose answers come before the limit
}
BAD = [
    ({"sfpo/fast_clip_ratio": 0.41}, 3, ["41 % of the tokens were clipped", "--sfpo.k"]),
    ({"sfpo/displacement_rel": 0.025}, 1, ["2.5 % of their norm", "--sfpo.alpha, --sfpo.k"]),
    ({"sfpo/entropy": 0.004}, 3, ["entropy has collapsed to 0.004", "--actor.adam.lr"]),
    ({"rollout/truncated_rate": 0.97, "reward_mean": 0.01}, 3, ["97 % of the responses", "--rollout.max_new_tokens"]),
    ({"reward_mean": 0.0, "rollout/truncated_rate": 0.1}, 3, ["no response was rewarded", "samples.jsonl"]),
]


@pytest.mark.parametrize(("changes", "steps", "words"), BAD, ids=[next(iter(changes)) for changes, _, _ in BAD])
def test_an_alarm_is_raised_once(changes: dict[str, float], steps: int, words: list[str]) -> None:
    stream = io.StringIO()
    console = Console(stream)
    for step in range(1, 10):
        console.metrics({**HEALTHY, "step": step, **(changes if step != 1 + steps - 1 or steps == 1 else {})}, None)
        shown = [line for line in stream.getvalue().splitlines() if "warning" in line]
        first = 1 if steps == 1 else 2 * steps  # the healthy step restarts the count
        assert len(shown) == (step >= first), step
    assert all(word in shown[0] for word in words), shown


def test_metrics_that_are_missing_or_unknown_raise_no_alarm() -> None:
    alarms = Alarms()
    for line in ({"step": 1}, dict.fromkeys(HEALTHY), HEALTHY) * 3:
        assert alarms.look(line) == []


def test_accuracy_without_an_error() -> None:
    assert accuracy(0.123, None) == "12.3 %"


def test_the_gain_is_between_the_first_and_the_last_evaluation() -> None:
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


def test_a_resumed_run_drops_the_lines_that_it_repeats(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, {})
    for step in range(1, 5):
        writer.handle({"kind": "samples", "step": step, "samples": [{"response": f"line\u2028{step}"}]})
        writer.handle({"kind": "step", "step": step, "metrics": {"rollout/num_samples": 16.0, "loss": float(step)}})
        writer.handle({"kind": "eval", "step": step, "metrics": {"eval_set_pass1": step / 10}})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "cut sho')
    again = RunWriter(tmp_path, {}, step=3)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    assert [path.name for path in again.set_aside] == ["metrics.jsonl.1", "samples.jsonl.1"]
    first, cut = (tmp_path / "metrics.jsonl.1").read_text().splitlines()
    assert (json.loads(first)["step"], cut) == (4, '{"step": 5, "cut sho')
    (sample,) = (tmp_path / "samples.jsonl.1").read_text().split("\n")[:-1]
    assert json.loads(sample) == {"step": 4, "response": "line\u20284"}
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
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")  # every write fails, and reading never ends
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


def test_a_restarted_run_keeps_what_the_first_attempt_wrote(tmp_path: Path) -> None:
    for number in range(3):
        writer = RunWriter(tmp_path, {})
        names = [f"metrics.jsonl.{number}", f"samples.jsonl.{number}"] if number else []
        assert [path.name for path in writer.set_aside] == names
        writer.handle({"kind": "samples", "step": 1, "samples": [{"response": f"try {number}"}]})
        writer.handle({"kind": "step", "step": 1, "metrics": {"loss": float(number)}})
    assert [line["train/loss"] for line in read_metrics(tmp_path)] == [2.0]
    for number in (1, 2):
        assert json.loads((tmp_path / f"metrics.jsonl.{number}").read_text())["train/loss"] == number - 1
        assert f"try {number - 1}" in (tmp_path / f"samples.jsonl.{number}").read_text()
    assert load_run(tmp_path).points() == []
    assert len(load_run(tmp_path).lines) == 1, "earlier tries are no part of the run"


def test_the_state_follows_from_the_process(tmp_path: Path) -> None:
    assert load_run(tmp_path).state == "unknown"
    writer = RunWriter(tmp_path, {})
    status = read_status(tmp_path)
    assert state_of(status) == "running"
    with subprocess.Popen(["sleep", "60"]) as other:
        other_run = {**status, "pid": other.pid, "process_started": psutil.Process(other.pid).create_time()}
        assert state_of(other_run) == "running"
        assert state_of({**other_run, "process_started": 1e9}) == "died", "the number is another process's by now"
        other.kill()
        while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert state_of(other_run) == "died", "nobody has asked for its exit status yet"
    assert state_of(other_run) == "died"
    assert state_of({**other_run, "host": "another"}) == "running", "it cannot be known from here"
    assert state_of({"state": "running", "host": status["host"]}) == "died", "of a version that wrote no more"
    writer.close("failed", "ValueError: no")
    status = read_status(tmp_path)
    assert (state_of(status), status["reason"], status["error"]) == ("failed", "ValueError: no", "ValueError: no")
    again = RunWriter(tmp_path, {}, step=2)
    status = read_status(tmp_path)
    assert "reason" not in status
    assert [one["step"] for one in status["continued"]] == [2]
    again.close("finished")
    assert load_run(tmp_path).state == "finished"


def test_a_process_that_is_refused_leaves_the_status_of_the_run_as_it_was(tmp_path: Path) -> None:
    refused = StatusFile(tmp_path)
    refused.begin()
    assert refused.state == "running"
    refused.refuse("--a: is 1. Use 2.")
    assert read_status(tmp_path)["reason"] == "--a: is 1. Use 2."
    RunWriter(tmp_path, {}).close("interrupted", "SIGTERM")
    before = read_status(tmp_path)
    assert "continued" not in before, "nothing had begun"
    refused = StatusFile(tmp_path)
    refused.begin()
    refused.refuse("--a: is 1. Use 2.")
    assert read_status(tmp_path) == before
