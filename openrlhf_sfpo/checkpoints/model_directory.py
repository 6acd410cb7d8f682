"""Determines what a model path is: a Hugging Face directory with safetensors, or something that must be converted,
merged or downloaded first. Reads only file names and small files, and imports nothing heavy."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openrlhf_sfpo.checkpoints.hf_config import MODEL_SETTING
from openrlhf_sfpo.checkpoints.model_files import INDEX, SINGLE, some
from openrlhf_sfpo.system.errors import NotThere, UsageError

_LFS = b"version https://git-lfs.github.com/spec/"
_CONVERT = (
    "Convert it with transformers: AutoModelForCausalLM.from_pretrained({path!r}{more})"
    ".save_pretrained(NEW_DIRECTORY), and save the tokenizer there, too."
)


def check_model_directory(path: str | Path, needs_weights: bool = True, bin_files: bool = False) -> None:
    """Check that the path is a Hugging Face model directory; otherwise say what it is.

    A path that does not exist, and a directory without config.json that cannot be recognized, are left to
    `ModelConfig.from_pretrained`, and missing shards to `hf_directory.tensor_headers`.

    Args:
        path: what the user gave as the model.
        needs_weights: refuse other formats of weights even if there is a config.json.
        bin_files: accept PyTorch's *.bin files.

    Raises:
        UsageError: naming the format and how to get safetensors from it.
    """
    path = Path(path)
    if path.is_file():
        raise _problem(*_as_file(path))
    if not path.is_dir():
        if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) and not path.parent.exists():
            fix = f"If that is a name on the Hugging Face Hub: hf download {path} --local-dir DIRECTORY, and give that."
            raise UsageError(MODEL_SETTING, f"{str(path)!r} is not a directory.", fix)
        return
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise _problem(f"{path} cannot be read ({error.strerror})", "Give a directory that you may read.") from None
    used = _used(names)
    broken = [name for name in used if (path / name).is_symlink() and not (path / name).exists()]
    if broken:
        raise _problem(f"{some(broken)} in {path} links to a file that does not exist", "Download the model again.")
    pointers = [name for name in used if _is_lfs_pointer(path / name)]
    if pointers:
        kind = "is a Git LFS pointer and not the file itself"
        if len(pointers) > 1:
            kind = "are Git LFS pointers and not the files themselves"
        raise _problem(f"{some(pointers)} in {path} {kind}", "Run git lfs pull there.")
    if "config.json" in names and not needs_weights:
        return
    if SINGLE not in names and INDEX not in names:
        for recognize in _FORMATS:
            found = recognize(path, names)
            if found is not None and not (bin_files and recognize is _pytorch):
                raise _problem(*found)
    _check_companions(path, names, bin_files)


def _check_companions(path: Path, names: set[str], through_transformers: bool) -> None:
    """Check for files that change which weights vLLM or transformers load from the directory."""
    if "hf_quant_config.json" in names:
        raise _problem(
            f"{path} is quantized by NVIDIA ModelOpt (hf_quant_config.json)", "Use the model before quantization."
        )
    if "adapter_config.json" in names and through_transformers:
        raise _problem(
            f"{path} holds a model and adapter_config.json, with which transformers loads "
            f"{_base_of(path)} instead of the model",
            "Remove adapter_config.json if the adapter is merged into the weights.",
        )


def check_stop_tokens(path: str | Path, vocab_size: int) -> None:
    """Check the tokens that end a response in vLLM: those of generation_config.json or, without it, of config.json.

    Args:
        path: the model directory.
        vocab_size: the model's vocabulary size.

    Raises:
        UsageError: the file is damaged, or a token is not in the vocabulary.
    """
    file = Path(path) / "generation_config.json"
    if not file.is_file():
        file = Path(path) / "config.json"
    try:
        tokens = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise _problem(f"{file} is damaged or truncated ({error})", "Download that file again.") from None
    listed = tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]
    wrong = [one for one in listed if type(one) is not int or not 0 <= one < vocab_size]
    if wrong:
        problem = f"{file} has the eos_token_id {wrong[0]!r}, and the model has the tokens 0 to {vocab_size - 1}"
        raise _problem(problem, "Set eos_token_id to tokens of the model.")


def _used(names: set[str]) -> list[str]:
    """The files that the actor, the engines or the tokenizer read; clones often lack the others."""
    endings: tuple[str, ...] = (".json", ".jinja", ".model", ".safetensors")
    if SINGLE not in names and INDEX not in names:
        endings = (*endings, ".bin", ".gguf", ".pth")
    elsewhere = ("consolidated", "adapter_model")
    return sorted(name for name in names if name.endswith(endings) and not name.startswith(elsewhere))


def _is_lfs_pointer(file: Path) -> bool:
    """Whether the file is a Git LFS pointer instead of the large file."""
    if not file.is_file() or file.stat().st_size > 1024:
        return False
    try:
        return file.read_bytes().startswith(_LFS)
    except OSError:  # the file's reader will report it
        return False


def _problem(problem: str, fix: str) -> UsageError:
    return UsageError(MODEL_SETTING, f"{problem}.", fix)


_Found = tuple[str, str] | None
# Files that the trainers of other projects write next to weights.
_STATES = ("optim", "sched", "scaler", "rng", "training_args")


def _as_file(path: Path) -> tuple[str, str]:
    if path.suffix == ".gguf":
        return _gguf(path.parent, {path.name}) or ("", "")
    return f"{path} is a file", "Give the directory that holds config.json, *.safetensors and the tokenizer."


def _hub_cache(path: Path, names: set[str]) -> _Found:
    if "snapshots" not in names or "config.json" in names:
        return None
    snapshots = sorted(entry for entry in (path / "snapshots").iterdir() if entry.is_dir())
    kind = f"{path} is the Hugging Face cache's directory of a model, which holds snapshots of it"
    if not snapshots:
        return f"{kind}, and none was downloaded", "Download the model again: hf download NAME --local-dir DIRECTORY."
    main = path / "refs" / "main"
    newest = path / "snapshots" / main.read_text(encoding="utf-8").strip() if main.is_file() else snapshots[-1]
    return kind, f"Give {newest if newest.is_dir() else snapshots[-1]}."


def _adapter(path: Path, names: set[str]) -> _Found:
    if "adapter_config.json" not in names and not any(name.startswith("adapter_model.") for name in names):
        return None
    return (
        f"{path} is a LoRA (PEFT) adapter of {_base_of(path)} and not a whole model",
        f"Merge it: peft.AutoPeftModelForCausalLM.from_pretrained({str(path)!r}).merge_and_unload()"
        ".save_pretrained(NEW_DIRECTORY), and save the tokenizer there, too.",
    )


def _base_of(path: Path) -> str:
    try:
        return str(json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another model"


def _run_directory(path: Path, names: set[str]) -> _Found:
    if "config.json" in names or not {"config.yaml", "metrics.jsonl"} & names:
        return None
    if (path / "hf" / "config.json").is_file():
        return f"{path} is a run directory", f"Give {path / 'hf'}, its final model."
    if (path / "checkpoints").is_dir():
        fix = f"Write the model of its newest checkpoint: openrlhf-sfpo export {path} NEW_DIRECTORY."
        return f"{path} is a run directory without a final model", fix
    return None


def _own_checkpoint(path: Path, names: set[str]) -> _Found:
    if "manifest.json" not in names or "config.json" in names:
        return None
    return f"{path} is a checkpoint of a run", f"Write its model: openrlhf-sfpo export {path} NEW_DIRECTORY."


def _gguf(path: Path, names: set[str]) -> _Found:
    files = sorted(name for name in names if name.endswith(".gguf"))
    if not files:
        return None
    return (
        f"{path} holds GGUF, the format of llama.cpp ({some(files)})",
        "Download the original model, or " + _lower(_CONVERT.format(path=str(path), more=f", gguf_file={files[0]!r}")),
    )


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _pytorch(path: Path, names: set[str]) -> _Found:
    files = sorted(name for name in names if name.startswith("pytorch_model") and name.endswith(".bin"))
    if not files and "pytorch_model.bin.index.json" not in names:
        return None
    found = some(files) if files else "pytorch_model.bin.index.json"
    return (
        f"{path} holds the weights as PyTorch pickles ({found}), and the actor reads safetensors",
        _CONVERT.format(path=str(path), more=', dtype="auto"'),
    )


def _quantized(path: Path, names: set[str]) -> _Found:
    method = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
    for name, kind in method.items():
        if name in names:
            return f"{path} is quantized by {kind} ({name})", "Use the model before quantization."
    return None


def _consolidated(path: Path, names: set[str]) -> _Found:
    pickles = sorted(name for name in names if name.startswith("consolidated") and name.endswith(".pth"))
    if pickles:
        return (
            f"{path} holds the weights in Meta's own format ({some(pickles)})",
            "Download the Hugging Face version of the model (names in -hf, or its *.safetensors), or convert it with "
            "transformers' convert_llama_weights_to_hf.py.",
        )
    files = sorted(name for name in names if name.startswith("consolidated") and name.endswith(".safetensors"))
    if files:
        return (
            f"{path} holds the weights in Mistral's own format only ({some(files)})",
            "Download the model's Hugging Face files as well: config.json, model*.safetensors, the tokenizer.",
        )
    return None


def _training_state(path: Path, names: set[str]) -> _Found:
    if "zero_to_fp32.py" in names or "latest" in names or any(name.startswith("mp_rank_") for name in names):
        return f"{path} is a checkpoint of DeepSpeed", "Convert it with its zero_to_fp32.py, or give the saved model."
    if "latest_checkpointed_iteration.txt" in names or any(re.fullmatch(r"iter_\d+", name) for name in names):
        return f"{path} is a checkpoint of Megatron-LM", "Convert it to a Hugging Face directory."
    if any(name.endswith(".distcp") or name.startswith("pytorch_model_fsdp") for name in names):
        return f"{path} is a distributed checkpoint of PyTorch", "Convert it to a Hugging Face directory."
    return None


def _other_frameworks(path: Path, names: set[str]) -> _Found:
    endings = {
        ".h5": "TensorFlow",
        ".msgpack": "Flax",
        ".onnx": "ONNX",
        ".npz": "MLX",
        ".nemo": "NeMo",
        ".pt": "PyTorch pickles",
        ".ckpt": "PyTorch pickles",
    }
    for ending, framework in endings.items():
        files = sorted(name for name in names if name.endswith(ending) and not name.startswith(_STATES))
        if files:
            fix = "Download the model's safetensors, or convert it with transformers' save_pretrained."
            return f"{path} holds the weights as {framework} only ({some(files)})", fix
    return None


def _deeper(path: Path, names: set[str]) -> _Found:
    if "config.json" in names:
        return None
    found = sorted(name for name in names if os.path.isfile(path / name / "config.json"))  # False where it may not look
    if not found:
        return None
    if len(found) == 1:
        return f"{path} holds no model itself, but {found[0]} in it does", f"Give {path / found[0]}."
    return f"{path} holds no model itself, but several in directories ({some(found)})", "Give one of them."


def _unfinished(path: Path, names: set[str]) -> _Found:
    shards = sorted(name for name in names if name.endswith(".safetensors"))
    if not shards or "config.json" not in names:
        return None
    problem = f"{path} has {some(shards)}, but neither {SINGLE} nor {INDEX}."
    raise NotThere(MODEL_SETTING, problem, f"Download the model again (hf download NAME --local-dir {path}).")


_FORMATS: list[Callable[[Path, set[str]], Any]] = [
    _hub_cache,
    _adapter,
    _run_directory,
    _own_checkpoint,
    _gguf,
    _pytorch,
    _quantized,
    _consolidated,
    _training_state,
    _other_frameworks,
    _deeper,
    _unfinished,
]
