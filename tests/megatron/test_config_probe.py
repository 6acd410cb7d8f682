"""transformers, vLLM and the actor must agree on every config.json, or it must be refused by name."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import config_probe_jobs
import config_variants
import pytest
import torch
import transformers
from config_variants import VARIANTS, Variant
from places import SUPPORT
from ranks import RankPool
from tiny_models import CLASSES

from openrlhf_sfpo.checkpoints.hf_config import LENGTH_KEYS
from openrlhf_sfpo.megatron.model import config_checks, rope_checks
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.system.errors import UsageError

REFUSED = [variant for variant in VARIANTS if variant.refused is not None]
ACCEPTED = [variant for variant in VARIANTS if variant.refused is None]
# The most different ones run always; the rest is slow.
SOME = [
    variant
    for variant in ACCEPTED
    if variant.name
    in (
        "mistral window absent",
        "qwen2 yarn",
        "qwen3 llama3",
        "llama two spellings",
        "qwen2 window of no layer",
        "llama yarn betas",
    )
]


@pytest.mark.parametrize("variant", REFUSED, ids=lambda variant: variant.name)
def test_what_would_be_computed_differently_is_refused_by_name(variant: Variant) -> None:
    with pytest.raises(UsageError) as refusal:
        ModelConfig.from_dict(config_variants.config_of(variant))
    assert variant.refused in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("variant", ACCEPTED, ids=lambda variant: variant.name)
def test_the_rest_is_accepted(variant: Variant) -> None:
    ModelConfig.from_dict(config_variants.config_of(variant)).check_sequence_length(config_variants.LENGTH)


@pytest.mark.parametrize("variants", [SOME, pytest.param(ACCEPTED, marks=pytest.mark.slow)], ids=["some", "all"])
def test_transformers_vllm_and_the_actor_agree(ranks: RankPool, tmp_path: Path, variants: list[Variant]) -> None:
    """To 1e-4 in every log-probability, beyond the original positions of the RoPE scalings."""
    paths = [str(config_variants.make(variant, tmp_path)) for variant in variants]
    sequences = config_variants.tokens()
    (of_actor,) = ranks.run(1, config_probe_jobs.of_actor, paths, sequences, timeout=60 + 30 * len(paths))
    of_engine = engines(paths, sequences, tmp_path)
    wrong = {}
    for variant, path, actor, engine in zip(variants, paths, of_actor, of_engine, strict=True):
        expected = config_probe_jobs.of_transformers(path, sequences)
        for who, found in (("actor", actor), ("vLLM", engine)):
            difference = found if isinstance(found, str) else largest_difference(found, expected)
            if isinstance(difference, str) or not difference <= 1e-4:
                wrong[f"{variant.name}: {who}"] = difference
    assert not wrong


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def engines(paths: list[str], sequences: list[list[int]], directory: Path) -> list[Any]:
    """What `of_engine` returns for each model, in one separate process."""
    output = directory / "engines.pt"
    job = {
        "paths": paths,
        "sequences": sequences,
        "max_lens": [min(128, ModelConfig.from_pretrained(path).longest) for path in paths],
        "output": str(output),
    }
    done = subprocess.run(
        [sys.executable, config_probe_jobs.__file__],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        timeout=120 + 30 * len(paths),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output)


@pytest.mark.parametrize("family", CLASSES)
def test_every_setting_of_transformers_is_read_or_known_to_be_harmless(family: str) -> None:
    config = getattr(transformers, f"{CLASSES[family]}Config")
    settings = {field.name for field in dataclasses.fields(config)}
    assert not settings - config_checks.READ - config_checks.HARMLESS


def test_every_setting_that_vllm_reads_in_these_families_is_known() -> None:
    """A vLLM that reads a new setting must fail here, before it computes a model with that setting differently."""
    root = Path(find_spec("vllm").submodule_search_locations[0])
    models = [root / "model_executor" / "models" / f"{name}.py" for name in ("llama", "mistral", "qwen2", "qwen3")]
    read = set().union(*(settings_read_in(file) for file in models))
    known = config_checks.READ | config_checks.HARMLESS | set(config_checks.NEUTRAL)
    known.add("ada_rms_norm_t_cond_dim")  # the size of what ada_rms_norm_t_cond asks for
    assert {"logit_scale", "is_causal", "qk_norm"} <= read, "the search finds nothing"
    assert not read - known
    rope = settings_read_in(root / "model_executor" / "layers" / "rotary_embedding" / "__init__.py", "rope_parameters")
    assert {"rope_dim", "mrope_section"} <= rope, "the search finds nothing"
    assert not rope - set(rope_checks.ROPE_SETTINGS) - set(rope_checks.ROPE_NEUTRAL)
    lengths = root / "transformers_utils" / "model_arch_config_convertor.py"
    assert all(f'"{key}"' in lengths.read_text() for key in LENGTH_KEYS)


def settings_read_in(file: Path, owner: str = "config") -> set[str]:
    """Names in `config.NAME`, `getattr(config, NAME)`, `hasattr(config, NAME)`, `owner[NAME]` and `owner.get(NAME)`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and _is(node.value, owner):
            found.add(node.attr)
        elif isinstance(node, ast.Subscript) and _is(node.value, owner) and isinstance(node.slice, ast.Constant):
            found.add(node.slice.value)
        elif isinstance(node, ast.Call) and node.args:
            named = (
                isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr") and _is(node.args[0], owner)
            )
            got = isinstance(node.func, ast.Attribute) and node.func.attr == "get" and _is(node.func.value, owner)
            if named and isinstance(node.args[1], ast.Constant):
                found.add(node.args[1].value)
            elif got and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return found - {"get", "items", "get_text_config"}


def _is(node: ast.AST, owner: str) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name == owner


def test_settings_that_nothing_reads_are_listed() -> None:
    plain = config_variants.config_of(ACCEPTED[0])
    harmless = {
        "unsloth_version": "1",
        "torch_dtype": "bfloat16",
        "_name_or_path": "a/b",
        "temperature": 0.6,
        "x": None,
    }
    assert ModelConfig.from_dict({**plain, **harmless}).unread == ()
    rope = {"rope_type": "linear", "factor": 2.0, "finetuned": True, "mystery": 3}
    strange = ModelConfig.from_dict({**plain, "swa_share": 0.5, "rope_parameters": rope})
    assert strange.unread == ("mystery", "swa_share")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "is a JSON list, not an object"),
        ("null", "is a JSON null, not an object"),
        ('"x"', "is a JSON string, not an object"),
        ("{", "is not JSON"),
        ("{}", "says model_type None"),
        ('{"model_type": ["llama"]}', "says model_type ['llama']"),
        ('{"model_type": "llama"}', "lacks num_hidden_layers"),
        (json.dumps({"model_type": "llama", **config_variants.SHAPES, "hidden_size": "128"}), 'hidden_size to "128", '),
        (
            json.dumps({"model_type": "llama", **config_variants.SHAPES, "num_attention_heads": 5}),
            "attention heads (5). Correct",
        ),
    ],
)
def test_a_file_that_is_not_a_config(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError) as refusal:
        ModelConfig.from_pretrained(tmp_path)
    assert message in str(refusal.value)


def test_directories_that_vllm_would_read_differently(tmp_path: Path) -> None:
    path = config_variants.make(ACCEPTED[0], tmp_path)
    (path / "params.json").write_text("{}")
    ModelConfig.from_pretrained(path)  # vLLM reads it only together with the weights below
    (path / "consolidated.safetensors").touch()
    with pytest.raises(UsageError, match=r"params\.json and consolidated"):
        ModelConfig.from_pretrained(path)
    (path / "consolidated.safetensors").unlink()
    (path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"hf_quant_config\.json"):
        ModelConfig.from_pretrained(path)


@pytest.mark.parametrize(
    ("family", "edits", "longest"),
    [
        ("mistral", {"sliding_window": config_variants.ABSENT, "max_position_embeddings": 32768}, 4096),
        ("mistral", {"sliding_window": 1000}, 1000),
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": 1000, "layer_types": ["full_attention"] * 2}, 1000),
        ("llama", {"sliding_window": 1000}, 1000),
        ("llama", {"sliding_window": 1000, "layer_types": ["full_attention"] * 2}, None),
        ("llama", {"sliding_window": 1000, "layer_types": ["full_attention", "sliding_attention"]}, 1000),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 1000, "max_window_layers": 0}, 1000),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 1000, "max_window_layers": 2}, None),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 1000, "max_window_layers": 0}, None),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 4096}, 4096),
    ],
)
def test_sequences_that_reach_beyond_a_window_are_refused(family: str, edits: Any, longest: int | None) -> None:
    variant = Variant("", family, edits={"layer_types": config_variants.ABSENT, **edits})
    model = ModelConfig.from_dict(config_variants.config_of(variant))
    assert model.sliding_window == longest
    model.check_sequence_length(longest or 10**6)
    if longest:
        with pytest.raises(UsageError, match=rf"max_len: is {longest + 1}.* {longest} or less"):
            model.check_sequence_length(longest + 1)
