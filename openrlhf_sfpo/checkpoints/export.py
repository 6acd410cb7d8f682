"""Writes the model in a checkpoint as a Hugging Face directory, without a GPU and without starting any process."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from openrlhf_sfpo.checkpoints.directory import MODEL, Checkpoint

WEIGHTS = "main"  # a checkpoint's tensors are named KIND/HUGGING_FACE_NAME; this is the kind of the fp32 weights
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def export(checkpoint: Checkpoint, target: Path, dtype: str | None = None) -> torch.dtype:
    """Write the model.

    Args:
        checkpoint: a complete checkpoint.
        target: the directory to write.
        dtype: "bf16" or "fp32"; by default the dtype of the parameters in training.

    Returns:
        The dtype that was written.
    """
    from openrlhf_sfpo.checkpoints.hf_writer import save_model_directory

    chosen = _DTYPES[dtype or checkpoint.manifest.get("settings", {}).get("megatron.param_dtype", "fp32")]
    weights = ((name, tensor.to(chosen)) for name, tensor in stored_weights(checkpoint.path))
    save_model_directory(target, checkpoint.path / MODEL, weights, chosen)
    return chosen


def stored_weights(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of a checkpoint as full fp32 Hugging Face tensors, one at a time."""
    reader = dcp.FileSystemReader(directory)
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        kind, _, name = key.partition("/")
        if kind == WEIGHTS and isinstance(entry, TensorStorageMetadata):
            tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
            with warnings.catch_warnings():
                # Without a process group, torch warns for every tensor that it assumes a single process.
                warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
                dcp.load({key: tensor}, storage_reader=reader, no_dist=True)
            yield name, tensor
