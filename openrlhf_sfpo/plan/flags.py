"""Converts a command line of `openrlhf-sfpo train` to the plan's input."""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any

from openrlhf_sfpo.checkpoints.model_directory import check_model_directory
from openrlhf_sfpo.checkpoints.model_files import INDEX, SINGLE
from openrlhf_sfpo.config.checks import check_values
from openrlhf_sfpo.config.device_defaults import resolve_device_defaults
from openrlhf_sfpo.config.namespaces import nested
from openrlhf_sfpo.config.setting_names import flags_named
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.weights.check import check_weights
from openrlhf_sfpo.plan.setup import Setup, setup_of
from openrlhf_sfpo.rollout.engine_limits import check_engine
from openrlhf_sfpo.system.errors import NotThere, UsageError


def with_device_defaults(flat: argparse.Namespace) -> Any:
    """The flags, nested, resolved for GPUs even on a machine without any, or for CPUs if --megatron.device is cpu.
    `flat` is not changed."""
    values = dict(vars(flat))
    values["run.dir"] = values["run.dir"] or "runs/new"
    resolve_device_defaults(values, "cpu" if values["megatron.device"] == "cpu" else "cuda")
    return nested(argparse.Namespace(**values))


@flags_named()
def model_at(path: str | Path) -> ModelConfig:
    """The model whose directory or config.json this is. Weights in the directory must fit.

    Raises:
        UsageError: it is neither, the model is not supported, or its weights do not fit.
    """
    path = Path(path)
    if path.name == "config.json" and path.is_file():
        return ModelConfig.from_pretrained(path.parent)
    check_model_directory(path, needs_weights=False)
    model = ModelConfig.from_pretrained(path)
    if (path / SINGLE).exists() or (path / INDEX).exists():
        with suppress(NotThere):  # shards may still have to be downloaded
            check_weights(path, model)
    return model


@flags_named()
def planned(flat: argparse.Namespace, model: ModelConfig, checks_layout: bool = True) -> Setup:
    """The plan's input from the flags.

    Args:
        flat: the flags; not changed.
        model: shapes.
        checks_layout: use the flags' layout, which must fit the model.

    Raises:
        UsageError: a flag that the plan depends on is wrong, or the layout does not fit the model.
    """
    if vars(flat)["actor.backend"] == "deepspeed":
        raise UsageError("--actor.backend", "is deepspeed, whose memory is not planned.", "Use megatron.")
    args = with_device_defaults(flat)
    check_values(args)
    model.check_sequence_length(args.data.max_len)
    if not args.rollout.replay_dir:
        on_cpu = args.megatron.device == "cpu"
        check_engine(model, args.data.max_len, args.vllm.tensor_parallel_size, on_cpu)
    setup = setup_of(args, model)
    if checks_layout:
        setup.check()
    return setup
