"""Settings in YAML files: their values, and every mistake with its line."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from openrlhf_sfpo.cli import compare, doctor, plan, train
from openrlhf_sfpo.cli.flags import Flags, parse
from openrlhf_sfpo.config.stored_settings import as_asked
from openrlhf_sfpo.report.run_writer import _plain
from openrlhf_sfpo.system.errors import UsageError

pytest_plugins = ["commands"]
pytestmark = pytest.mark.usefixtures("parsers_are_built_once")


# (text of a file, words of the message, or the values that it means)
FILES: list[tuple[str, str | dict[str, Any]]] = [
    ('sfpo.enable: "false"', {"sfpo.enable": False}),
    ("sfpo: {enable: 'no'}", {"sfpo.enable": False}),
    ("sfpo.enable: n", {"sfpo.enable": False}),
    ("sfpo.enable: off", {"sfpo.enable": False}),
    ("sfpo.enable: 0", {"sfpo.enable": False}),
    ('vllm.enforce_eager: "False"', {"vllm.enforce_eager": False}),
    ("vllm.enforce_eager: yes", {"vllm.enforce_eager": True}),
    ("run.eval_at_ends: 1", {"run.eval_at_ends": True}),
    ("sfpo.enable: maybe", "is 'maybe', which is not a boolean (FILE, line 1)"),
    ("vllm.enforce_eager: 2", "is '2', which is not a boolean"),
    ("sfpo.enable: ''", "is '', which is not a boolean"),
    ("sfpo.gate: off", {"sfpo.gate": "off"}),
    ("algo.advantage.is_correction_level: off", {"algo.advantage.is_correction_level": "off"}),
    ("megatron.recompute: none", {"megatron.recompute": "none"}),
    ("sfpo.gate: no", "--sfpo.gate: is 'no' (FILE, line 1)"),
    ("logger.wandb.key: 0123456", {"logger.wandb.key": "0123456"}),
    ("logger.wandb.run_name: 12:30:45", {"logger.wandb.run_name": "12:30:45"}),
    ("logger.wandb.project: 2026-11-26", {"logger.wandb.project": "2026-11-26"}),
    ("logger.wandb.org: 'null'", {"logger.wandb.org": "null"}),
    ("logger.wandb.org: yes", {"logger.wandb.org": "yes"}),
    ("logger.wandb.org: null", {"logger.wandb.org": None}),
    ("sfpo.k: 010", {"sfpo.k": 10}),
    ("sfpo.k: 1_0", {"sfpo.k": 10}),
    ("sfpo.k: 0x10", "is '0x10', which is not a whole number"),
    ("sfpo.k: 3.0", "is '3.0', which is not a whole number"),
    ("actor.adam.lr: 1e-4", {"actor.adam.lr": 1e-4}),
    ("ckpt.max_mem: .inf", {"ckpt.max_mem": float("inf")}),
    ("actor.adam.betas: [0.8, 0.9]", {"actor.adam.betas": [0.8, 0.9]}),
    ("actor.adam.betas: 0.9", "takes 2 values, and has 1 (FILE, line 1)"),
    ("sfpo.k: [3]", "is given a list, and takes one value (FILE, line 1)"),
    ("data.prompt_dataset: [a.jsonl, b.jsonl]", "Separate them with commas: a.jsonl,b.jsonl"),
    ("sfpo: {k: {x: 3}}", "FILE, line 1: sets 'sfpo.k.x', but sfpo.k takes a value"),
    ("sfpo.k: {}", "--sfpo.k: is given a mapping (FILE, line 1)"),
    ("sfpo: 3", "FILE, line 1: gives 'sfpo' a value, but it is a section"),
    ("sfpo:\n  # k: 3\ntrain.seed: 5", {"train.seed": 5, "sfpo.k": 3}),
    ("sfpo: {k: 2}\ntrain: {seed: 1}\nsfpo: {alpha: 0.5}", "sets 'sfpo' twice, in lines 1 and 3"),
    ("sfpo.k: 2\n\nsfpo:\n  k: 5", "sets 'sfpo.k' twice, in lines 1 and 4"),
    ("sfpo.k: 2\nsfpo.k: 3", "sets 'sfpo.k' twice, in lines 1 and 2"),
    ("sfpo:\n\tk: 3", "line 2 is indented with a tab"),
    ("sfpo.k: 3\n---\nsfpo.k: 4", "line 2: found another document"),
    ("a: [", "is not YAML (line"),
    ("sfpo: {k: 2\ntrain.seed: 3", "Correct it."),
    ("data.input_template: {}", "If {} is meant as text, put it in quotes: '{}'."),
    ("data.input_template: {prompt}", "Write a text in quotes, such as '{}'."),
    ("data.input_template: {prompt} Answer", "Put the text in quotes: data.input_template: '{prompt} Answer'."),
    ("data:\n  input_template: {} it's\n  input_key: x", "line 2: expected <block end>, but found '<scalar>')"),
    ("data:\n  input_template: {} it's\n  input_key: x", "Put the text in quotes: input_template: '{} it''s'."),
    ("data.input_template: {}\\nA:", 'Put the text in quotes: data.input_template: "{}\\nA:".'),
    ("data.input_template: Q: {}", "Put the text in quotes: data.input_template: 'Q: {}'."),
    ("data.input_template: [INST] {}", "Put the text in quotes: data.input_template: '[INST] {}'."),
    ("data.input_template: {{}}", "with text that has braces in quotes"),
    ("algo.advantage.estimator: grpo", "Did you mean group_norm (group_norm is GRPO)? Use one of"),
    ("- a", "is not a mapping"),
    ("a: &a {b: *a}", "contains itself"),
    ("sfpo.k: !env K", "has the tag !env"),
    ("sfpo: {<<: {k: 5}, alpha: 0.3}", {"sfpo.k": 5, "sfpo.alpha": 0.3}),
    ("actor.muon.nesterov: false", {"actor.muon.nesterov": False}),
    ("actor.muon.no_nesterov: true", {"actor.muon.nesterov": False}),
    ("actor.muon.no_nesterov: true\nactor.muon.nesterov: true", "which are one flag"),
    ("no-sfpo.enable: true", "Write sfpo.enable: false"),
    ("pretrain: x", "sets 'pretrain', which is not a flag (it was one of earlier versions of OpenRLHF)"),
    ("sfpo.kk: 3", "FILE, line 1: sets 'sfpo.kk', which is not a flag. Did you mean sfpo.k?"),
    ("config: other.yaml", "cannot include another one"),
    ("run.samples_per_step: ''", "not a whole number"),
    ("ckpt.path: ''", "--ckpt.path: is empty (FILE, line 1)"),
    ("data.input_template: 'Ω {}'", {"data.input_template": "Ω {}"}),
    ("", {"sfpo.k": 3}),
]


@pytest.mark.parametrize(("text", "expected"), FILES, ids=[case[0] for case in FILES])
def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str | dict[str, Any]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    if isinstance(expected, dict):
        values = vars(parse(["--config", str(file)])[0])
        assert {name: values[name] for name in expected} == expected
        return
    comparison = tmp_path / "comparison.yaml"
    comparison.write_text("base: run.yaml\n", encoding="utf-8")
    for main, words in (
        (train.main, ["--config", str(file)]),
        (train.main, ["--dry_run", "--config", str(file)]),
        (doctor.main, ["--config", str(file)]),
        (plan.main, ["model", "--config", str(file)]),
        (compare.main, [str(comparison), "--dry-run"]),
    ):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert expected in line.replace(str(file), "FILE")


def another_value(action: argparse.Action) -> list[str]:
    """A value of a flag that is not its default, as on a command line."""
    count = action.nargs if isinstance(action.nargs, int) else 2
    if action.choices is not None:
        return [next(str(one) for one in reversed(list(action.choices)) if one != action.default)]
    if action.nargs == 0:
        return []
    if action.dest == "run.allow_changed":
        return ["actor.adam.lr", "sfpo.k"]
    texts = {int: ["7", "9"], float: ["1e-07", "0.25"]}.get(action.type, ["012: [x]", "no # {}"])  # type: ignore[call-overload]
    return texts[:count] if action.nargs is not None else texts[:1]


def test_every_written_setting_reads_back_as_itself(tmp_path: Path) -> None:
    """Each flag, with another value than its default, written as in a run's config.yaml."""
    flags, file = Flags(), tmp_path / "settings.yaml"
    options = {option for action in flags.parser._actions for option in action.option_strings} - {"-h", "--help"}
    assert len(options) > 180
    for option in sorted(options - {"--config"}):
        action = flags._actions[option.removeprefix("--")]
        given = vars(parse([option, *another_value(action)])[0])
        assert given != flags.defaults() or action.nargs == 0
        settings = {action.dest: _plain(as_asked(given)[action.dest])}
        file.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
        read = vars(parse(["--config", str(file)])[0])[action.dest]
        assert _plain(read) == _plain(given[action.dest]), option
    defaults = flags.defaults()
    file.write_text(yaml.safe_dump({name: _plain(value) for name, value in as_asked(defaults).items()}))
    read = {name: _plain(value) for name, value in vars(parse(["--config", str(file)])[0]).items()}
    expected = {name: _plain(value) for name, value in defaults.items()} | {"config": [str(file)]}
    # As `report` compares the settings of runs: for it, 1 and 1.0 differ.
    assert {name: repr(value) for name, value in read.items()} == {
        name: repr(value) for name, value in expected.items()
    }


def test_a_command_line_switches_off_what_a_file_switches_on(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("sfpo.enable: true\nvllm: {enforce_eager: true}\n", encoding="utf-8")
    values = vars(parse(["--config", str(file), "--no-sfpo.enable", "--no-vllm.enforce_eager"])[0])
    assert (values["sfpo.enable"], values["vllm.enforce_eager"]) == (False, False)


def test_home_and_variables_are_put_into_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch")
    file = tmp_path / "run.yaml"
    settings = {
        "run.dir": "~/runs/x",
        "actor.model_name_or_path": "$SCRATCH/m",
        "data.prompt_dataset": "~/a.jsonl, reasoning_gym:gcd?size=5",
        "reward.remote_url": "~/reward.py:score",
        "rollout.record_dir": "${SCRATCH}/r",
        "data.input_template": "~ {} $SCRATCH",
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    values = vars(parse(["--config", str(file)])[0])
    assert {name: values[name] for name in settings} == {
        "run.dir": "/home/me/runs/x",
        "actor.model_name_or_path": "/scratch/m",
        "data.prompt_dataset": "/home/me/a.jsonl,reasoning_gym:gcd?size=5",
        "reward.remote_url": "/home/me/reward.py:score",
        "rollout.record_dir": "/scratch/r",
        "data.input_template": "~ {} $SCRATCH",
    }


def test_later_files_win_setting_by_setting(tmp_path: Path) -> None:
    """A recipe, then a model's file, then flags."""
    recipe, model = tmp_path / "recipe.yaml", tmp_path / "model.yaml"
    recipe.write_text(
        "sfpo: {k: 2, alpha: 0.7}\nactor.adam.betas: [0.8, 0.9]\nckpt.path: runs/a/saved\nrun.dir: runs/a\n"
    )
    model.write_text("sfpo.alpha: 0.9\nrun.dir: runs/b\n")
    flat, given = parse(["--config", str(recipe), "--train.seed", "7", "--config", str(model), "--train.seed=8"])
    values = vars(flat)
    assert (values["sfpo.k"], values["sfpo.alpha"], values["train.seed"]) == (2, 0.9, 8)
    assert values["actor.adam.betas"] == [0.8, 0.9]
    assert (values["run.dir"], values["ckpt.path"]) == ("runs/b", "runs/b/saved"), "what is derived follows"
    assert {"sfpo.k", "sfpo.alpha", "train.seed", "actor.adam.betas"} <= given
    swapped = vars(parse(["--config", str(model), "--config", str(recipe)])[0])
    assert (swapped["sfpo.alpha"], swapped["run.dir"]) == (0.7, "runs/a")


def test_a_mistake_in_one_of_several_files_names_that_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("sfpo.k: 2\n")
    second.write_text("sfpo.kay: 2\n")
    with pytest.raises(UsageError, match=r"second\.yaml"):
        parse(["--config", str(first), "--config", str(second)])
