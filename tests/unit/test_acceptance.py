"""What --dry-run accepts must start: every refusal and every acceptance through train, --dry-run, plan, doctor and
compare, in this process and without Ray."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from openrlhf_sfpo.cli import compare, doctor, evaluate, export, plan, report, train
from openrlhf_sfpo.cli.flags import Flags, parse
from openrlhf_sfpo.config.flag_table import ranges
from openrlhf_sfpo.config.openrlhf_flags import CHOICES, GONE, RENAMED
from openrlhf_sfpo.runs.openrlhf_arguments import for_openrlhf

ALL = ("train", "dry-run", "doctor", "compare", "plan")
NOT_PLAN = ("train", "dry-run", "doctor", "compare")

pytest_plugins = ["commands"]
pytestmark = pytest.mark.usefixtures("parsers_are_built_once")


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
    ("--train.stages=stages.yaml", "is for openrlhf-sfpo train", ("doctor", "compare")),
    ("--train.stages=stages.yaml", "stages.yaml does not exist", ("train", "dry-run")),
    # Kinds of value.
    ("--sfpo.k=three", "not a whole number", ALL),
    ("--sfpo.k=1e3", "not a whole number", ALL),
    ("--sfpo.k=", "not a whole number", ALL),
    ("--sfpo.alpha=0,8", "not a number", ALL),
    ("--sfpo.gate=false", "Use one of upper, two_sided, baseline, grad_norm, cosine, off", ALL),
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
    ("--bogus", "is not a flag", ("train", "dry-run", "doctor", "plan")),
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
        ("--config=", "--config: is empty"),
        ("--config nowhere.yaml", "nowhere.yaml does not exist in "),
        ("--config .", "is a directory"),
        ("--lr 1e-5", "Did you mean --actor.muon.lr or --actor.adam.lr"),
        ("--run-dir x", "Did you mean --run.dir?"),
        ("--algo.advantage.estimator grpo", "is 'grpo'. Did you mean group_norm (group_norm is GRPO)? Use one of"),
        ("--algo.advantage.estimator drgrpo", "Did you mean dr_grpo? Use one of"),
        ("--algo.advantage.estimator best", "is 'best'. Use one of"),
        ("--actor.optim AdamW", "Did you mean adam ("),
        ("--run.engine_dtype bf16", "Did you mean bfloat16?"),
        ("--seed 3", "Write --train.seed."),
        ("--megatron.bogus_things 3", "train --help megatron"),
        ("--help nothing", "knows no topic 'nothing'"),
        ("--help batch_size", "Did you mean rollout.batch_size or train.batch_size?"),
        ("--dryrun", "Did you mean --dry-run?"),
        ("--dry-run=false", "--dry-run: takes no value."),
        ("--run.allow_changed actor.lr", "--run.allow_changed: names 'actor.lr', which is not a flag. Did you mean"),
    ],
)
def test_words_of_a_command_line(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert train.main(words.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_numbers_may_be_negative_and_the_last_value_wins() -> None:
    values = vars(
        parse(["--reward.clip_range", "-5", "-1e-1", "--eval.steps", "-1", "--sfpo.k", "1", "--sfpo.k", "2"])[0]
    )
    assert (values["reward.clip_range"], values["eval.steps"], values["sfpo.k"]) == ([-5.0, -0.1], -1, 2)


@pytest.mark.parametrize(
    "change", ["sfpo.enable=false", "vllm.enforce_eager=False", "run.eval_at_ends=no", "sfpo.enable=0"]
)
def test_a_comparison_switches_flags_off(tmp_path: Path, base: dict[str, Any], change: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"base": {**base, "vllm.enforce_eager": True}}), encoding="utf-8")
    name = change.partition("=")[0]
    assert [vars(run.flat)[name] for run in compare.plan(config, tmp_path, [change])] == [False, False]


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (plan.main, ["/nonexist"], "openrlhf-sfpo plan: error: MODEL_DIR: /nonexist does not exist"),
        (plan.main, [""], "openrlhf-sfpo plan: error: MODEL_DIR: "),
        (plan.main, ["--gpus", "8"], "openrlhf-sfpo plan: error: MODEL_DIR: is not given."),
        (doctor.main, ["--bogus"], "openrlhf-sfpo doctor: error: --bogus: is not a flag."),
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


def test_every_number_has_a_range_and_every_default_is_in_it() -> None:
    flags = Flags()
    limits, values = ranges(), flags.defaults()
    numbers = {action.dest for action in flags.parser._actions if action.type in (int, float)}
    assert set(limits) == numbers
    for name, range_ in limits.items():
        value = values[name]
        for number in value if isinstance(value, list | tuple) else [value]:
            assert number is None or number in range_, name


def test_former_flag_names_lead_to_existing_flags() -> None:
    names = Flags().names
    for old, new in RENAMED.items():
        assert old not in names
        assert new.split(" ")[0] in names
    assert not set(GONE) & set(names)


def test_every_schedule_that_is_accepted_works() -> None:
    from openrlhf_sfpo.megatron.settings import OptimizerSettings
    from openrlhf_sfpo.megatron.train.optimizer import LearningRate

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
        (["--help", "weight_bucket_mb"], "--megatron.weight_bucket_mb", "--megatron.layer_spec"),
        (["--help", "all"], "--ds.zero_stage", "nothing of the kind"),
    ):
        assert train.main(words) == 0
        text = capsys.readouterr().out
        assert there in text
        assert absent not in text


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
def test_evaluation_numbers_are_checked_in_the_same_way(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    more = [] if "--data" in words else ["--data", "reasoning_gym:gcd?size=3"]
    assert evaluate.main(["model", *more, *words]) == 2
    assert f"openrlhf-sfpo eval: error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (
            compare.main,
            ["c.yaml", "--bogus"],
            "openrlhf-sfpo compare: error: --bogus: is not a flag. openrlhf-sfpo compare",
        ),
        (compare.main, [], "openrlhf-sfpo compare: error: the following arguments are required: CONFIG.yaml."),
        (
            evaluate.main,
            ["m", "--max-new-tokens", "3"],
            "--max-new-tokens: is not a flag. Did you mean --max_new_tokens?",
        ),
        (
            evaluate.main,
            ["m", "--top_p", "x"],
            "openrlhf-sfpo eval: error: argument --top_p: invalid float value: 'x'.",
        ),
        (
            report.main,
            ["r", "--smoth", "3"],
            "openrlhf-sfpo report: error: --smoth: is not a flag. Did you mean --smooth?",
        ),
        (export.main, ["a"], "openrlhf-sfpo export: error: the following arguments are required: OUT."),
    ],
)
def test_other_commands_report_bad_input_in_one_line(
    capsys: pytest.CaptureFixture[str], main: Any, words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("main", [evaluate.main, compare.main, report.main, export.main])
def test_an_empty_output_path_is_refused(capsys: pytest.CaptureFixture[str], main: Any) -> None:
    words = ["there", ""] if main is export.main else ["there", "--out", ""]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # Sixteen prompts in batches of five: the last has one, with four samples for eight copies of the model.
        (
            ["--rollout.batch_size=5", "--actor.num_gpus_per_node=8"],
            "which leaves 1 of the 16 prompts for the last batch",
        ),
        (["--rollout.batch_size=5", "--actor.num_gpus_per_node=4"], None),
        (["--actor.num_gpus_per_node=8", "--train.batch_size=4"], "8 copies of the model, each of which needs"),
        (["--actor.num_gpus_per_node=8", "--train.batch_size=8"], None),
        (
            ["--actor.num_gpus_per_node=8", "--megatron.tensor_model_parallel_size=2", "--train.batch_size=4"],
            None,
        ),
        (["--rollout.batch_size=5", "--actor.num_gpus_per_node=8", "--megatron.tensor_model_parallel_size=2"], None),
        (["--rollout.batch_size=5", "--actor.num_gpus_per_node=8", "--data.max_samples=15"], None),
        (["--eval.dataset=DATA", "--ckpt.best_metric_key=eval_sums_pass1"], None),
        (["--eval.dataset=DATA", "--ckpt.best_metric_key=eval_sums_pass4"], None),
        (
            ["--eval.dataset=DATA", "--ckpt.best_metric_key=eval/sums_pass1"],
            "Use one of eval_sums_pass1, eval_sums_pass4",
        ),
        (["--eval.dataset=reasoning_gym:gcd?size=5", "--ckpt.best_metric_key=eval_gcd_pass1"], None),
        (
            ["--eval.dataset=reasoning_gym:gcd?size=5", "--ckpt.best_metric_key=eval_lcm_pass1"],
            "Use one of eval_gcd_pass1",
        ),
        (["--data.prompt_dataset=reasoning_gym:gcd?size=5"], "has 5 prompt(s)"),
        (["--data.prompt_dataset=reasoning_gym:gcd"], None),
        (["--reward.clip_range", "5", "-5"], "the lower one first"),
        (["--algo.advantage.is_correction_level=token", "--algo.advantage.is_correction_threshold", "2.0"], None),
        (
            ["--algo.advantage.is_correction_level=token", "--algo.advantage.is_correction_threshold", "2", "1"],
            "lower one",
        ),
        (["--actor.lr_scheduler=polynomial", "--actor.adam.lr=1e-8"], "ends at a rate of 1e-07"),
    ],
)
def test_flags_against_each_other_and_the_data(
    commands: dict[str, Any],
    base: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str | None,
) -> None:
    words = [word.replace("DATA", base["data.prompt_dataset"]) for word in words]
    for name in ("train", "dry-run"):
        status = commands[name](words)
        shown = capsys.readouterr().err
        assert (status, shown) == (0, "") if message is None else (status == 2 and message in shown), shown


def test_a_train_batch_larger_than_the_rollout_batch_is_one_step_for_openrlhf_too() -> None:
    """OpenRLHF counts the steps of the learning-rate schedule in whole train batches."""
    words = ["--rollout.batch_size=4", "--rollout.n_samples_per_prompt=4", "--train.batch_size=128", "--run.dir=x"]
    flat, _ = parse(words)
    assert vars(for_openrlhf(flat))["train.batch_size"] == 16
    assert vars(flat)["train.batch_size"] == 128
