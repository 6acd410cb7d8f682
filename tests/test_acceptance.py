"""What --dry-run accepts, starts: every refusal and every acceptance through train, --dry-run, plan, doctor and
compare, in this process and without Ray."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import make_model

from openrlhf_sfpo.cli import compare, doctor, evaluate, export, plan, report, train
from openrlhf_sfpo.cli import flags as flags_module
from openrlhf_sfpo.cli.flags import Flags, parse
from openrlhf_sfpo.config import ranges
from openrlhf_sfpo.doctor import Finding
from openrlhf_sfpo.openrlhf_flags import CHOICES, GONE, RENAMED
from openrlhf_sfpo.orchestration import preflight
from openrlhf_sfpo.orchestration.resume import as_asked
from openrlhf_sfpo.report.run_writer import RunWriter, _plain

ALL = ("train", "dry-run", "doctor", "compare", "plan")
NOT_PLAN = ("train", "dry-run", "doctor", "compare")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Flags of a run that starts, by name; sixteen prompts."""
    root = tmp_path_factory.mktemp("accepted")
    data = root / "data.jsonl"
    rows = [{"input": f"{n} + 1", "label": str(n + 1), "datasource": "sums"} for n in range(16)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "actor.model_name_or_path": str(make_model(root / "model", "llama")),
        "actor.num_gpus_per_node": 2,
        "vllm.num_engines": 1,
        "data.prompt_dataset": str(data),
        "data.label_key": "label",
        "data.max_len": 64,
        "reward.remote_url": "last_integer",
        "rollout.n_samples_per_prompt": 4,
        "rollout.batch_size": 8,
        "run.dir": str(root / "run"),
    }


@pytest.fixture(scope="module", autouse=True)
def parsers_are_built_once() -> Any:
    """OpenRLHF's source is read for each command otherwise."""
    parser = flags_module.build_parser()
    patch = pytest.MonkeyPatch()
    patch.setattr(flags_module, "build_parser", lambda: parser)
    yield
    patch.undo()


class Reached(Exception):
    """The run would start now."""


@pytest.fixture
def commands(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Callable[[list[str]], int]]:
    """Each command on the base's flags and some words more; what comes after the checks is left out."""

    def reached(*args: Any, **kwargs: Any) -> int:
        raise Reached

    monkeypatch.setattr(train, "_run", reached)
    monkeypatch.setattr(compare, "_compare", reached)
    monkeypatch.setattr(doctor, "examine", lambda args: [] if args is None else [Finding("machine", "ok", "")])
    words = [f"--{name}={value}" for name, value in base.items()]

    def trains(more: list[str]) -> int:
        try:
            return train.main([*words, *more])
        except Reached:
            return 0

    def compares(more: list[str]) -> int:
        config = tmp_path / "comparison.yaml"
        settings = {name: value for name, value in base.items() if name != "run.dir"}
        file = [word.partition("=")[2] for word in more if word.startswith("--config=")]
        if file:  # a comparison takes settings from a file as its base
            settings |= yaml.load(Path(file[0]).read_text(encoding="utf-8"), yaml.BaseLoader)
        config.write_text(yaml.safe_dump({"base": settings, "variants": {"one": {"train.num_episodes": 1}}}))
        changes = [part for word in more if not word.startswith("--config=") for part in ("--set", set_word(word))]
        try:
            return compare.main([str(config), "--out", str(tmp_path / "out"), *changes])
        except Reached:
            return 0

    return {
        "train": trains,
        "dry-run": lambda more: train.main([*words, "--dry-run", *more]),
        "doctor": lambda more: doctor.main([*words, *more]),
        "plan": lambda more: plan.main([base["actor.model_name_or_path"], *words, *more]),
        "compare": compares,
    }


def set_word(word: str) -> str:
    """A flag as `compare --set` takes it."""
    name, equals, value = word.removeprefix("--").partition("=")
    if not equals:
        return f"{name.removeprefix('no-')}={'false' if name.startswith('no-') else 'true'}"
    return f"{name}={value}"


# (a flag with its value, words of the message, the commands that it is for)
REFUSED: list[tuple[str, str, tuple[str, ...]]] = [
    ("--ckpt.save_steps=0", "1 or more, or -1 for never", ALL),
    ("--ckpt.save_steps=-5", "-1 for never", ALL),
    ("--eval.steps=0", "1 or more", ALL),
    ("--logger.logging_steps=0", "1 or more", ALL),
    ("--ckpt.max_num=0", "1 or more", ALL),
    ("--ckpt.max_mem=0", "above 0", ALL),
    ("--actor.adam.lr=nan", "is nan", ALL),
    ("--actor.adam.lr=inf", "is inf", ALL),
    ("--actor.adam.lr=-1e-4", "is -0.0001", ALL),
    ("--actor.adam.lr=10", "from 0 to 1", ALL),
    ("--actor.adam.eps=0", "above 0", ALL),
    ("--actor.adam.betas=[0.9, 1.0]", "is 0.9 1.0", ("compare",)),
    ("--actor.adam.weight_decay=-0.1", "0 or more", ALL),
    ("--actor.lr_scheduler=bogus", "is 'bogus'. Use one of constant", ALL),
    ("--actor.lr_scheduler=warmup_stable_decay", "Use one of", ALL),
    ("--actor.lr_warmup_ratio=1.5", "from 0 to 1", ALL),
    ("--actor.min_lr_ratio=-1", "from 0 to 1", ALL),
    ("--actor.eps_clip=-0.2", "above 0", ALL),
    ("--actor.dual_clip=1", "above 1", ALL),
    ("--actor.max_norm=-1", "0 (no clipping) or more", ALL),
    ("--actor.entropy_coef=nan", "finite", ALL),
    ("--algo.kl.init_coef=-1", "0 (no KL term) or more", ALL),
    ("--algo.advantage.gamma=1.1", "from 0 to 1", ALL),
    ("--vllm.num_engines=-1", "0 or more", ALL),
    ("--vllm.gpu_memory_utilization=90", "a part of 1", ALL),
    ("--rollout.temperature=-1", "0.01 or more", ALL),
    ("--rollout.temperature=0", "0.01 or more", ALL),
    ("--rollout.top_p=2", "above 0 and up to 1", ALL),
    ("--rollout.top_p=0", "above 0 and up to 1", ALL),
    ("--rollout.max_new_tokens=0", "1 or more", ALL),
    ("--rollout.max_new_tokens=64", "no room is left for a prompt", NOT_PLAN),
    ("--rollout.micro_batch_size=0", "1 or more", ALL),
    ("--train.num_episodes=0", "1 or more", ALL),
    ("--train.micro_batch_size=0", "1 or more", ALL),
    ("--train.seed=-1", "from 0 to", ("train", "dry-run", "doctor", "plan")),
    ("--train.timeout=inf", "above 0", ALL),
    ("--data.max_samples=0", "1 or more", ALL),
    ("--data.prompt_probs=0.5,0.5", "names 1 data set(s)", NOT_PLAN),
    ("--sfpo.k=-1", "0 (plain GRPO) or more", ALL),
    ("--sfpo.alpha=nan", "from 0 to 1", ALL),
    ("--rollout.batch_size=5000", "has 16 prompt(s)", NOT_PLAN),
    ("--data.max_samples=4", "has 4 prompt(s)", NOT_PLAN),
    ("--actor.num_gpus_per_node=64", "32 samples, and the actor's 64 rank(s) hold 64 copies", NOT_PLAN),
    ("--rollout.vllm_generate_batch_size=16", "--train.async_enable", NOT_PLAN),
    ("--ckpt.best_metric_key=foo", "nothing is evaluated", NOT_PLAN),
    ("--reward.overlong_buffer_len=100", "longer than a response can be", NOT_PLAN),
    # Kinds of value.
    ("--sfpo.k=three", "no whole number", ALL),
    ("--sfpo.k=1e3", "no whole number", ALL),
    ("--sfpo.k=", "no whole number", ALL),
    ("--sfpo.alpha=0,8", "no number", ALL),
    ("--sfpo.gate=false", "Use one of upper, two_sided, off", ALL),
    ("--ckpt.path=", "is empty", ALL),
    ("--data.label_key= ", "is empty", ALL),
    ("--ckpt.path=$NO_SUCH_VARIABLE/x", "NO_SUCH_VARIABLE is not set", ALL),
    ("--data.prompt_dataset=a.jsonl,", "between two commas or at an end", ALL),
    # Names.
    ("--sfpo.K=3", "Did you mean", ALL),
    ("--sfpo.kk=3", "sfpo.k?", ALL),
    ("--rollout.batchsize=3", "rollout.batch_size?", ALL),
    ("--pretrain=x", "actor.model_name_or_path", ALL),
    ("--actor_learning_rate=1e-5", "actor.adam.lr", ALL),
    ("--micro_train_batch_size=4", "train.micro_batch_size", ALL),
    ("--remote_rm_url=math", "reward.remote_url", ALL),
    ("--perf", "Leave it out", ("train", "dry-run", "doctor", "plan")),
    ("--bogus", "is no flag", ("train", "dry-run", "doctor", "plan")),
]

ACCEPTED: list[tuple[str, str, Any, tuple[str, ...]]] = [
    ("--ckpt.save_steps=-1", "ckpt.save_steps", -1, ALL),
    ("--ckpt.max_mem=inf", "ckpt.max_mem", float("inf"), ALL),
    ("--actor.adam.lr=0", "actor.adam.lr", 0.0, ALL),
    ("--actor.adam.lr=1e-5", "actor.adam.lr", 1e-5, ALL),
    ("--actor.max_norm=0", "actor.max_norm", 0.0, ALL),
    ("--actor.lr_scheduler=constant", "actor.lr_scheduler", "constant", ALL),
    ("--actor.entropy_coef=0", "actor.entropy_coef", 0.0, ALL),
    ("--eval.temperature=0", "eval.temperature", 0.0, ALL),
    ("--reward.stop_properly_penalty_coef=-0.5", "reward.stop_properly_penalty_coef", -0.5, ALL),
    ("--sfpo.k=0", "sfpo.k", 0, ALL),
    ("--sfpo.k=010", "sfpo.k", 10, ALL),
    ("--train.seed=1_000", "train.seed", 1000, ALL),
    ("--sfpo.gate=off", "sfpo.gate", "off", ALL),
    ("--no-sfpo.enable", "sfpo.enable", False, ALL),
    ("--no-vllm.enforce_eager", "vllm.enforce_eager", False, ALL),
    ("--vllm.enforce_eager", "vllm.enforce_eager", True, ALL),
    ("--rollout.batch_size=16", "rollout.batch_size", 16, ALL),
    ("--rollout.max_new_tokens=63", "rollout.max_new_tokens", 63, ALL),
    # A larger train batch is the whole rollout batch.
    ("--train.batch_size=4096", "train.batch_size", 4096, ALL),
    ("--ckpt.best_metric_key=none", "ckpt.best_metric_key", "none", ALL),
    ("--logger.wandb.run_name=12:30:45", "logger.wandb.run_name", "12:30:45", ALL),
    ("--logger.wandb.group=0123456", "logger.wandb.group", "0123456", ALL),
]


@pytest.mark.parametrize(("word", "message", "names"), REFUSED, ids=[case[0] for case in REFUSED])
def test_refused_by_every_command_in_one_line(
    commands: dict[str, Any], capsys: pytest.CaptureFixture[str], word: str, message: str, names: tuple[str, ...]
) -> None:
    flag = word.removeprefix("--").partition("=")[0]
    for name in names:
        capsys.readouterr()
        status = commands[name]([word])
        shown = capsys.readouterr()
        if name == "doctor" and status == 1:  # a finding of its table
            assert all(part in shown.out for part in ("ERROR", *message.split(". ")))
            continue
        assert (name, status) == (name, 2)
        (line,) = shown.err.strip().splitlines()
        command = "train" if name == "dry-run" else name
        assert line.startswith(f"openrlhf-sfpo {command}: error: ")
        assert message in line
        assert flag in line or flag in ("data.max_samples", "actor.num_gpus_per_node")


@pytest.mark.parametrize(("word", "flag", "value", "names"), ACCEPTED, ids=[case[0] for case in ACCEPTED])
def test_accepted_by_every_command(
    commands: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    word: str,
    flag: str,
    value: Any,
    names: tuple[str, ...],
) -> None:
    assert vars(parse([word])[0])[flag] == value
    for name in names:
        if name == "compare" and flag == "train.seed":
            continue  # has seeds of its own
        status = commands[name]([word])
        assert (name, status, capsys.readouterr().err) == (name, 0, "")


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
    ("sfpo.enable: maybe", "is 'maybe', which is no boolean (FILE, line 1)"),
    ("vllm.enforce_eager: 2", "is '2', which is no boolean"),
    ("sfpo.enable: ''", "is '', which is no boolean"),
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
    ("sfpo.k: 0x10", "is '0x10', which is no whole number"),
    ("sfpo.k: 3.0", "is '3.0', which is no whole number"),
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
    ("- a", "is not a mapping"),
    ("a: &a {b: *a}", "contains itself"),
    ("sfpo.k: !env K", "has the tag !env"),
    ("sfpo: {<<: {k: 5}, alpha: 0.3}", {"sfpo.k": 5, "sfpo.alpha": 0.3}),
    ("actor.muon.nesterov: false", {"actor.muon.nesterov": False}),
    ("actor.muon.no_nesterov: true", {"actor.muon.nesterov": False}),
    ("actor.muon.no_nesterov: true\nactor.muon.nesterov: true", "which are one flag"),
    ("no-sfpo.enable: true", "Write sfpo.enable: false"),
    ("pretrain: x", "sets 'pretrain', which is no flag (it was one of earlier versions of OpenRLHF)"),
    ("sfpo.kk: 3", "FILE, line 1: sets 'sfpo.kk', which is no flag. Did you mean sfpo.k?"),
    ("config: other.yaml", "cannot include another one"),
    ("run.samples_per_step: ''", "no whole number"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sfpo.enable false", "--sfpo.enable: takes no value, and 'false' follows it. Write --no-sfpo.enable."),
        ("--sfpo.enable=False", "Write --no-sfpo.enable."),
        ("--no-sfpo.enable=false", "Write --sfpo.enable."),
        ("--vllm.enforce_eager true", "Write --vllm.enforce_eager."),
        ("--vllm.enforce_eager=0", "Write --no-vllm.enforce_eager."),
        ("--sfpo.k", "--sfpo.k: has no value."),
        ("--sfpo.k --run.dir x", "--sfpo.k: has no value."),
        ("--data.input_template -x", "write --data.input_template=-x"),
        ("--actor.adam.betas 0.9", "takes 2 values, and has 1"),
        ("--algo.advantage.is_correction_threshold", "has no value. Give it one or more."),
        ("\N{EN DASH}sfpo.k 3", "Write --sfpo.k, with two hyphens."),
        ("-sfpo.k 3", "Write --sfpo.k, with two hyphens."),
        ("sfpo.k=3", "Write --sfpo.k 3."),
        ("run.yaml", "Write --config run.yaml."),
        ("--data.input_template Q: {}", "Put a text with blanks into quotation marks."),
        ("--config a.yaml --config b.yaml", "--config: is given twice."),
        ("--config=", "--config: is empty"),
        ("--config nowhere.yaml", "nowhere.yaml does not exist in "),
        ("--config .", "is a directory"),
        ("--lr 1e-5", "Did you mean --actor.muon.lr or --actor.adam.lr"),
        ("--run-dir x", "Did you mean --run.dir?"),
        ("--seed 3", "Write --train.seed."),
        ("--megatron.bogus_things 3", "train --help megatron"),
        ("--help nothing", "knows no topic 'nothing'"),
    ],
)
def test_words_of_a_command_line(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert train.main(words.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_numbers_may_be_negative_and_the_last_of_two_counts() -> None:
    values = vars(
        parse(["--reward.clip_range", "-5", "-1e-1", "--eval.steps", "-1", "--sfpo.k", "1", "--sfpo.k", "2"])[0]
    )
    assert (values["reward.clip_range"], values["eval.steps"], values["sfpo.k"]) == ([-5.0, -0.1], -1, 2)


def test_a_command_line_switches_off_what_a_file_switches_on(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("sfpo.enable: true\nvllm: {enforce_eager: true}\n", encoding="utf-8")
    values = vars(parse(["--config", str(file), "--no-sfpo.enable", "--no-vllm.enforce_eager"])[0])
    assert (values["sfpo.enable"], values["vllm.enforce_eager"]) == (False, False)


@pytest.mark.parametrize(
    "change", ["sfpo.enable=false", "vllm.enforce_eager=False", "run.eval_at_ends=no", "sfpo.enable=0"]
)
def test_a_comparison_switches_flags_off(tmp_path: Path, base: dict[str, Any], change: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"base": {**base, "vllm.enforce_eager": True}}), encoding="utf-8")
    name = change.partition("=")[0]
    assert [vars(run.flat)[name] for run in compare.plan(config, tmp_path, [change])] == [False, False]


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


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (plan.main, ["/nonexist"], "openrlhf-sfpo plan: error: MODEL_DIR: '/nonexist'"),
        (plan.main, [""], "openrlhf-sfpo plan: error: MODEL_DIR: "),
        (plan.main, ["--gpus", "8"], "openrlhf-sfpo plan: error: MODEL_DIR: is not given."),
        (doctor.main, ["--bogus"], "openrlhf-sfpo doctor: error: --bogus: is no flag."),
        (doctor.main, ["bogus"], "openrlhf-sfpo doctor: error: 'bogus': is neither a flag"),
    ],
)
def test_errors_are_in_the_commands_own_words(
    capsys: pytest.CaptureFixture[str], main: Any, words: list[str], message: str
) -> None:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(message)
    assert "openrlhf-sfpo train:" not in line


def another_value(action: argparse.Action) -> list[str]:
    """A value of a flag that is not its default, as on a command line."""
    count = action.nargs if isinstance(action.nargs, int) else 2
    if action.choices is not None:
        return [next(str(one) for one in reversed(list(action.choices)) if one != action.default)]
    if action.nargs == 0:
        return []
    texts = {int: ["7", "9"], float: ["1e-07", "0.25"]}.get(action.type, ["012: [x]", "no # {}"])  # type: ignore[call-overload]
    return texts[:count] if action.nargs is not None else texts[:1]


def test_every_written_setting_reads_back_as_itself(tmp_path: Path) -> None:
    """Each flag, with another value than its default, as a run's config.yaml has it."""
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
    assert {name: _plain(value) for name, value in vars(parse(["--config", str(file)])[0]).items()} == {
        name: _plain(value) for name, value in defaults.items()
    } | {"config": str(file)}


def test_every_number_has_a_range_and_every_default_is_in_it() -> None:
    flags = Flags()
    limits, values = ranges(), flags.defaults()
    numbers = {action.dest for action in flags.parser._actions if action.type in (int, float)}
    assert set(limits) == numbers
    for name, range_ in limits.items():
        value = values[name]
        for number in value if isinstance(value, list | tuple) else [value]:
            assert number is None or number in range_, name


def test_earlier_names_lead_to_flags_that_there_are() -> None:
    names = Flags().names
    for old, new in RENAMED.items():
        assert old not in names
        assert new.split(" ")[0] in names
    assert not set(GONE) & set(names)


def test_every_schedule_that_is_accepted_works() -> None:
    from openrlhf_sfpo.megatron.optimizer import LearningRate
    from openrlhf_sfpo.megatron.settings import OptimizerSettings

    for schedule in CHOICES["actor.lr_scheduler"]:
        optimizer = argparse.Namespace(param_groups=[{}])
        rate = LearningRate(optimizer, OptimizerSettings(schedule=schedule, total_steps=4, warmup_ratio=0.25))
        for _ in range(4):
            rate.advance()
        assert rate.value >= 0


def test_help_begins_with_what_is_needed_and_goes_by_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 60
    for part in ("--actor.model_name_or_path", "--data.prompt_dataset", "--reward.remote_url", "--dry-run", "megatron"):
        assert part in text
    for words, there, absent in (
        (["--help", "sfpo"], "--sfpo.gate_patience", "--megatron."),
        (["--help=megatron"], "--megatron.layer_spec", "--rollout."),
        (["--help", "rollout"], "--rollout.top_p X", "--ds."),
        (["--help", "sfpo.k"], "[0 or more] (default: 3)", "--sfpo.alpha"),
        (["--help", "all"], "--ds.zero_stage", "nothing of the kind"),
    ):
        assert train.main(words) == 0
        text = capsys.readouterr().out
        assert there in text
        assert absent not in text


# Run directories.


def begun(directory: Path, base: dict[str, Any], *words: str, state: str = "failed") -> None:
    """A run that has begun with the base's flags in a directory, and ended."""
    flat, given = parse([*(f"--{name}={value}" for name, value in base.items()), f"--run.dir={directory}", *words])
    preflight.prepare(flat, given)
    vars(flat)["megatron.device"] = "cpu"  # as settled for the device
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
        places = ("ckpt.path", "logger.tensorboard_dir", "rollout.record_dir", "data.prompt_dataset")
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
        ("settings of something else", "", "holds a config.yaml that is no run's"),
        ("metrics of something else", "", "holds metrics.jsonl of something that is no run of ours"),
    ],
)
def test_what_others_wrote_is_left_alone(
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
    if before in files:
        files[before].parent.mkdir(parents=True, exist_ok=True)
        files[before].write_text("{}", encoding="utf-8")
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


def test_what_a_run_wrote_itself_is_its_own(base: dict[str, Any], tmp_path: Path) -> None:
    place = tmp_path / "models"
    begun(tmp_path / "run", base, f"--ckpt.output_dir={place}")
    place.mkdir()
    (place / "config.json").write_text("{}", encoding="utf-8")
    words = [f"--{name}={value}" for name, value in base.items()]
    flat, given = parse([*words, f"--run.dir={tmp_path / 'run'}", f"--ckpt.output_dir={place}"])
    preflight.check(flat, given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "nan"], "--temperature: is nan."),
        (["--top_p", "nan"], "--top_p: is nan."),
        (["--gpu_memory_utilization", "5"], "--gpu_memory_utilization: is 5.0."),
        (["--seed", "-1"], "--seed: is -1."),
        (["--data", ""], "--data: is empty"),
        (["--limit", "0"], "--limit: is 0. Use 1 or more."),
    ],
)
def test_evaluations_check_their_numbers_alike(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    more = [] if "--data" in words else ["--data", "reasoning_gym:gcd?size=3"]
    assert evaluate.main(["model", *more, *words]) == 2
    assert f"openrlhf-sfpo eval: error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("main", [evaluate.main, compare.main, report.main, export.main])
def test_no_command_writes_to_a_place_without_a_name(capsys: pytest.CaptureFixture[str], main: Any) -> None:
    words = ["there", ""] if main is export.main else ["there", "--out", ""]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "is empty" in capsys.readouterr().err
