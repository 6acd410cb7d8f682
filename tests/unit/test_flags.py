"""The command line: OpenRLHF's flags, ours, YAML, and every bad input with its message and status."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from recordings import recording_of_pairs
from tiny_models import make_model

from openrlhf_sfpo.cli import train
from openrlhf_sfpo.cli.flags import build_parser, parse
from openrlhf_sfpo.config.flag_table import setting_flags
from openrlhf_sfpo.config.flags import CHANGED_DEFAULTS, SECTIONS, SFPOConfig
from openrlhf_sfpo.config.setting_names import flags_named
from openrlhf_sfpo.orchestration.openrlhf_parser import openrlhf_parser
from openrlhf_sfpo.system.errors import NotThere, UsageError

# Run in a fresh process: what OpenRLHF's own __main__ hands to parse_args.
PRINT_OPENRLHF_FLAGS = """
import argparse, json, runpy
from openrlhf_sfpo.system import flash_attn_stub
flash_attn_stub.install_if_missing()
class Stop(Exception): pass
def parse_args(self, *args):
    print("FLAGS" + json.dumps([describe(action) for action in self._actions]))
    raise Stop
def describe(action):
    return [action.dest, action.option_strings, repr(action.default), repr(action.type), repr(action.choices),
            repr(action.nargs), type(action).__name__, action.required]
argparse.ArgumentParser.parse_args = parse_args
try:
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
except Stop:
    pass
"""


def describe(action: argparse.Action) -> list[Any]:
    return [
        action.dest,
        action.option_strings,
        repr(action.default),
        repr(action.type),
        repr(action.choices),
        repr(action.nargs),
        type(action).__name__,
        action.required,
    ]


def test_every_openrlhf_flag_exists_with_its_default() -> None:
    done = subprocess.run([sys.executable, "-c", PRINT_OPENRLHF_FLAGS], capture_output=True, text=True, timeout=300)
    (line,) = [text for text in done.stdout.splitlines() if text.startswith("FLAGS")]
    theirs = {entry[0]: entry for entry in json.loads(line.removeprefix("FLAGS"))}
    del theirs["help"]
    ours = {action.dest: describe(action) for action in build_parser()._actions}
    assert len(theirs) > 150
    for name, entry in theirs.items():
        if name == "logger.wandb.run_name":  # has the time in it
            continue
        if name in CHANGED_DEFAULTS:
            entry[2] = repr(CHANGED_DEFAULTS[name][0])
        assert ours[name] == entry
    added = set(ours) - set(theirs) - {"help"}
    assert added == {"config", "actor.backend"} | {
        f"{s}.{f}" for s, c in SECTIONS.items() for f in c.__dataclass_fields__
    }


def test_help_lists_the_changed_defaults() -> None:
    text = " ".join(build_parser().format_help().split())
    for name, (value, _) in CHANGED_DEFAULTS.items():
        assert f"--{name} {value}" in text


def test_the_parser_comes_without_heavy_imports() -> None:
    code = (
        "import sys; from openrlhf_sfpo.cli.flags import build_parser; build_parser();"
        "print([m for m in ('torch', 'ray', 'vllm', 'openrlhf', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_yaml_settings_have_the_flags_names_and_the_command_line_the_last_word(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "sfpo": {"k": 5, "enable": False},
                "actor.adam.lr": 2e-5,
                "actor": {"adam": {"betas": [0.8, 0.9]}, "gradient_checkpointing_enable": True},
                "data.input_template": "Q: {}\nA:",
                "vllm.enforce_eager": False,
                "train.max_epochs": None,
            }
        )
    )
    flat, given = parse(["--config", str(config), "--sfpo.k", "2"])
    values = vars(flat)
    assert values["sfpo.k"] == 2
    assert values["sfpo.enable"] is False
    assert values["actor.adam.lr"] == 2e-5
    assert values["actor.adam.betas"] == [0.8, 0.9]
    assert values["actor.gradient_checkpointing_enable"] is True
    assert values["data.input_template"] == "Q: {}\nA:"
    assert values["vllm.enforce_eager"] is False
    assert {"sfpo.k", "actor.adam.lr"} <= given
    assert "sfpo.alpha" not in given


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sfpo: {kk: 3}", "sets 'sfpo.kk', which is not a flag"),
        ("- a\n- b", "is not a mapping"),
        ("a: [", "is not YAML"),
        (None, "does not exist"),
    ],
)
def test_yaml_that_is_wrong(tmp_path: Path, content: str | None, message: str) -> None:
    config = tmp_path / "run.yaml"
    if content is not None:
        config.write_text(content)
    with pytest.raises(UsageError, match=message):
        parse(["--config", str(config)])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Flags that pass every check."""
    root = tmp_path_factory.mktemp("good")
    data = root / "data.jsonl"
    data.write_text('{"input": "1 + 1", "label": "2"}\n')
    return {
        # vLLM on CPU takes no attention heads smaller than 32.
        "--actor.model_name_or_path": make_model(root / "model", "llama", hidden_size=128),
        "--actor.num_gpus_per_node": 2,
        "--vllm.num_engines": 1,
        "--data.prompt_dataset": data,
        "--data.label_key": "label",
        "--data.max_len": 64,
        "--reward.remote_url": "last_integer",
        "--rollout.n_samples_per_prompt": 4,
        "--run.dir": root / "run",
    }


def words(flags: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" if value is not True else name for name, value in flags.items() if value is not None]


def test_good_input_passes_and_nothing_is_written(good: dict[str, Any]) -> None:
    from openrlhf_sfpo.runs import preflight

    preflight.check(parse(words(good))[0])
    assert not good["--run.dir"].exists()


def edited_model(tmp_path: Path, **changes: Any) -> Path:
    path = make_model(tmp_path / "edited", "llama")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    return path


def without(tmp_path: Path, *names: str) -> Path:
    path = make_model(tmp_path / "lacking", "llama")
    for name in names:
        (path / name).unlink()
    return path


def half_a_model(tmp_path: Path) -> Path:
    from safetensors.torch import load_file, save_file

    path = make_model(tmp_path / "half", "llama")
    tensors = load_file(path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.3" not in name}
    save_file(kept, path / "model.safetensors")
    return path


def cut_model(tmp_path: Path) -> Path:
    path = make_model(tmp_path / "cut", "llama")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    return path


def reward_file(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "reward.py"
    path.write_text(code)
    return path


def data_file(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    return path


def used_run(tmp_path: Path) -> Path:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "metrics.jsonl").write_text("{}\n")
    return tmp_path / "used"


def under_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "run"


def latin_1_file(directory: Path) -> Path:
    path = directory / "latin.jsonl"
    path.write_bytes(b'{"input": "caf\xe9", "label": "b"}\n')
    return path


def used_recording(directory: Path) -> Path:
    (directory / "rollouts_000001.safetensors").touch()
    return directory


def cut_index(directory: Path) -> Path:
    path = make_model(directory / "indexed", "llama")
    (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"model.norm')
    return path


# (what is wrong, flags to change (values may be functions of a directory), words of the message)
BAD: list[tuple[str, dict[str, Any], list[str]]] = [
    ("model missing", {"--actor.model_name_or_path": "/nowhere"}, ["--actor.model_name_or_path", "does not exist"]),
    ("no model", {"--actor.model_name_or_path": None}, ["--actor.model_name_or_path", "not given"]),
    (
        "no config",
        {"--actor.model_name_or_path": lambda t: without(t, "config.json")},
        ["--actor.model_name_or_path", "no config.json"],
    ),
    (
        "no weights",
        {"--actor.model_name_or_path": lambda t: without(t, "model.safetensors")},
        ["--actor.model_name_or_path", "neither model.safetensors nor"],
    ),
    (
        "no tokenizer",
        {"--actor.model_name_or_path": lambda t: without(t, "tokenizer.json")},
        ["--actor.model_name_or_path", "no tokenizer"],
    ),
    ("weights incomplete", {"--actor.model_name_or_path": half_a_model}, ["lacks the tensors model.layers.3"]),
    ("weights cut short", {"--actor.model_name_or_path": cut_model}, ["damaged or truncated", "Download"]),
    (
        "architecture",
        {"--actor.model_name_or_path": lambda t: edited_model(t, model_type="mamba")},
        ["model_type 'mamba'", "llama, mistral, qwen2, qwen3"],
    ),
    (
        "limits of a number of passes that must be known",
        {"--sfpo.preset": "lookahead", "--sfpo.max_fast_kl": "0.1"},
        ["--sfpo.max_fast_kl", "lookahead", "Drop one"],
    ),
    (
        "limits of a prediction",
        {"--sfpo.preset": "prepo", "--sfpo.min_fast_ess": "0.1"},
        ["--sfpo.min_fast_ess", "prepo", "Drop one"],
    ),
    ("a prediction from one pass", {"--sfpo.preset": "prepo", "--sfpo.k": "1"}, ["--sfpo.k", "prepo", "2 or more"]),
    (
        "a prediction by train batch with outer momentum",
        {"--sfpo.preset": "prepo", "--sfpo.prepo_per": "train_batch", "--sfpo.outer_momentum": "0.5"},
        ["--sfpo.prepo_per", "--sfpo.outer_momentum", "pass"],
    ),
    ("an outer momentum of 1", {"--sfpo.outer_momentum": "1"}, ["--sfpo.outer_momentum", "below 1"]),
    ("an outer learning rate of 0", {"--sfpo.outer_lr": "0"}, ["--sfpo.outer_lr", "above 0"]),
    ("a share of rewards", {"--sfpo.prepo_max_zero_rewards": "2"}, ["--sfpo.prepo_max_zero_rewards", "from 0 to 1"]),
    (
        "a cosine that would reopen",
        {"--sfpo.gate": "cosine", "--sfpo.gate_after": "reopen"},
        ["--sfpo.gate_after", "cosine", "latch or decay"],
    ),
    (
        "a cosine without a slow pass",
        {"--sfpo.gate": "cosine", "--sfpo.preset": "lookahead"},
        ["--sfpo.gate", "no slow pass", "another gate"],
    ),
    (
        "a cosine of a prediction without a slow pass",
        {"--sfpo.gate": "cosine", "--sfpo.preset": "prepo", "--no-sfpo.prepo_corrective": True},
        ["--sfpo.gate", "no slow pass", "another gate"],
    ),
    (
        "a cosine of other samples",
        {"--sfpo.gate": "cosine", "--sfpo.fast_fraction": "0.5"},
        ["--sfpo.gate", "--sfpo.fast_fraction", "another gate"],
    ),
    (
        "weights without probabilities",
        {"--sfpo.fast_fraction": "0.5", "--sfpo.fast_selection": "variance", "--sfpo.fast_rescale": True},
        ["--sfpo.fast_rescale", "probabilities"],
    ),
    (
        "two filters",
        {"--algo.greso.enable": True, "--algo.dynamic_filtering_enable": True},
        ["--algo.greso.enable", "--algo.dynamic_filtering_enable", "Drop one"],
    ),
    (
        "two ways of leaving groups out",
        {"--algo.greso.enable": True, "--algo.drop_equal_groups": True},
        ["--algo.drop_equal_groups", "--algo.greso.enable", "Drop one"],
    ),
    (
        "equal groups that have advantages",
        {"--algo.drop_equal_groups": True, "--algo.advantage.estimator": "reinforce_baseline"},
        ["--algo.drop_equal_groups", "reinforce_baseline", "group_norm, dr_grpo or rloo"],
    ),
    (
        "advantages that do not depend on the group alone",
        {"--algo.greso.enable": True, "--algo.advantage.estimator": "reinforce_baseline"},
        ["--algo.greso.enable", "reinforce_baseline", "group_norm, dr_grpo or rloo"],
    ),
    (
        "a group of one",
        {"--algo.greso.enable": True, "--rollout.n_samples_per_prompt": "1", "--algo.advantage.estimator": "dr_grpo"},
        ["--rollout.n_samples_per_prompt", "2 or more"],
    ),
    (
        "right and wrong at once",
        {"--algo.greso.enable": True, "--algo.greso.wrong_score": "1"},
        ["--algo.greso.wrong_score", "--algo.greso.right_score", "lower"],
    ),
    (
        "rounds of more prompts at least than at most",
        {"--algo.greso.enable": True, "--algo.greso.round_prompts": "8", "--algo.greso.min_round_prompts": "9"},
        ["--algo.greso.min_round_prompts", "8 or less"],
    ),
    (
        "bounds the wrong way around",
        {"--data.difficulty_model": "a", "--data.min_difficulty": "9", "--data.max_difficulty": "3"},
        ["--data.min_difficulty", "--data.max_difficulty 3", "Lower"],
    ),
    (
        "a difficulty of plain rows",
        {"--data.difficulty_model": "a", "--data.format": "plain"},
        ["--data.difficulty_model", "--data.format plain"],
    ),
    ("rows of another format", {"--data.format": "skywork"}, ["--data.format", "not a row of Skywork-OR1", "columns"]),
    (
        "two entropy bonuses",
        {"--algo.adaptive_entropy.enable": True, "--actor.entropy_coef": "0.1"},
        ["--algo.adaptive_entropy.enable", "--actor.entropy_coef", "Drop one"],
    ),
    (
        "an entropy bonus that begins above its most",
        {"--algo.adaptive_entropy.enable": True, "--algo.adaptive_entropy.coefficient": "0.1"},
        ["--algo.adaptive_entropy.coefficient", "--algo.adaptive_entropy.most", "Lower"],
    ),
    ("a probability", {"--algo.greso.p_easy": "1"}, ["--algo.greso.p_easy", "from 0.05 to 0.95"]),
    ("a target", {"--algo.greso.target_hard": "0"}, ["--algo.greso.target_hard", "above 0"]),
    (
        "attention bias",
        {"--actor.model_name_or_path": lambda t: edited_model(t, attention_bias=True)},
        ["attention_bias", "does not support"],
    ),
    (
        "rope scaling",
        {"--actor.model_name_or_path": lambda t: edited_model(t, rope_parameters={"rope_type": "longrope"})},
        ["'longrope'", "default, linear, llama3, yarn"],
    ),
    (
        "sliding window",
        {
            "--actor.model_name_or_path": lambda t: edited_model(
                t, model_type="mistral", architectures=None, sliding_window=32
            )
        },
        ["--data.max_len", "sliding-window", "32 or less"],
    ),
    (
        "TP and heads",
        {"--megatron.tensor_model_parallel_size": 3, "--actor.num_gpus_per_node": 3},
        ["--megatron.tensor_model_parallel_size", "2 key/value heads", "[1, 2]"],
    ),
    (
        "PP and layers",
        {"--megatron.pipeline_model_parallel_size": 3, "--actor.num_gpus_per_node": 3},
        ["--megatron.pipeline_model_parallel_size", "4 layers", "[1, 2, 4]"],
    ),
    (
        "VPP and layers",
        {"--megatron.pipeline_model_parallel_size": 2, "--megatron.virtual_pipeline_model_parallel_size": 3},
        ["--megatron.virtual_pipeline_model_parallel_size", "4 layers"],
    ),
    (
        "VPP without PP",
        {"--megatron.virtual_pipeline_model_parallel_size": 2},
        ["--megatron.virtual_pipeline_model_parallel_size", "only one pipeline stage"],
    ),
    (
        "world size",
        {"--megatron.pipeline_model_parallel_size": 2, "--actor.num_gpus_per_node": 3},
        ["--actor.num_gpus_per_node", "3 ranks", "multiple of 2"],
    ),
    (
        "CP and world size",
        {"--megatron.context_parallel_size": 2, "--actor.num_gpus_per_node": 3},
        ["--actor.num_gpus_per_node", "context parallel 2", "multiple of 2"],
    ),
    ("no CP", {"--megatron.context_parallel_size": 0}, ["--megatron.context_parallel_size", "1 or more"]),
    (
        "some layers of none",
        {"--megatron.recompute_num_layers": 2},
        ["--megatron.recompute_num_layers", "--megatron.recompute full"],
    ),
    (
        "fp32 residual in Transformer Engine",
        {"--megatron.layer_spec": "te", "--megatron.fp32_residual_connection": True},
        ["--megatron.fp32_residual_connection", "--megatron.layer_spec local"],
    ),
    ("no data", {"--data.prompt_dataset": None}, ["--data.prompt_dataset", "not given"]),
    ("data missing", {"--data.prompt_dataset": "/nowhere.jsonl"}, ["--data.prompt_dataset", "does not exist"]),
    ("data empty", {"--data.prompt_dataset": lambda t: data_file(t, "")}, ["--data.prompt_dataset", "empty"]),
    (
        "data not JSON",
        {"--data.prompt_dataset": lambda t: data_file(t, '{"input": "a", "label": "1"}\nnot json\n')},
        ["--data.prompt_dataset", "line 2 is not JSON"],
    ),
    (
        "no prompt key",
        {"--data.prompt_dataset": lambda t: data_file(t, '{"question": "a", "label": "b"}\n')},
        ["--data.input_key", "'input'", "question"],
    ),
    ("no label key", {"--data.label_key": "answer"}, ["--data.label_key", "'answer'"]),
    ("eval data missing", {"--eval.dataset": "/nowhere.parquet"}, ["--eval.dataset", "does not exist"]),
    ("K", {"--sfpo.k": -1}, ["--sfpo.k", "-1"]),
    ("alpha too large", {"--sfpo.alpha": 1.5}, ["--sfpo.alpha", "1.5", "from 0 to 1"]),
    ("alpha too small", {"--sfpo.alpha": -0.1}, ["--sfpo.alpha", "-0.1"]),
    ("gate window", {"--sfpo.gate_window": 1}, ["--sfpo.gate_window"]),
    ("top_p of evaluations", {"--eval.top_p": 0}, ["--eval.top_p"]),
    ("gate threshold", {"--sfpo.gate_threshold": 0}, ["--sfpo.gate_threshold"]),
    ("stop step", {"--sfpo.stop_step": -2}, ["--sfpo.stop_step"]),
    ("gate warm-up", {"--sfpo.gate_warmup": -1}, ["--sfpo.gate_warmup", "0 or more"]),
    ("gate patience", {"--sfpo.gate_patience": 0}, ["--sfpo.gate_patience", "1 or more"]),
    ("gate decay", {"--sfpo.gate_decay_steps": 0}, ["--sfpo.gate_decay_steps", "1 or more"]),
    (
        "n = 1",
        {"--rollout.n_samples_per_prompt": 1},
        ["--rollout.n_samples_per_prompt", "--algo.advantage.estimator", "2 or more"],
    ),
    ("no engines", {"--vllm.num_engines": None}, ["--vllm.num_engines: is not given", "--rollout.replay_dir"]),
    ("zero engines", {"--vllm.num_engines": 0}, ["--vllm.num_engines: is 0", "Use 1 or more, or --rollout.replay_dir"]),
    (
        "asynchronous and deterministic",
        {"--train.async_enable": True, "--rollout.deterministic": True},
        ["--rollout.deterministic", "--train.async_enable"],
    ),
    ("no reward", {"--reward.remote_url": None}, ["--reward.remote_url", "not given"]),
    ("reward missing", {"--reward.remote_url": "/nowhere.py"}, ["--reward.remote_url", "does not exist"]),
    ("reward unknown", {"--reward.remote_url": "maths"}, ["--reward.remote_url", "'maths'", "reasoning_gym"]),
    (
        "reward without function",
        {"--reward.remote_url": lambda t: reward_file(t, "def other(): pass\n")},
        ["--reward.remote_url", "does not define reward_func"],
    ),
    (
        "reward not Python",
        {"--reward.remote_url": lambda t: reward_file(t, "def (:\n")},
        ["--reward.remote_url", "not valid Python"],
    ),
    (
        "reward module without function",
        {"--reward.remote_url": "json.decoder:score"},
        ["--reward.remote_url", "decoder.py does not define score"],
    ),
    ("log-prob chunks", {"--megatron.log_prob_chunk_size": -5}, ["--megatron.log_prob_chunk_size", "1 or more"]),
    ("data that is a missing CSV", {"--data.prompt_dataset": "data/none.csv"}, ["--data.prompt_dataset", "exist"]),
    (
        "data with a broken character",
        {"--data.prompt_dataset": lambda t: latin_1_file(t)},
        ["--data.prompt_dataset", "not UTF-8"],
    ),
    ("checkpoints read-only", {"--ckpt.path": "/proc/checkpoints"}, ["--ckpt.path", "cannot be written"]),
    ("output read-only", {"--ckpt.output_dir": "/proc/model"}, ["--ckpt.output_dir", "cannot be written"]),
    ("recording read-only", {"--rollout.record_dir": "/proc/rollouts"}, ["--rollout.record_dir", "cannot be written"]),
    ("recording in use", {"--rollout.record_dir": used_recording}, ["--rollout.record_dir", "already holds"]),
    (
        "reference model's world size",
        {
            "--megatron.pipeline_model_parallel_size": 2,
            "--actor.num_gpus_per_node": 2,
            "--algo.kl.init_coef": 0.1,
            "--ref.num_gpus_per_node": 3,
        },
        ["--ref.num_gpus_per_node", "3 ranks"],
    ),
    ("index cut short", {"--actor.model_name_or_path": cut_index}, ["index.json is damaged", "Download"]),
    ("run directory under a file", {"--run.dir": under_a_file}, ["--run.dir", "not a writable directory"]),
    ("run directory read-only", {"--run.dir": "/proc/run"}, ["--run.dir", "cannot be written"]),
    ("run directory in use", {"--run.dir": used_run}, ["--run.dir", "other than a run"]),
    (
        "replay with other groups",
        {"--rollout.replay_dir": recording_of_pairs, "--rollout.n_samples_per_prompt": 4},
        ["--rollout.n_samples_per_prompt", "recorded with 2", "Use 2"],
    ),
    ("nothing to replay", {"--rollout.replay_dir": "/nowhere"}, ["--rollout.replay_dir", "rollouts_*.safetensors"]),
    ("critic", {"--algo.advantage.estimator": "gae"}, ["--algo.advantage.estimator", "group_norm"]),
    (
        "colocation of two and one",
        {"--train.colocate_all": True, "--actor.num_gpus_per_node": 2},
        ["--train.colocate_all", "the actor has 2", "the engines have 1", "equal"],
    ),
    (
        "colocation with DeepSpeed",
        {"--train.colocate_all": True, "--actor.backend": "deepspeed"},
        ["--train.colocate_all", "--actor.backend megatron"],
    ),
    (
        "colocated reference model of another size",
        {"--train.colocate_actor_ref": True, "--algo.kl.init_coef": 0.1, "--ref.num_gpus_per_node": 1},
        ["--ref.num_gpus_per_node", "Use 2 and 1"],
    ),
    ("sleep alone", {"--vllm.enable_sleep": True}, ["--vllm.enable_sleep", "add --train.colocate_all"]),
    (
        "engines that sleep asynchronously",
        {"--vllm.enable_sleep": True, "--train.colocate_all": True, "--train.async_enable": True},
        ["--vllm.enable_sleep", "--train.async_enable", "Drop one"],
    ),
    (
        "an actor that sleeps asynchronously",
        {"--ds.enable_sleep": True, "--train.async_enable": True},
        ["--ds.enable_sleep", "--train.async_enable"],
    ),
    ("sleep level", {"--vllm.sleep_level": 3}, ["--vllm.sleep_level", "is 3", "1 or 2"]),
    (
        "offload without sleep",
        {"--megatron.offload_parameters": True},
        ["--megatron.offload_parameters", "Add --ds.enable_sleep"],
    ),
    (
        "partial rollouts synchronously",
        {"--train.partial_rollout_enable": True},
        ["--train.partial_rollout_enable", "Add --train.async_enable"],
    ),
    ("LoRA", {"--ds.lora.rank": 8}, ["--ds.lora.rank", "does not support"]),
    ("DeepSpeed TP", {"--ds.tensor_parallel_size": 2}, ["--megatron.tensor_model_parallel_size"]),
    ("negative restarts", {"--train.max_restarts": -1}, ["--train.max_restarts", "0 or more"]),
    ("negative difference", {"--train.max_log_prob_diff": -1}, ["--train.max_log_prob_diff", "0 or more"]),
    ("no timeout", {"--train.timeout": 0}, ["--train.timeout", "above 0"]),
    ("no engine timeout", {"--rollout.engine_timeout": 0}, ["--rollout.engine_timeout", "above 0"]),
    ("no time to start", {"--rollout.engine_start_timeout": 0}, ["--rollout.engine_start_timeout", "above 0"]),
    ("no exit status", {"--run.interrupted_exit_status": 300}, ["--run.interrupted_exit_status: is 300", "0 to 255"]),
    ("negative grace", {"--train.grace_seconds": -1}, ["--train.grace_seconds", "0 or more"]),
    ("batch size", {"--train.batch_size": 0}, ["--train.batch_size", "1 or more"]),
]


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_ends_with_one_message_and_status_2(
    good: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    expected: list[str],
) -> None:
    made = {name: value(tmp_path) if callable(value) else value for name, value in changes.items()}
    capsys.readouterr()
    status = train.main(words({**good, **made}))
    shown = capsys.readouterr()
    assert status == 2
    assert shown.out == ""
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("openrlhf-sfpo train: error: ")
    for part in expected:
        assert part in line
    assert not good["--run.dir"].exists(), "nothing was written"


def test_a_word_that_is_not_a_number_ends_with_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--sfpo.k", "three"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--sfpo.k: is 'three', which is not a whole number." in line


def test_flags_cannot_be_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--conf", "run.yaml"]) == 2
    assert "--conf: is not a flag. Did you mean --config?" in capsys.readouterr().err


def test_openrlhfs_parser_is_found_without_running_its_main() -> None:
    names = {action.dest for action in openrlhf_parser()._actions}
    assert {"actor.model_name_or_path", "rollout.n_samples_per_prompt", "algo.advantage.estimator"} <= names


def test_an_openrlhf_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from openrlhf_sfpo.orchestration import hooks

    monkeypatch.setattr(hooks, "version", lambda name: "0.12.0")
    with pytest.raises(UsageError, match=r"0\.12\.0 is installed.*openrlhf==0\.11\.2"):
        hooks.check_version()


CHANGED_SIGNATURE = """
from openrlhf_sfpo.system import flash_attn_stub
from openrlhf_sfpo.orchestration import hooks
flash_attn_stub.install_if_missing()
hooks.check_signatures()
print("as expected")
from openrlhf.models.loss import PolicyLoss
PolicyLoss.forward = lambda self, log_probs, old_log_probs: None
try:
    hooks.check_signatures()
except ValueError as error:
    print(error)
"""


def test_a_changed_openrlhf_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", CHANGED_SIGNATURE], capture_output=True, text=True, timeout=300)
    shown = done.stdout.splitlines()
    assert "as expected" in shown
    assert "PolicyLoss.forward(self, log_probs, old_log_probs)" in shown[-1]
    assert "openrlhf==0.11.2" in shown[-1]


BLOCKED = """
import importlib.machinery, sys
original = importlib.machinery.PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    absent = name.split(".")[0] in {"ray", "vllm", "openrlhf", "deepspeed"}
    return None if absent else original(name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
import pkgutil, importlib
for package in ("openrlhf_sfpo.sfpo", "openrlhf_sfpo.megatron"):
    module = importlib.import_module(package)
    for info in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{info.name}")
assert not {"ray", "vllm", "openrlhf", "deepspeed"} & set(sys.modules)
print("imported")
"""


def test_sfpo_and_megatron_import_without_ray_vllm_openrlhf_or_deepspeed() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "imported", done.stderr


def test_flash_attn_stands_in_until_it_is_called() -> None:
    code = (
        "from openrlhf_sfpo.system.flash_attn_stub import install_if_missing; install_if_missing();"
        "from flash_attn.bert_padding import pad_input, index_first_axis, rearrange, unpad_input;"
        "from flash_attn.utils.distributed import all_gather; import transformers.utils as u;"
        "print(u.is_flash_attn_2_available())\n"
        "try: pad_input()\nexcept RuntimeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [
        "False",
        "flash_attn.bert_padding.pad_input was called, but flash-attn is not installed: it needs CUDA.",
    ]


def test_sfpo_flags_reach_the_algorithm() -> None:
    """Every --sfpo.* flag, through the parser, must change what the algorithm is built with."""
    import torch

    from openrlhf_sfpo.orchestration.algorithm import build_update
    from openrlhf_sfpo.sfpo import FastLimits, FastPart, OuterMomentum, TorchWeights

    def built(*flags: str) -> dict[str, Any]:
        args, _ = parse(list(flags))
        names = SFPOConfig.__dataclass_fields__
        config = SFPOConfig(**{name: getattr(args, f"sfpo.{name}") for name in names})
        weights = TorchWeights(torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]))
        update = build_update(config, weights, print)
        gate, slow_copy = vars(update.gate), vars(update._copy)
        limits = {"clip_limit": update._limits.max_clip_ratio, "ess_limit": update._limits.min_ess}
        limits |= {"selection": update._part.by, "rescale": update._part.rescale}
        limits |= {"outer_lr": update._outer.lr, **vars(update._predictive)}
        return {**vars(update), **limits, **gate, "state": slow_copy["_mode"], "offload": slow_copy["_offload"]}

    plain = built()
    expected = {
        "k": (["--sfpo.k", "5"], 5),
        "alpha": (["--sfpo.alpha", "0.25"], 0.25),
        "preset": (["--sfpo.preset", "lookahead"], "lookahead"),
        "kind": (["--sfpo.gate", "two_sided"], "two_sided"),
        "window": (["--sfpo.gate_window", "7"], 7),
        "threshold": (["--sfpo.gate_threshold", "2.5"], 2.5),
        "stop_step": (["--sfpo.stop_step", "9"], 9),
        "warmup": (["--sfpo.gate_warmup", "4"], 4),
        "patience": (["--sfpo.gate_patience", "3"], 3),
        "after": (["--sfpo.gate_after", "decay"], "decay"),
        "decay_steps": (["--sfpo.gate_decay_steps", "6"], 6),
        "_entropy_source": (["--sfpo.gate_entropy", "start"], "start"),
        "_limits": (["--sfpo.max_fast_kl", "0.5"], FastLimits(max_kl=0.5)),
        "clip_limit": (["--sfpo.max_fast_clip_ratio", "0.4"], 0.4),
        "ess_limit": (["--sfpo.min_fast_ess", "0.3"], 0.3),
        "_part": (["--sfpo.fast_fraction", "0.5"], FastPart(0.5)),
        "selection": (["--sfpo.fast_selection", "random"], "random"),
        "rescale": (["--sfpo.fast_rescale"], True),
        "retention": (["--sfpo.prepo_retention", "tensor"], "tensor"),
        "corrective": (["--no-sfpo.prepo_corrective"], False),
        "per": (["--sfpo.prepo_per", "train_batch"], "train_batch"),
        "max_zero_rewards": (["--sfpo.prepo_max_zero_rewards", "0.5"], 0.5),
        "_outer": (["--sfpo.outer_momentum", "0.5"], OuterMomentum(0.5)),
        "outer_lr": (["--sfpo.outer_lr", "0.7"], 0.7),
        "state": (["--sfpo.optimizer_state", "interpolate"], "interpolate"),
        "offload": (["--sfpo.snapshot_device", "cpu"], True),
    }
    assert len(expected) == len(SFPOConfig.__dataclass_fields__) - 1, "all but --sfpo.enable"
    for name, (flags, value) in expected.items():
        assert plain[name] != value
        assert built(*flags)[name] == value
    off = built("--no-sfpo.enable", "--sfpo.preset", "grpo_scaled_lr")
    assert (off["preset"], off["k"], off["_scale"]) == ("grpo", 0, 0.0)


def test_every_setting_of_the_actor_has_a_flag_or_is_made_by_its_adapter() -> None:
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.settings import ActorSettings, OptimizerSettings

    fields = {field.name for kind in (Layout, ActorSettings, OptimizerSettings) for field in dataclasses.fields(kind)}
    made = {"num_threads", "timeout", "batch_cache_bytes", "optimizer", "total_steps", "skip_zero_advantages"}
    assert fields - made == set(setting_flags())


def test_errors_name_the_flag_of_a_setting() -> None:
    """Both the setting at fault and those in the advice must become flags; another role has other flags."""

    @flags_named(world_size="--ref.num_nodes, --ref.num_gpus_per_node")
    def refuse(setting: str) -> None:
        raise NotThere(setting, "is `attention`.", "Raise `pp`, not `this`.")

    for setting, flag in (
        ("tp", "--megatron.tensor_model_parallel_size"),
        ("model", "--actor.model_name_or_path"),
        ("world_size", "--ref.num_nodes, --ref.num_gpus_per_node"),
        ("--data.max_len", "--data.max_len"),
    ):
        with pytest.raises(NotThere) as refused:
            refuse(setting)
        assert refused.value.flag == flag
        assert refused.value.problem == "is --megatron.attention_backend."
        assert refused.value.fix == "Raise --megatron.pipeline_model_parallel_size, not `this`."
