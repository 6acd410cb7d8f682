"""Who owns a run directory: a run's own config.yaml, another run's directories, and what is never overwritten."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from openrlhf_sfpo.cli import compare
from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.config.stored_settings import as_asked, portable
from openrlhf_sfpo.report.console import Console
from openrlhf_sfpo.report.run_writer import RunWriter
from openrlhf_sfpo.runs import launcher, preflight
from openrlhf_sfpo.tasks import generated as generated_problems

pytest_plugins = ["commands"]
pytestmark = pytest.mark.usefixtures("parsers_are_built_once")


def begun(directory: Path, base: dict[str, Any], *words: str, state: str = "failed") -> None:
    """A run that has begun with the base's flags in a directory, and ended."""
    flat, given = parse([*(f"--{name}={value}" for name, value in base.items()), f"--run.dir={directory}", *words])
    preflight.prepare(flat, given)
    vars(flat)["megatron.device"] = "cpu"  # as resolved for the device
    RunWriter(directory, as_asked(vars(flat)), 0).close(state)


def test_a_runs_own_config_continues_it_and_starts_another(tmp_path: Path, base: dict[str, Any]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    generated = {"data.prompt_dataset": "reasoning_gym:chain_sum?size=16&seed=1", "data.label_key": None}
    asked = {name: value for name, value in {**base, **generated}.items() if value is not None}
    begun(first, asked, f"--rollout.record_dir={first}/recorded", f"--ckpt.path={first}/elsewhere/ckpt")
    config = first / "config.yaml"

    same, given = parse(["--config", str(config)])
    preflight.check(same, given)
    assert vars(same)["run.dir"] == str(first)
    preflight.prepare(same, given)
    assert vars(same)["ckpt.path"] == f"{first}/elsewhere/ckpt"

    for more in ([f"--run.dir={second}"], [f"--run.dir={second}", f"--ckpt.output_dir={tmp_path}/models"]):
        other, given = parse(["--config", str(config), *more])
        preflight.check(other, given)
        preflight.prepare(other, given)
        values = vars(other)
        places = ("ckpt.path", "logger.tensorboard_dir", "rollout.record_dir")
        assert all(values[name].startswith(f"{second}/") for name in places)
        assert (second / "data").is_dir()
        assert values["ckpt.output_dir"] == (f"{second}/hf" if len(more) == 1 else f"{tmp_path}/models")
    assert str(second) not in config.read_text(encoding="utf-8")


def test_a_run_directory_that_was_moved_is_where_it_is_now(tmp_path: Path, base: dict[str, Any]) -> None:
    begun(tmp_path / "before", base)
    (tmp_path / "before").rename(tmp_path / "after")
    flat, given = parse(["--config", str(tmp_path / "after" / "config.yaml")])
    assert vars(flat)["run.dir"] == str(tmp_path / "after")
    preflight.check(flat, given)


def test_a_comparison_based_on_a_runs_config_stays_out_of_that_run(tmp_path: Path, base: dict[str, Any]) -> None:
    begun(tmp_path / "run", base)
    config = tmp_path / "c.yaml"
    config.write_text("base: run/config.yaml\nvariants: [sfpo, grpo]\n", encoding="utf-8")
    for run in compare.plan(config, tmp_path / "out", []):
        assert "ckpt.path" not in run.given
        preflight.prepare(run.flat, set(run.given))
        assert vars(run.flat)["ckpt.output_dir"] == f"{run.directory}/hf"


def test_a_comparison_refuses_one_place_for_several_runs(
    commands: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], base: dict[str, Any]
) -> None:
    config = tmp_path / "c.yaml"
    settings = {name: value for name, value in base.items() if name != "run.dir"}
    config.write_text(yaml.safe_dump({"base": {**settings, "ckpt.output_dir": str(tmp_path / "hf")}}), encoding="utf-8")
    assert compare.main([str(config), "--dry-run"]) == 2
    assert "--ckpt.output_dir: is" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "dry-run", "doctor"])
@pytest.mark.parametrize(
    ("before", "word", "message"),
    [
        ("run", "--actor.adam.lr=1e-3", "--actor.adam.lr: changed since the run in"),
        ("run with DeepSpeed", "--actor.backend=deepspeed", "is continued by OpenRLHF"),
        ("model in the run directory", "", "holds no run, but"),
        ("model elsewhere", "--ckpt.output_dir=PLACE/other", "--ckpt.output_dir: PLACE/other is not empty"),
        ("checkpoints elsewhere", "--ckpt.path=PLACE/other", "--ckpt.path: PLACE/other already holds checkpoints"),
        ("run, checkpoints elsewhere", "--ckpt.path=PLACE/other", "--ckpt.path: PLACE/other already holds checkpoints"),
        ("settings of something else", "", "holds a config.yaml that is not a run's"),
        ("metrics of something else", "", "holds metrics.jsonl of something other than a run"),
    ],
)
def test_files_of_others_are_left_alone(
    commands: dict[str, Any],
    base: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    before: str,
    word: str,
    message: str,
) -> None:
    directory, other = tmp_path / "run", tmp_path / "other"
    directory.mkdir()
    if before.startswith("run"):
        begun(directory, base, *([word] if "DeepSpeed" in before else []), "--train.batch_size=32")
    files = {
        "model in the run directory": directory / "hf" / "config.json",
        "model elsewhere": other / "config.json",
        "checkpoints elsewhere": other / "_actor" / "global_step1" / "manifest.json",
        "settings of something else": directory / "config.yaml",
        "metrics of something else": directory / "metrics.jsonl",
    }
    file = files.get(before.removeprefix("run, "))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}", encoding="utf-8")
    words = [
        f"--run.dir={directory}",
        "--train.batch_size=32",
        *([word.replace("PLACE", str(tmp_path))] if word else []),
    ]
    status = commands[name](words)
    shown = capsys.readouterr()
    text = message.replace("PLACE", str(tmp_path))
    if name == "doctor":
        assert status == 1
        assert all(part in shown.out for part in text.split(": "))
    else:
        assert status == 2
        assert text in shown.err


def test_a_run_may_overwrite_its_own_files(base: dict[str, Any], tmp_path: Path) -> None:
    place = tmp_path / "models"
    begun(tmp_path / "run", base, f"--ckpt.output_dir={place}")
    place.mkdir()
    (place / "config.json").write_text("{}", encoding="utf-8")
    words = [f"--{name}={value}" for name, value in base.items()]
    flat, given = parse([*words, f"--run.dir={tmp_path / 'run'}", f"--ckpt.output_dir={place}"])
    preflight.check(flat, given)


def test_a_checkpoint_that_is_loaded_is_compared_before_the_start(
    commands: dict[str, Any], base: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat, _ = parse([f"--{name}={value}" for name, value in base.items()])
    manifest = {"format": 1, "step": 3, "files": {}, "settings": portable(vars(flat))}
    place = tmp_path / "_actor" / "global_step3" / "manifest.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(manifest), encoding="utf-8")
    loads = [f"--ckpt.path={tmp_path}", "--ckpt.load_enable"]
    for name in ("train", "dry-run"):
        assert commands[name](loads) == 0, capsys.readouterr().err
        assert commands[name]([*loads, "--actor.adam.lr=1e-3"]) == 2
        assert "--actor.adam.lr: changed since the run of" in capsys.readouterr().err


def test_generated_problems_are_reproducible_and_differ_between_flags() -> None:
    def questions(flag: str, options: str = "") -> list[str]:
        rows = generated_problems.generate(flag, f"reasoning_gym:gcd?size=5{options}", "input", "label")
        return [row["input"] for row in rows]

    train, evaluation = "--data.prompt_dataset", "--eval.dataset"
    assert questions(train) == questions(train)
    assert not set(questions(train)) & set(questions(evaluation))
    assert questions(train, "&seed=7") == questions(evaluation, "&seed=7") != questions(train)


@pytest.mark.parametrize(
    ("total", "advice"),
    [(None, "10 saves one every 10 steps"), (40, "10 saves one every 10 steps"), (10, "5 saves one every 5 steps")]
    + [(steps, "1 saves one after every step") for steps in (2, 3)],
)
def test_the_advice_on_checkpoints_suits_the_run(total: int | None, advice: str, capsys: Any) -> None:
    values = dict.fromkeys(("eval.dataset", "ckpt.disable_ds"))
    values |= {"ckpt.save_steps": -1, "eval.steps": -1, "ckpt.best_metric_key": "", "actor.backend": "megatron"}
    launcher._warn_of_no_checkpoints(values, total, Console(sys.stdout))
    assert f"--ckpt.save_steps {advice}" in capsys.readouterr().out
