"""Model directories: weights are compared with config.json before anything starts, other formats are named in the
error, and an export holds everything that belongs to the model."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import recording_of_pairs
from safetensors.torch import load_file, save_file
from tiny_models import CLASSES, make_model
from transformers import AutoModelForCausalLM

from openrlhf_sfpo.checkpoints.hf_writer import save_model_directory
from openrlhf_sfpo.checkpoints.model_directory import check_model_directory, check_stop_tokens
from openrlhf_sfpo.cli import plan, train
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.weights.check import check_weights
from openrlhf_sfpo.system.errors import NotThere, UsageError

GATE, HEAD, EMBEDDING = "model.layers.0.mlp.gate_proj.weight", "lm_head.weight", "model.embed_tokens.weight"
INDEX = "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each family, untied and tied."""
    root = tmp_path_factory.mktemp("models")
    for family in CLASSES:
        make_model(root / family, family)
        make_model(root / f"{family}_tied", family, tied=True)
    return root


@pytest.fixture
def llama(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "llama", tmp_path / "model"))


@pytest.fixture
def tied(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "qwen3_tied", tmp_path / "model"))


def edit(path: Path, change: Callable[[Tensors], Any]) -> Path:
    """Change the tensors of a model."""
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def configure(path: Path, **changes: Any) -> Path:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    return path


def split(path: Path, shards: int = 2) -> dict[str, str]:
    """Write a model's tensors as shards, and their index; return its weight map."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    weight_map = {}
    names = sorted(tensors)
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[number::shards]
        save_file({name: tensors[name] for name in mine}, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(mine, file)
    write_index(path, weight_map)
    return weight_map


def write_index(path: Path, weight_map: Any) -> None:
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def wider(tensors: Tensors, rows: int) -> None:
    """Change the width of the MLPs to `rows`."""
    for name in tensors:
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            tensors[name] = torch.randn(rows, tensors[name].shape[1])
        elif name.endswith("down_proj.weight"):
            tensors[name] = torch.randn(tensors[name].shape[0], rows)


def quantized(tensors: Tensors, dtype: torch.dtype) -> None:
    """Quantize the linear layers to `dtype`, with scales next to them."""
    for name in list(tensors):
        if name.endswith("_proj.weight"):
            scale = tensors[name].abs().max() / 100
            tensors[name.replace("weight", "weight_scale")] = scale.view(1)
            tensors[name] = (tensors[name] / scale).to(dtype)


def gptq(tensors: Tensors) -> None:
    for name in list(tensors):
        if name.endswith("_proj.weight"):
            tensors[name.replace("weight", "qweight")] = torch.zeros(4, 4, dtype=torch.int32)
            del tensors[name]


def renamed(tensors: Tensors, prefix: str) -> None:
    for name in list(tensors):
        tensors[prefix + name] = tensors.pop(name)


def with_lora(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(4, 48)


def cut(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[:-10])
    return file


def wrong_shard(path: Path) -> None:
    weight_map = split(path)
    first, second = sorted(set(weight_map.values()))
    write_index(path, {**weight_map, GATE: first if weight_map[GATE] == second else second})


def in_two_shards(path: Path) -> None:
    weight_map = split(path)
    for file in sorted(set(weight_map.values())):
        tensors = load_file(path / file)
        save_file({**tensors, GATE: torch.zeros(64, 48)}, path / file)


def two_sets(path: Path) -> None:
    shutil.copy(path / "model.safetensors", path / "copy")
    split(path)
    (path / "copy").rename(path / "model.safetensors")


def foreign_index(path: Path) -> None:
    write_index(path, dict.fromkeys(split(path), "../elsewhere.safetensors"))


def unlisted_shard(path: Path) -> None:
    (path / "extra.safetensors").write_bytes((path / "model.safetensors").read_bytes())


def a_web_page(path: Path) -> None:
    (path / "model.safetensors").write_text("<!DOCTYPE html><html>401</html>")


def drop(*names: str) -> Callable[[Tensors], Any]:
    return lambda tensors: [tensors.pop(name) for name in names]


# What is wrong, how to bring it about in a Llama model, words of the message.
WRONG: list[tuple[str, Callable[[Path], Any], list[str]]] = [
    (
        "wider MLP",
        lambda path: edit(path, lambda tensors: wider(tensors, 96)),
        ["intermediate_size", f"{GATE} is [96, 48] instead of [64, 48]", "and 10 more", "set intermediate_size to 96"],
    ),
    (
        "narrower MLP",
        lambda path: edit(path, lambda tensors: wider(tensors, 32)),
        ["[32, 48] instead of [64, 48]", "set intermediate_size to 32"],
    ),
    (
        "more tokens",
        lambda path: configure(path, vocab_size=120),
        ["(vocab_size)", f"{EMBEDDING} is [131, 48] instead of [120, 48]", "set vocab_size to 131"],
    ),
    ("fewer tokens", lambda path: configure(path, vocab_size=132), ["[131, 48] instead of [132, 48]"]),
    (
        "one head of another size",
        lambda path: edit(path, lambda tensors: tensors.update({HEAD: torch.zeros(140, 48)})),
        [f"{HEAD} is [140, 48] instead of [131, 48]"],
    ),
    ("fewer key/value heads", lambda path: configure(path, num_key_value_heads=1), ["num_key_value_heads", "k_proj"]),
    ("other head size", lambda path: configure(path, head_dim=16), ["head_dim", "q_proj", "download both again"]),
    (
        "a transposed matrix",
        lambda path: edit(path, lambda tensors: tensors.update({GATE: torch.zeros(48, 64)})),
        [f"{GATE} is [48, 64] instead of [64, 48]"],
    ),
    (
        "a vector for a matrix",
        lambda path: edit(path, lambda tensors: tensors.update({GATE: torch.zeros(48 * 64)})),
        [f"{GATE} is [3072] instead of [64, 48]"],
    ),
    (
        "more layers in config.json",
        lambda path: configure(path, num_hidden_layers=6),
        ["lacks", "model.layers.4.", "and 15 more", "The weights have 4 layers"],
    ),
    (
        "more layers in the file",
        lambda path: configure(path, num_hidden_layers=3),
        ["model.layers.3.", "num_hidden_layers in config.json is 3", "set num_hidden_layers to 4", "and 6 more"],
    ),
    ("a norm missing", lambda path: edit(path, drop("model.norm.weight")), ["lacks the tensors model.norm.weight"]),
    ("no head", lambda path: edit(path, drop(HEAD)), [HEAD, "set tie_word_embeddings to true"]),
    (
        "saved without its head",
        lambda path: edit(path, lambda tensors: [tensors.pop(HEAD), strip(tensors)]),
        ["from AutoModelForCausalLM"],
    ),
    (
        "saved from a wrapper",
        lambda path: edit(path, lambda tensors: renamed(tensors, "_orig_mod.")),
        ["'_orig_mod.'", "save_pretrained"],
    ),
    (
        "int8 with scales",
        lambda path: edit(path, lambda tensors: quantized(tensors, torch.int8)),
        ["weights in I8", "and 25 more", "16 or 32 bits (BF16, F16, F32)"],
    ),
    (
        "float8 with scales",
        lambda path: edit(path, lambda tensors: quantized(tensors, torch.float8_e4m3fn)),
        ["weights in F8_E4M3", "16 or 32 bits"],
    ),
    (
        "float64",
        lambda path: edit(path, lambda tensors: tensors.update({GATE: tensors[GATE].double()})),
        ["weights in F64", GATE, "save it in torch.float32"],
    ),
    ("GPTQ", lambda path: edit(path, gptq), ["lacks", "quantized (GPTQ, AWQ or similar)"]),
    (
        "scales that nothing uses",
        lambda path: edit(path, lambda tensors: tensors.update({GATE + "_scale": torch.ones(1)})),
        [GATE + "_scale", "models of model_type llama have none of that name"],
    ),
    (
        "biases",
        lambda path: edit(path, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(48)})),
        ["q_proj.bias", "models of model_type llama have none of that name"],
    ),
    (
        "q_norm",
        lambda path: edit(path, lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(12)})),
        ["q_norm.weight", "would not be used"],
    ),
    (
        "a value head",
        lambda path: edit(path, lambda t: t.update({"v_head.weight": torch.ones(1, 48)})),
        ["v_head.weight"],
    ),
    ("LoRA on top", lambda path: edit(path, with_lora), ["lora_A", "merge_and_unload"]),
    ("cut short", lambda path: cut(path / "model.safetensors"), ["model.safetensors is damaged or truncated"]),
    ("empty", lambda path: (path / "model.safetensors").write_bytes(b""), ["model.safetensors is damaged"]),
    ("a web page", a_web_page, ["model.safetensors is damaged"]),
    ("a shard cut short", lambda path: cut(path / split(path)[GATE]), ["of-00002.safetensors is damaged"]),
    ("the wrong shard", wrong_shard, [f"says that {GATE} is in model-0000", "download the whole model again"]),
    ("in two shards", in_two_shards, [f"{GATE} is in both model-00001-of-00002.safetensors and model-00002"]),
    (
        "listed and nowhere",
        lambda path: write_index(path, split(path) | {"x": "model-00001-of-00002.safetensors"}),
        ["lists x"],
    ),
    (
        "index of pickles",
        lambda path: write_index(path, dict.fromkeys(split(path), "pytorch_model.bin")),
        ["not a safetensors file"],
    ),
    ("index to elsewhere", foreign_index, ["'../elsewhere.safetensors'"]),
    ("an index without files", lambda path: (split(path), write_index(path, {})), ["damaged"]),
    ("an index that is a list", lambda path: (split(path), (path / INDEX).write_text("[]")), ["damaged"]),
    ("two sets of weights", two_sets, ["two sets of weights", "Remove the one"]),
    ("another file next to it", unlisted_shard, ["extra.safetensors next to model.safetensors", "elsewhere"]),
]


def strip(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("model.")] = tensors.pop(name)


@pytest.mark.parametrize(("spoil", "expected"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_weights_that_do_not_fit_are_named_before_anything_starts(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], expected: list[str]
) -> None:
    spoil(llama)
    (tmp_path / "data.jsonl").write_text('{"input": "1 + 1", "label": "2"}\n')
    flags = {
        "actor.model_name_or_path": llama,
        "data.prompt_dataset": tmp_path / "data.jsonl",
        "data.label_key": "label",
        "data.max_len": 64,
        "reward.remote_url": "last_integer",
        "vllm.num_engines": 1,
        "rollout.n_samples_per_prompt": 4,
        "actor.num_gpus_per_node": 1,
        "run.dir": tmp_path / "run",
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    for command in (
        lambda: train.main(words),
        lambda: train.main(["--dry-run", *words]),
        lambda: plan.main([str(llama), "--data.max_len=64"]),
    ):
        capsys.readouterr()
        assert command() == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        (line,) = shown.err.strip().splitlines()
        assert not [part for part in expected if part not in line], line
        assert len(line) < 700, "a few names and how many more"
    assert not (tmp_path / "run").exists()


def test_vocab_size_is_not_advised_where_weights_would_still_not_fit(llama: Path) -> None:
    with pytest.raises(UsageError) as refused:
        check(edit(llama, lambda tensors: tensors.update({HEAD: torch.zeros(140, 48)})))
    assert "set vocab_size" not in str(refused.value)


def test_a_shard_that_is_missing_is_still_to_be_downloaded(llama: Path) -> None:
    (llama / split(llama)[GATE]).unlink()
    with pytest.raises(NotThere, match=r"of-00002\.safetensors is missing"):
        check(llama)
    assert plan.main([str(llama), "--data.max_len=64"]) in (0, 1), "config.json is enough for it"


def check(path: Path) -> list[str]:
    check_model_directory(path)
    return check_weights(path, ModelConfig.from_pretrained(path))


@pytest.mark.parametrize("name", [*CLASSES, *(f"{family}_tied" for family in CLASSES)])
@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
def test_models_as_transformers_writes_them_pass(models: Path, tmp_path: Path, name: str, sharded: bool) -> None:
    path = Path(shutil.copytree(models / name, tmp_path / "model"))
    if sharded:
        split(path, 3)
    assert check(path) == []


def test_what_changes_no_result_passes(llama: Path) -> None:
    def add(tensors: Tensors) -> None:
        for layer in range(4):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
        for name in tensors:
            if "layernorm" not in name:
                tensors[name] = tensors[name].bfloat16()

    assert check(edit(llama, add)) == []
    (notice,) = check(
        edit(llama, lambda tensors: tensors.update(dict.fromkeys(["model.layers.1.mlp.up_proj.bias"], torch.zeros(64))))
    )
    assert "biases that llama models do not have; they are zero" in notice
    assert "up_proj.bias" in notice


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_equals_the_tied_embedding_passes(
    tied: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    from openrlhf_sfpo.megatron.weights import check as weight_check

    monkeypatch.setattr(weight_check, "_COMPARED_BYTES", 48 * 4 * 10)  # in 14 parts
    edit(tied, lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING].to(dtype)}))
    edit(tied, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    assert check(tied) == []


@pytest.mark.parametrize("row", [0, 130])
def test_a_head_that_differs_from_the_tied_embedding_is_refused(
    tied: Path, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    from openrlhf_sfpo.megatron.weights import check as weight_check

    monkeypatch.setattr(weight_check, "_COMPARED_BYTES", 48 * 4 * 10)

    def add_a_head(tensors: Tensors) -> None:
        tensors[HEAD] = tensors[EMBEDDING].clone()
        tensors[HEAD][row, -1] += 1e-6

    edit(tied, add_a_head)
    with pytest.raises(UsageError, match=r"sets tie_word_embeddings, and lm_head\.weight differs.*to false"):
        check(tied)
    # What the message advises is what transformers does with it.
    loaded = AutoModelForCausalLM.from_pretrained(configure(tied, tie_word_embeddings=False))
    assert torch.equal(loaded.lm_head.weight, load_file(tied / "model.safetensors")[HEAD])
    assert check(tied) == []


def test_a_tied_head_of_another_size_is_refused(tied: Path) -> None:
    edit(tied, lambda tensors: tensors.update({HEAD: torch.zeros(140, 48)}))
    with pytest.raises(UsageError, match=r"lm_head\.weight differs"):
        check(tied)


@pytest.mark.slow
def test_a_patched_openrlhf_checks_the_weights_too(llama: Path) -> None:
    edit(llama, lambda tensors: wider(tensors, 96))
    code = (
        "import sys; from openrlhf_sfpo.orchestration.patched import entry_point;"
        "from openrlhf_sfpo.cli.flags import parse;"
        "from openrlhf_sfpo.config.namespaces import nested;"
        "entry_point.train(print, nested(parse(sys.argv[1:])[0]))"
    )
    command = [sys.executable, "-c", code, f"--actor.model_name_or_path={llama}", "--actor.backend=megatron"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.match(r"openrlhf_sfpo: error: .*gate_proj\.weight is \[96, 48\]", done.stderr), done.stderr


@pytest.fixture
def seventy_two(tmp_path: Path) -> Path:
    """Headers of a 72B model: 37 sparse files."""
    from model_configs import make_config

    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.weights.check import shapes_of
    from openrlhf_sfpo.megatron.weights.mapping import weight_plan

    path = make_config(tmp_path, "Qwen2.5-72B")
    shapes = list(shapes_of(weight_plan(ModelConfig.from_pretrained(path), Layout())).items())
    weight_map = {}
    for number in range(37):
        file = f"model-{number + 1:05d}-of-00037.safetensors"
        header, start = {}, 0
        for name, shape in shapes[number::37]:
            end = start + 2 * torch.Size(shape).numel()
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
            start, weight_map[name] = end, file
        text = json.dumps(header).encode()
        with (path / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + start)
    write_index(path, weight_map)
    return path


def test_only_headers_are_read(seventy_two: Path) -> None:
    from resource import RUSAGE_SELF, getrusage

    before = getrusage(RUSAGE_SELF).ru_maxrss
    assert check(seventy_two) == []
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5000000000\n"
ADAPTER = json.dumps({"base_model_name_or_path": "Qwen/Qwen2.5-7B", "peft_type": "LORA"})
# What a directory is, its files, words of the message.
FORMATS: list[tuple[str, dict[str, str], list[str]]] = [
    (
        "GGUF",
        {"model.Q4_K_M.gguf": "GGUF", "README.md": ""},
        ["GGUF, the format of llama.cpp", "gguf_file='model.Q4_K_M.gguf'"],
    ),
    ("GGUF with config", {"config.json": "{}", "a.gguf": "GGUF"}, ["GGUF"]),
    (
        "LoRA",
        {"adapter_config.json": ADAPTER, "adapter_model.safetensors": ""},
        ["LoRA (PEFT) adapter of Qwen/Qwen2.5-7B", "merge_and_unload"],
    ),
    ("LoRA with config.json", {"config.json": "{}", "adapter_config.json": ADAPTER, "adapter_model.bin": ""}, ["LoRA"]),
    ("damaged LoRA", {"adapter_config.json": "[", "adapter_model.bin": ""}, ["LoRA (PEFT) adapter of another model"]),
    (
        "Meta",
        {"consolidated.00.pth": "", "params.json": "{}", "tokenizer.model": ""},
        ["Meta's own format", "Hugging Face"],
    ),
    ("Mistral", {"consolidated.safetensors": "", "params.json": "{}"}, ["Mistral's own format only", "config.json"]),
    (
        "pickle",
        {"config.json": "{}", "pytorch_model.bin": "", "tokenizer.json": ""},
        ["pickles (pytorch_model.bin)", "save_pretrained"],
    ),
    (
        "pickles",
        {
            "config.json": "{}",
            "pytorch_model.bin.index.json": "{}",
            **{f"pytorch_model-0000{n}-of-00005.bin": "" for n in range(1, 6)},
        },
        ["and 2 more", "save_pretrained"],
    ),
    (
        "GPTQ",
        {"config.json": "{}", "quantize_config.json": "{}", "gptq_model-4bit-128g.safetensors": ""},
        ["GPTQ", "before quantization"],
    ),
    ("AWQ", {"config.json": "{}", "quant_config.json": "{}", "awq_model_w4_g128.safetensors": ""}, ["AWQ"]),
    ("ModelOpt", {"config.json": "{}", "hf_quant_config.json": "{}", "model.safetensors": ""}, ["NVIDIA ModelOpt"]),
    (
        "LFS pointers",
        {"config.json": "{}", "model.safetensors": LFS, "tokenizer.json": LFS},
        ["model.safetensors, tokenizer.json in", "are Git LFS pointers", "git lfs pull"],
    ),
    ("TensorFlow", {"config.json": "{}", "tf_model.h5": ""}, ["TensorFlow only"]),
    ("ONNX", {"config.json": "{}", "model.onnx": ""}, ["ONNX only"]),
    (
        "DeepSpeed",
        {"latest": "global_step5", "zero_to_fp32.py": "", "global_step5/x.pt": ""},
        ["DeepSpeed", "zero_to_fp32.py"],
    ),
    ("Megatron-LM", {"latest_checkpointed_iteration.txt": "5"}, ["Megatron-LM"]),
    ("DCP", {".metadata": "", "__0_0.distcp": ""}, ["distributed checkpoint of PyTorch"]),
    ("a run", {"config.yaml": "", "metrics.jsonl": "", "hf/config.json": "{}"}, ["is a run directory", "/hf"]),
    (
        "a run without hf",
        {"config.yaml": "", "checkpoints/_actor/x": ""},
        ["run directory without", "openrlhf-sfpo export"],
    ),
    ("a checkpoint", {"manifest.json": "{}", "common.pt": ""}, ["checkpoint of a run", "openrlhf-sfpo export"]),
    (
        "trainer output",
        {"checkpoint-50/config.json": "{}", "checkpoint-100/config.json": "{}"},
        ["several in directories (checkpoint-100, checkpoint-50)", "Give one of them"],
    ),
    ("one level up", {"Qwen/config.json": "{}", "notes.txt": ""}, ["but Qwen in it does", "/Qwen."]),
    (
        "hub cache",
        {"refs/main": "abc", "blobs/1": "", "snapshots/abc/config.json": "{}", "snapshots/zzz/config.json": "{}"},
        ["Hugging Face cache", "/snapshots/abc"],
    ),
    (
        "hub cache without a snapshot",
        {"refs/main": "abc", "blobs/1": "", "snapshots/.keep": ""},
        ["none was downloaded"],
    ),
    (
        "shards without an index",
        {"config.json": "{}", "model-00001-of-00002.safetensors": ""},
        ["neither model.safetensors nor"],
    ),
]


def make_files(path: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


@pytest.mark.parametrize(("contents", "expected"), [case[1:] for case in FORMATS], ids=[case[0] for case in FORMATS])
def test_other_formats_are_named(tmp_path: Path, contents: dict[str, str], expected: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        check_model_directory(make_files(tmp_path / "model", contents))
    assert refused.value.flag == "model"
    assert not [part for part in expected if part not in str(refused.value)], str(refused.value)


def test_paths_that_are_not_directories(tmp_path: Path, llama: Path) -> None:
    make_files(tmp_path, {"m.gguf": "", "link/x": ""})
    for path, expected in (
        (llama / "model.safetensors", "is a file. Give the directory"),
        (tmp_path / "m.gguf", "GGUF"),
        ("Qwen/Qwen2.5-7B", "hf download Qwen/Qwen2.5-7B --local-dir"),
    ):
        with pytest.raises(UsageError, match=expected):
            check_model_directory(path)
    (llama / "model.safetensors").unlink()
    (llama / "model.safetensors").symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(UsageError, match=r"model\.safetensors in .* links to a file that does not exist"):
        check_model_directory(llama)


def test_a_path_that_exists_in_part_is_not_taken_for_a_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for path, expected in (
        ("models/Qwen", "models/Qwen does not exist: models has no 'Qwen'."),
        ("models/Qwen/x", "models/Qwen/x does not exist: models has no 'Qwen'."),
        ("nowhere/Qwen/x", f"nowhere/Qwen/x does not exist: {tmp_path} has no 'nowhere'."),
        ("Qwen", f"Qwen does not exist in {tmp_path}."),
        (tmp_path / "models" / "a" / "b", f"{tmp_path}/models/a/b does not exist: {tmp_path}/models has no 'a'."),
    ):
        with pytest.raises(UsageError) as refused:
            check_model_directory(path)
            ModelConfig.from_pretrained(path)
        assert refused.value.problem == expected
        assert "hf download" not in str(refused.value)


def test_files_that_nothing_reads_may_be_pointers_or_broken_links(llama: Path) -> None:
    make_files(llama, {"pytorch_model.bin": LFS, "tf_model.h5": LFS, "consolidated.safetensors": LFS})
    split(llama)
    (llama / "README.md").symlink_to("nowhere")
    assert check(llama) == []


def test_plan_needs_no_more_than_config_json(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    make_files(llama, {"pytorch_model.bin": ""})
    assert plan.main([str(llama), "--data.max_len=64"]) in (0, 1)
    assert plan.main([str(llama / "config.json"), "--data.max_len=64"]) in (0, 1)
    shutil.rmtree(llama)
    make_files(llama, {"model.gguf": ""})
    assert plan.main([str(llama)]) == 2


def test_transformers_weights_for_deepspeed_may_be_pickles_but_no_adapters(tmp_path: Path, llama: Path) -> None:
    pickled = make_files(tmp_path / "pickled", {"config.json": "{}", "pytorch_model.bin": ""})
    check_model_directory(pickled, bin_files=True)
    make_files(llama, {"adapter_config.json": ADAPTER})
    check_model_directory(llama)
    with pytest.raises(UsageError, match=r"transformers loads Qwen/Qwen2\.5-7B instead"):
        check_model_directory(llama, bin_files=True)


KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tekken.json",
    "qwen.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "tokenization_own.py",
    "LICENSE",
    "LICENSE.txt",
    "USE_POLICY.md",
    "NOTICE",
)
LEFT_BEHIND = (
    "README.md",
    ".gitattributes",
    ".hidden.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.safetensors.index.json",
    "tf_model.h5.index.json",
    "consolidated.safetensors",
    "params.json",
    "training_args.bin",
    "trainer_state.json",
    "optimizer.pt",
    "rng_state.pth",
    "original/params.json",
)


def furnish(path: Path, *names: str) -> None:
    for name in names:
        if not (path / name).exists():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text("{}")
            (path / name).chmod(0o400)


def names_in(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def test_an_export_holds_what_belongs_to_the_model(llama: Path, tmp_path: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    furnish(llama, *KEPT, *LEFT_BEHIND)
    (llama / "tokenizer_config.json").chmod(0o600)
    (llama / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tokenization_own.Own", null]}}')
    target = tmp_path / "hf"
    before = os.umask(0o022)
    try:
        save_model_directory(target, llama, iter(tensors.items()), torch.float32)
        assert names_in(target) == {*KEPT, "model.safetensors"}
        # A second time, over the first one.
        (target / "notes.md").write_text("somebody's own")
        save_model_directory(target, llama, iter(tensors.items()), torch.float32)
    finally:
        os.umask(before)
    assert names_in(target) == {*KEPT, "model.safetensors", "notes.md"}
    modes = {str(path): oct(path.stat().st_mode & 0o777) for path in [target, *target.rglob("*")]}
    assert modes == {str(path): oct(0o755 if path.is_dir() else 0o644) for path in [target, *target.rglob("*")]}
    assert not list(tmp_path.glob(".hf*"))


def test_an_export_to_a_link_to_another_file_system(llama: Path, tmp_path: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "hf").symlink_to(elsewhere)
        for _ in range(2):
            save_model_directory(tmp_path / "hf", llama, iter(tensors.items()), torch.float32)
            assert check(Path(elsewhere)) == []
        assert names_in(Path(elsewhere)) == names_in(llama)


def test_code_that_no_config_names_is_not_exported(llama: Path, tmp_path: Path) -> None:
    furnish(llama, "train.py", "tokenizer_config.json")
    tensors = load_file(llama / "model.safetensors")
    save_model_directory(tmp_path / "hf", llama, iter(tensors.items()), torch.float32)
    assert "train.py" not in names_in(tmp_path / "hf")


def test_an_export_that_fails_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    def weights() -> Any:
        yield EMBEDDING, torch.zeros(131, 48)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_model_directory(tmp_path / "hf", llama, weights(), torch.float32)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_recorded_rollouts_have_the_usual_mode(tmp_path: Path) -> None:
    (file,) = recording_of_pairs(tmp_path).iterdir()
    (tmp_path / "usual").touch()
    assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_eval_refuses_weights_that_do_not_fit(llama: Path, tmp_path: Path) -> None:
    from openrlhf_sfpo.cli import evaluate

    assert evaluate._model(str(llama)) == str(llama)
    edit(llama, lambda tensors: wider(tensors, 96))
    with pytest.raises(UsageError, match=r"^MODEL: .*gate_proj\.weight is \[96, 48\]"):
        evaluate._model(str(llama))
    assert evaluate._model(str(configure(llama, model_type="gpt2"))) == str(llama), "vLLM knows more architectures"
    with pytest.raises(UsageError, match=r"^MODEL: .*GGUF"):
        evaluate._model(str(make_files(tmp_path / "gguf", {"model.gguf": ""})))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("generation_config.json", {"eos_token_id": 2}, None),
        ("generation_config.json", {"eos_token_id": [0, 130]}, None),
        ("generation_config.json", {"eos_token_id": None, "temperature": 0.6}, None),
        (
            "generation_config.json",
            {"eos_token_id": [2, 131]},
            "eos_token_id 131, and the model has the tokens 0 to 130",
        ),
        ("generation_config.json", {"eos_token_id": -1}, "eos_token_id -1"),
        ("generation_config.json", {"eos_token_id": "2"}, "eos_token_id '2'"),
        ("generation_config.json", [], "generation_config.json is damaged"),
        ("config.json", {"eos_token_id": 999}, "config.json has the eos_token_id 999"),
    ],
)
def test_stop_tokens_are_tokens_of_the_model(tmp_path: Path, name: str, content: Any, message: str | None) -> None:
    make_files(tmp_path, {name: json.dumps(content)})
    if message is None:
        check_stop_tokens(tmp_path, 131)
        return
    with pytest.raises(UsageError, match=message):
        check_stop_tokens(tmp_path, 131)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "do_sample": True}),
        ({"num_beams": 1, "early_stopping": True, "do_sample": False}, {}),
        ({"top_k": 20, "do_sample": True}, {"top_k": 20}),
    ],
)
def test_a_model_whose_generation_settings_transformers_refuses_is_saved(
    llama: Path, tmp_path: Path, settings: dict[str, Any], kept: dict[str, Any]
) -> None:
    from openrlhf_sfpo.deepspeed.saving import make_savable, set_modes

    (llama / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], **settings}))
    model = AutoModelForCausalLM.from_pretrained(llama)
    make_savable(model)
    model.save_pretrained(tmp_path / "hf")
    set_modes(tmp_path / "hf")
    saved = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [1, 2]
    assert {name: saved[name] for name in kept} == kept
    assert (tmp_path / "hf" / "model.safetensors").stat().st_mode == (tmp_path / "hf" / "config.json").stat().st_mode


def test_generation_settings_of_the_model_do_not_change_the_sampling() -> None:
    """From generation_config.json vLLM must take only what ends a response."""
    import inspect

    from vllm.sampling_params import SamplingParams

    given = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 8, "min_tokens": 1}
    asked, told = SamplingParams(**given), SamplingParams(**given)
    generation = {"eos_token_id": [5, 6], "temperature": 0.1, "top_k": 1, "top_p": 0.5, "repetition_penalty": 1.1}
    told.update_from_generation_config(generation, 6)
    assert told.stop_token_ids == [5]
    for name in inspect.signature(SamplingParams).parameters:
        if name != "stop_token_ids" and not name.startswith("_"):
            assert getattr(told, name) == getattr(asked, name), name
