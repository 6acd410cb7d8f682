"""Limits of positions, heads and sizes: what vLLM and Megatron refuse is refused before they start."""

import json
from pathlib import Path
from typing import Any

import pytest
from config_variants import YARN, Variant, config_of, rope
from model_configs import CONFIGS, make_config
from tiny_models import make_model

from openrlhf_sfpo.cli import plan
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.rollout.engine_limits import CPU_HEAD_SIZES, EngineModel, check_engine
from openrlhf_sfpo.system.errors import UsageError

LLAMA_2_13B = {
    "model_type": "llama",
    "num_hidden_layers": 40,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def model(**changes: Any) -> ModelConfig:
    """A small model with changed settings in config.json."""
    return ModelConfig.from_dict(config_of(Variant("", "llama", edits=changes)))


@pytest.mark.parametrize(
    ("changes", "longest", "setting"),
    [
        ({}, 128, "max_position_embeddings"),
        (rope(**YARN), 128, "original_max_position_embeddings x factor"),
        (rope(**{**YARN, "factor": 3.5}), 112, "original_max_position_embeddings x factor"),
        (rope(type="yarn", factor=4.0), 512, "original_max_position_embeddings x factor"),
        (rope(type="linear", factor=2.0), 256, "max_position_embeddings x factor"),
        (rope(rope_type="default", factor=4.0), 128, "max_position_embeddings"),
        ({"max_sequence_length": 100}, 100, "max_sequence_length"),
        ({"max_sequence_length": 4096}, 128, "max_position_embeddings"),
        ({"seq_length": 64, "n_positions": 32}, 32, "n_positions"),
        ({"model_max_length": 64}, 64, "model_max_length"),
    ],
    ids=str,
)
def test_the_longest_sequence_is_the_one_that_vllm_finds(changes: dict[str, Any], longest: int, setting: str) -> None:
    config = model(**changes)
    assert (config.longest, config.longest_setting) == (longest, setting)
    check_engine(config, longest, 1, on_cpu=True)
    with pytest.raises(
        UsageError, match=rf"--data\.max_len: is {longest + 1}, but the model is made for {longest} "
    ) as e:
        check_engine(config, longest + 1, 1, on_cpu=True)
    assert f"({setting} in config.json)" in str(e.value)


def test_vllm_finds_the_same_limits(tmp_path: Path) -> None:
    from vllm.config.model import _get_and_verify_max_len
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

    from openrlhf_sfpo.checkpoints.hf_config import build_config, longest_sequence

    for edits in (
        {},
        rope(**YARN),
        rope(**{**YARN, "factor": 3.5}),
        rope(type="linear", factor=3.0),
        {"max_sequence_length": 100},
        {"model_max_length": 64},
        {"seq_len": 1000},
    ):
        config = build_config(config_of(Variant("", "llama", edits=edits)))
        found = _get_and_verify_max_len(
            hf_config=config,
            model_arch_config=ModelArchConfigConvertorBase(config, config).convert(),
            tokenizer_config=None,
            max_model_len=None,
            disable_sliding_window=False,
            sliding_window=None,
        )
        assert longest_sequence(config)[0] == found, edits


@pytest.mark.parametrize(
    ("name", "tp", "message"),
    [
        ("Qwen2.5-Math-7B", 8, "28 attention heads"),
        ("Qwen2.5-Math-7B", 3, "28 attention heads and 4 key/value heads and 18944 MLP rows"),
        ("Qwen2.5-Math-7B", 14, "4 key/value heads and 18944 MLP rows"),
        ("Qwen2.5-Math-7B", 7, "4 key/value heads and 18944 MLP rows"),
        ("Llama-3.1-8B", 3, "32 attention heads"),
        ("Llama-3.1-8B", 64, "32 attention heads"),
    ],
)
def test_engines_that_cannot_be_split(name: str, tp: int, message: str) -> None:
    config = ModelConfig.from_dict(CONFIGS[name])
    with pytest.raises(UsageError, match=message) as refusal:
        check_engine(config, 1024, tp, on_cpu=False)
    assert refusal.value.flag == "--vllm.tensor_parallel_size"
    for size in json.loads(refusal.value.fix.removeprefix("Use one of ").removesuffix(".")):
        check_engine(config, 1024, size, on_cpu=False)


@pytest.mark.parametrize(("name", "sizes"), [("Qwen2.5-Math-7B", [1, 2, 4]), ("Llama-3.1-8B", [1, 2, 4, 8, 16, 32])])
def test_sizes_of_engines_that_fit(name: str, sizes: list[int]) -> None:
    config = ModelConfig.from_dict(CONFIGS[name])
    fits = []
    for size in range(1, 41):
        try:
            check_engine(config, 1024, size, on_cpu=False)
            fits.append(size)
        except UsageError:
            continue
    assert fits == sizes, "fewer key/value heads than ranks are copied"


def test_head_sizes_are_those_of_vllm_on_cpu() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert tuple(CPUAttentionBackend.get_supported_head_sizes()) == CPU_HEAD_SIZES
    small = ModelConfig.from_dict(config_of(Variant("", "llama", {"head_dim": 16})))
    check_engine(small, 64, 1, on_cpu=False)
    with pytest.raises(UsageError, match="heads of size 16, and vLLM on CPU supports only 32, 64"):
        check_engine(small, 64, 1, on_cpu=True)


@pytest.mark.parametrize(
    ("changes", "tp", "message", "fits"),
    [
        ({}, 5, "13824 MLP rows", [1, 2, 4, 8]),
        ({}, 3, "40 attention heads and 40 key/value heads", [1, 2, 4, 8]),
        ({"num_key_value_heads": 8}, 16, "40 attention heads and 8 key/value heads", [1, 2, 4, 8]),
        ({"intermediate_size": 13825}, 2, "13825 MLP rows", [1, 5]),
        ({"num_attention_heads": 64, "vocab_size": 9, "intermediate_size": 64}, 8, "vocabulary of 9", [1, 2]),
    ],
)
def test_suggested_engine_sizes_divide_everything(
    changes: dict[str, Any], tp: int, message: str, fits: list[int]
) -> None:
    config = ModelConfig.from_dict({**LLAMA_2_13B, **changes})
    with pytest.raises(UsageError, match=message) as refusal:
        Layout(tp=tp).check(16 * tp, config)
    offered = json.loads(refusal.value.fix.removeprefix("Use one of ").removesuffix("."))
    assert offered == fits
    for size in offered:
        Layout(tp=size).check(size, config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.max_len", "32768"], "--data.max_len: is 32768, but the model is made for 4096 tokens"),
        (["--vllm.tensor_parallel_size", "8", "--vllm.num_engines", "1"], "--vllm.tensor_parallel_size: is 8"),
        (["--gpus", "64", "--vllm.tensor_parallel_size", "8"], "--vllm.tensor_parallel_size: is 8"),
    ],
)
def test_plan_refuses_what_an_engine_would(tmp_path: Path, capsys: Any, flags: list[str], message: str) -> None:
    assert plan.main([str(make_config(tmp_path, "Qwen2.5-Math-7B")), *flags]) == 2
    assert message in capsys.readouterr().err


def test_engines_of_any_architecture(tmp_path: Path) -> None:
    """With --actor.backend deepspeed the model may be one that only transformers and vLLM know."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_head": 12, "n_positions": 512}))
    gpt2 = EngineModel.of_any_architecture(str(tmp_path))
    with pytest.raises(UsageError, match=r"--data\.max_len: is 1024"):
        check_engine(gpt2, 1024, 1, on_cpu=True)
    with pytest.raises(UsageError, match="12 attention heads"):
        check_engine(gpt2, 512, 8, on_cpu=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "somebody_s_own", "n_positions": 512}))
    check_engine(EngineModel.of_any_architecture(str(tmp_path)), 1024, 8, on_cpu=True)
    check_engine(EngineModel.of_any_architecture("organization/name"), 1024, 8, on_cpu=True)


def test_train_and_its_dry_run_refuse_alike(tmp_path: Path, capsys: Any) -> None:
    from openrlhf_sfpo.cli import train

    data = tmp_path / "data.jsonl"
    data.write_text('{"input": "1 + 1", "label": "2"}\n')
    path = make_model(tmp_path / "model", "llama", hidden_size=128)
    flags = [
        f"--actor.model_name_or_path={path}",
        f"--data.prompt_dataset={data}",
        f"--run.dir={tmp_path / 'run'}",
        "--data.label_key=label",
        "--reward.remote_url=last_integer",
        "--vllm.num_engines=1",
        "--rollout.n_samples_per_prompt=4",
        "--actor.num_gpus_per_node=2",
    ]
    for more, message in (
        (["--data.max_len=129"], "--data.max_len: is 129, but the model is made for 128 tokens"),
        (["--data.max_len=64", "--vllm.tensor_parallel_size=3"], "--vllm.tensor_parallel_size: is 3"),
    ):
        for dry in ([], ["--dry-run"]):
            assert train.main([*flags, *more, *dry]) == 2
            assert message in capsys.readouterr().err
