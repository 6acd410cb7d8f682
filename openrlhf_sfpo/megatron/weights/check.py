"""Checks the tensors in a model directory against its config.json: names, shapes and dtypes from the files' headers,
and the values of a tied head."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from openrlhf_sfpo.checkpoints.hf_config import MODEL_SETTING
from openrlhf_sfpo.checkpoints.hf_directory import CheckpointReader, Header
from openrlhf_sfpo.checkpoints.model_files import some
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.weights.mapping import Entry, Shape, weight_plan
from openrlhf_sfpo.system.errors import UsageError

DTYPES = ("BF16", "F16", "F32")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Buffers that old versions of transformers saved and every implementation computes itself.
_BUFFERS = re.compile(r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
_PROJECTION_BIAS = re.compile(r"\.(self_attn|mlp)\.\w+_proj\.bias$")
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
_COMPARED_BYTES = 64 * 2**20  # compared at a time, of each of two tensors
_ANOTHER_MODEL = "config.json and the weights are of different models"


def check_weights(path: str | Path, model: ModelConfig) -> list[str]:
    """Check every tensor in the directory's safetensors against config.json.

    Reads the headers, and the values only of a head in a model with tied embeddings and of unused biases.

    Args:
        path: the model directory.
        model: its configuration.

    Returns:
        A line for each harmless irregularity.

    Raises:
        UsageError: a tensor is missing, unused, or has another shape or dtype than the model needs; or an untied head
            in a model with tied embeddings. Also what `tensor_headers` raises.
    """
    needed = shapes_of(weight_plan(model, Layout()))
    with CheckpointReader(path) as reader:
        check_headers(path, reader.headers, needed)
        unused = [name for name in reader.headers if name not in needed and not _BUFFERS.search(name)]
        if model.tied_embeddings and HEAD in unused:
            unused.remove(HEAD)
            _check_tied_head(path, reader)
        zeros = [name for name in unused if _PROJECTION_BIAS.search(name) and _is_zero(reader, name)]
        _check_unused(path, [name for name in unused if name not in zeros], model)
    if not zeros:
        return []
    return [f"{path} has biases that {model.family} models do not have; they are zero and left out: {some(zeros)}."]


def shapes_of(entries: Iterable[Entry]) -> dict[str, Shape]:
    """The full shapes of the entries' Hugging Face tensors, by name."""
    return {
        name: shape
        for entry in entries
        for name, shape in zip(entry.converter.names, entry.converter.shapes, strict=True)
    }


def check_headers(path: str | Path, headers: dict[str, Header], needed: dict[str, Shape]) -> None:
    """Check that every needed tensor exists with its shape, in a dtype of 16 or 32 bits.

    Raises:
        UsageError: naming the first few that are wrong, and the number of the others.
    """
    missing = [name for name in needed if name not in headers]
    if missing:
        raise _missing(path, headers, missing)
    unfit = [name for name in needed if headers[name].dtype not in DTYPES]
    if unfit:
        kinds = sorted({headers[name].dtype for name in unfit})
        fix = "save it in torch.float32" if kinds == ["F64"] else "use the model before quantization, or dequantize it"
        raise UsageError(
            MODEL_SETTING,
            f"{path} has weights in {', '.join(kinds)}: {some(unfit)}.",
            f"The actor needs floats of 16 or 32 bits ({', '.join(DTYPES)}): {fix}.",
        )
    wrong = [name for name, shape in needed.items() if headers[name].shape != shape]
    if wrong:
        raise _other_shapes(path, headers, needed, wrong)


def _other_shapes(
    path: str | Path, headers: dict[str, Header], needed: dict[str, Shape], wrong: list[str]
) -> UsageError:
    keys = {
        key
        for name in wrong
        for key, asked, found in zip(_keys(name), needed[name], headers[name].shape, strict=False)
        if asked != found
    }
    shown = some([f"{name} is {list(headers[name].shape)} instead of {list(needed[name])}" for name in wrong], 2)
    why = f" ({', '.join(sorted(keys))})" if keys else ""
    problem = f"the weights in {path} have other shapes than config.json asks for{why}: {shown}."
    value = _value_of(keys.pop(), headers, needed) if len(keys) == 1 else None
    or_set = f", or set {value} in config.json if the weights are right" if value else ""
    return UsageError(MODEL_SETTING, problem, f"{_ANOTHER_MODEL}: download both again{or_set}.")


def _value_of(key: str, headers: dict[str, Header], needed: dict[str, Shape]) -> str | None:
    """The value of a setting that would make all shapes right; None if there is none."""
    if " " in key:  # a product of two
        return None
    values = set()
    for name in needed:
        shape, keys = headers[name].shape, _keys(name)
        values |= {size for one, size in zip(keys, shape, strict=False) if one == key}
        if len(shape) != len(keys):
            return None
    return f"{key} to {values.pop()}" if len(values) == 1 else None


def _keys(name: str) -> tuple[str, ...]:
    """The settings in config.json that determine a tensor's shape, one per dimension."""
    queries, keys = "num_attention_heads * head_dim", "num_key_value_heads * head_dim"
    by_ending = {
        "embed_tokens.weight": ("vocab_size", "hidden_size"),
        HEAD: ("vocab_size", "hidden_size"),
        "q_proj.weight": (queries, "hidden_size"),
        "k_proj.weight": (keys, "hidden_size"),
        "v_proj.weight": (keys, "hidden_size"),
        "o_proj.weight": ("hidden_size", queries),
        "q_proj.bias": (queries,),
        "k_proj.bias": (keys,),
        "v_proj.bias": (keys,),
        "gate_proj.weight": ("intermediate_size", "hidden_size"),
        "up_proj.weight": ("intermediate_size", "hidden_size"),
        "down_proj.weight": ("hidden_size", "intermediate_size"),
        "q_norm.weight": ("head_dim",),
        "k_norm.weight": ("head_dim",),
    }
    return next((keys for ending, keys in by_ending.items() if name.endswith(ending)), ("hidden_size",))


def _missing(path: str | Path, headers: dict[str, Header], missing: list[str]) -> UsageError:
    problem, fix = f"{path} lacks the tensors {some(missing)}.", "Download the whole model again."
    prefix = _prefix(headers, missing)
    if any(name.endswith((".qweight", ".weight_packed", ".qzeros")) for name in headers):
        fix = "Its weights are quantized (GPTQ, AWQ or similar): use the model before quantization."
    elif any(".lora_" in name or name.endswith(".base_layer.weight") for name in headers):
        fix = "It has LoRA weights that are not merged: merge them with peft's merge_and_unload."
    elif prefix:
        fix = f"Its names have {prefix!r} in front, from a wrapper: save the model inside it with save_pretrained."
    elif missing == [HEAD]:
        fix = (
            "If the model's head is its embedding, set tie_word_embeddings to true in config.json; if not, download "
            "the model again."
        )
    elif all(name.removeprefix("model.") in headers for name in missing if name != HEAD):
        fix = "It was saved without its head (from AutoModel): save it from AutoModelForCausalLM."
    elif min(map(_layer, missing)) > (last := max(map(_layer, headers))):
        fix = (
            f"The weights have {last + 1} layers, and num_hidden_layers in config.json is larger: {_ANOTHER_MODEL}, or "
            "the download is not whole."
        )
    return UsageError(MODEL_SETTING, problem, fix)


def _layer(name: str) -> int:
    """The layer of a tensor; -1 outside of layers."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def _prefix(headers: dict[str, Header], missing: list[str]) -> str:
    """The common prefix that all missing names have in the files, such as "_orig_mod."; empty if there is none."""
    prefixes = {name.removesuffix(missing[0]) for name in headers if name.endswith(f".{missing[0]}")}
    return next((one for one in prefixes if all(one + name in headers for name in missing)), "")


def _check_unused(path: str | Path, unused: list[str], model: ModelConfig) -> None:
    if not unused:
        return
    layers = 1 + max(map(_layer, unused))
    if layers > model.num_layers:
        why = f"num_hidden_layers in config.json is {model.num_layers}, and they are of {layers} layers"
        fix = f"{_ANOTHER_MODEL}: download both again, or set num_hidden_layers to {layers}."
    elif any(".lora_" in name for name in unused):
        why, fix = "they are LoRA weights", "Merge them with peft's merge_and_unload, and save the result."
    else:
        why = f"models of model_type {model.family} have none of that name"
        fix = "config.json is of another model than they are; or remove them from the files if nothing needs them."
    problem = f"{path} has weights that would not be used, as {why}: {some(sorted(unused))}."
    raise UsageError(MODEL_SETTING, problem, fix)


def _check_tied_head(path: str | Path, reader: CheckpointReader) -> None:
    embedding, head = reader.headers[EMBEDDING], reader.headers[HEAD]
    same = embedding.shape == head.shape and head.dtype in DTYPES
    if not same or not _equal(reader, EMBEDDING, HEAD):
        raise UsageError(
            MODEL_SETTING,
            f"config.json in {path} sets tie_word_embeddings, and {HEAD} differs from {EMBEDDING}.",
            f"Set tie_word_embeddings to false in config.json to train with that head, or remove {HEAD} from the files "
            "to train with the embedding as the head.",
        )


def _slices(reader: CheckpointReader, name: str) -> Iterable[slice]:
    """Slices of a tensor's rows that take little memory."""
    shape = reader.headers[name].shape
    rows = shape[0] if shape else 1
    step = max(1, _COMPARED_BYTES // max(1, 4 * torch.Size(shape[1:]).numel()))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _equal(reader: CheckpointReader, first: str, second: str) -> bool:
    """Whether two tensors of the same shape have the same values. NaN equals NaN."""
    for rows in _slices(reader, first):
        a, b = reader(first, rows, None).float(), reader(second, rows, None).float()
        if not torch.equal(a.view(torch.int32), b.view(torch.int32)):
            return False
    return True


def _is_zero(reader: CheckpointReader, name: str) -> bool:
    if reader.headers[name].dtype not in DTYPES:
        return False
    return not any(reader(name, rows, None).any() for rows in _slices(reader, name))
