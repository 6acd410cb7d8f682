"""Stages of a run: what each begins with, bad files, and the metrics of all."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_runs import make_run
from tiny_models import make_model

from openrlhf_sfpo.cli import stages, train
from openrlhf_sfpo.cli.flags import parse_settings
from openrlhf_sfpo.report.reading import read_metrics
from openrlhf_sfpo.report.stages import join_metrics

pytest_plugins = ["commands"]
MODEL = "actor.model_name_or_path"


def plan(tmp_path: Path, content: Any, **flags: Any) -> list[stages.Stage]:
    file = tmp_path / "stages.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    given = {"run.dir": str(tmp_path / "run"), MODEL: "/model", "train.stages": str(file), "train.seed": 7, **flags}
    return stages.plan(*parse_settings(given, "test"))


def test_what_each_stage_begins_with(tmp_path: Path) -> None:
    root = tmp_path / "run"
    planned = plan(
        tmp_path,
        {
            "8k": {"rollout.max_new_tokens": 8192, "data": {"max_len": 9000}},
            "16k": {"rollout.max_new_tokens": 16384, "train.seed": 1},
            "32k": {"keep_optimizer": True, "actor.adam.lr": 1e-7},
            "more": {"keep_optimizer": "True"},
            "last": None,
        },
        **{"ckpt.start_from": "/before"},
    )
    found = [
        tuple(vars(stage.flat)[name] for name in (MODEL, "ckpt.start_from", "ckpt.save_last", "train.seed"))
        for stage in planned
    ]
    assert found == [
        ("/model", "/before", False, 7),
        (f"{root}/1_8k/hf", None, True, 1),
        (f"{root}/1_8k/hf", f"{root}/2_16k", True, 9),
        (f"{root}/1_8k/hf", f"{root}/3_32k", False, 10),
        (f"{root}/4_more/hf", None, False, 11),
    ]
    assert [vars(stage.ahead)[MODEL] for stage in planned] == ["/model"] * 5
    assert [vars(stage.ahead)["ckpt.start_from"] for stage in planned] == ["/before", *[None] * 4]
    assert [vars(stage.flat)["rollout.max_new_tokens"] for stage in planned[:2]] == [8192, 16384]
    assert [vars(stage.flat)["data.max_len"] for stage in planned[:2]] == [9000, 2048], "a stage's flags are its own"
    assert [vars(stage.flat)["run.dir"] for stage in planned[:2]] == [f"{root}/1_8k", f"{root}/2_16k"]
    assert vars(planned[0].flat)["train.stages"] is None
    assert "data.max_len 9000, rollout.max_new_tokens 8192" in planned[0].differs
    assert {"data.max_len", "rollout.max_new_tokens", MODEL} <= planned[0].given


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no stages"),
        ("[1, 2]", "is not a mapping"),
        ("one: 8", "stage one is '8'. Give it flags"),
        ("one/two: {train.seed: 1}", "has the stage 'one/two'"),
        ("one: {rollout.max_new_token: 8}", "rollout.max_new_tokens"),
        ("one: {rollout.max_new_tokens: many}", "is 'many'"),
        ("one: {run.dir: x}", "line 1: sets run.dir for a stage. Leave it out: --train.stages sets it."),
        ("one: {}\ntwo:\n  ckpt.path: x", "line 3: sets ckpt.path for a stage"),
        ("one: {}\ntwo: {actor.model_name_or_path: x}", "sets actor.model_name_or_path"),
        ("one: {keep_optimizer: true}", "keep_optimizer is set for the first stage"),
        ("one: {}\ntwo: {keep_optimizer: perhaps}", "keep_optimizer is 'perhaps'. Use true or false."),
        ("one: {}\none: {}", "sets 'one' twice"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", "[.]").replace("[1", "")):
        plan(tmp_path, content)


@pytest.mark.parametrize("name", ["ckpt.path", "ckpt.output_dir", "logger.tensorboard_dir", "rollout.record_dir"])
def test_places_that_stages_would_share_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name}: is given, but with --train.stages each stage has its own"):
        plan(tmp_path, "one: {}", **{name: str(tmp_path)})


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run" / "1_one", [0.1])
    assert [stage.name for stage in plan(tmp_path, "one: {}\ntwo: {}")] == ["one", "two"]
    with pytest.raises(ValueError, match="was begun with other stages: 1_one"):
        plan(tmp_path, "zero: {}\none: {}")
    (tmp_path / "run" / "config.yaml").write_text("run.dir: x\nsfpo.preset: sfpo\n")
    with pytest.raises(ValueError, match="holds a run without stages"):
        plan(tmp_path, "one: {}")


def test_metrics_go_on_counting(tmp_path: Path) -> None:
    for name in ("1_a", "2_b"):
        directory = make_run(tmp_path / name, [0.1, 0.2, 0.3])
        lines = [json.loads(line) | {"wall_seconds": 10.0} for line in (directory / "metrics.jsonl").open()]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    join_metrics(tmp_path, {"a": tmp_path / "1_a", "b": tmp_path / "2_b"})
    lines = read_metrics(tmp_path)
    assert [(line["step"], line["stage"]) for line in lines] == [(0, "a"), (1, "a"), (2, "a"), (3, "b"), (4, "b")]
    assert [line["rollouts_total"] for line in lines] == [0, 64, 128, 192, 256]
    assert [line["sfpo/backward_passes_total"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["wall_seconds"] for line in lines] == [10.0, 10.0, 10.0, 20.0, 20.0]
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.usefixtures("parsers_are_built_once")
def test_every_stage_is_checked_before_the_first_begins(
    base: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "stages.yaml"
    words = [f"--{name}={value}" for name, value in base.items() if name != "run.dir"]
    words += [f"--run.dir={tmp_path / 'run'}", f"--train.stages={file}"]
    file.write_text("one: {sfpo.k: 2}\ntwo: {rollout.max_new_tokens: 20}\n")
    assert train.main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "== stage 1/2, one: sfpo.k 2" in shown and "== stage 2/2, two: rollout.max_new_tokens 20" in shown
    file.write_text("one: {}\ntwo: {rollout.max_new_tokens: 64}\n")
    for more in ([], ["--dry-run"]):
        assert train.main([*words, *more]) == 2
        assert "stage two: --rollout.max_new_tokens: is 64" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("1_*"))


def checkpoint(place: Path, model: str) -> None:
    """What can be seen of a checkpoint before it is read."""
    (place / "model").mkdir(parents=True)
    (place / "manifest.json").write_text(json.dumps({"format": 1, "step": 2, "files": {}}))
    shutil.copy(Path(model) / "config.json", place / "model")


@pytest.mark.usefixtures("parsers_are_built_once")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "is of another model than --actor.model_name_or_path"),
        (
            {"actor.backend": "deepspeed", "train.batch_size": "32"},
            "--ckpt.start_from: is for --actor.backend megatron",
        ),
        ({"ckpt.start_from": "{0}/empty"}, "is neither a checkpoint nor a run directory. Give one of the two."),
        ({"ckpt.start_from": "{0}/nothing"}, "--ckpt.start_from: {0}/nothing does not exist."),
        ({"ckpt.start_from": "{0}/same"}, ""),
    ],
)
def test_what_a_run_starts_from_is_checked(
    base: dict[str, Any], changes: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    checkpoint(tmp_path / "same" / "checkpoints" / "_actor" / "global_step2", base[MODEL])
    other = make_model(tmp_path / "model", "llama", hidden_size=256)
    checkpoint(tmp_path / "other" / "global_step2", str(other))
    flags = {**base, "run.dir": tmp_path / "run", "ckpt.start_from": "{0}/other", **changes}
    words = [f"--{name}={str(value).format(tmp_path)}" for name, value in flags.items()]
    status = train.main([*words, "--dry-run"])
    said = "".join(capsys.readouterr())
    assert message.format(tmp_path) in said
    assert status == (0 if "same" in str(changes) or "nothing" in str(changes) else 2), said
    if "another model" in message:
        assert "hidden_size is 256, not 128" in said
