"""Checks a model directory against its configuration, the layout and the engines, before anything is loaded."""

import sys
from pathlib import Path

from openrlhf_sfpo.config.flag_table import settings
from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.config.setting_names import flags_named
from openrlhf_sfpo.system.errors import UsageError


@flags_named()
def check_layout(args: NestedFlags) -> None:
    """Check the model's configuration against the layout and the sequence length."""
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.model.config import ModelConfig

    if args.actor.backend == "deepspeed":  # uses transformers' own implementations, of any architecture
        return
    model = ModelConfig.from_pretrained(args.actor.model_name_or_path)
    layout = Layout.of(settings(args))
    for role in ("actor", "ref") if args.algo.kl.init_coef > 0 else ("actor",):
        group = getattr(args, role)
        with flags_named(world_size=f"--{role}.num_nodes, --{role}.num_gpus_per_node"):
            layout.check(group.num_nodes * group.num_gpus_per_node, model)
    model.check_sequence_length(args.data.max_len)


@flags_named()
def check_engine_limits(args: NestedFlags) -> None:
    """Check that vLLM can run the model's configuration."""
    from openrlhf_sfpo.config.device_defaults import runs_on_cpu
    from openrlhf_sfpo.megatron.model.config import ModelConfig
    from openrlhf_sfpo.rollout.engine_limits import EngineModel, check_engine

    if args.rollout.replay_dir:
        return
    read = EngineModel.of_any_architecture if args.actor.backend == "deepspeed" else ModelConfig.from_pretrained
    model = read(args.actor.model_name_or_path)
    check_engine(model, args.data.max_len, args.vllm.tensor_parallel_size, runs_on_cpu(args.megatron.device))


def check_model(args: NestedFlags) -> None:
    """Check the model directory alone: its format, and its weights against config.json.

    Raises:
        UsageError: for the first problem.
    """
    check_directory(args)
    check_against_config(args)


@flags_named()
def check_directory(args: NestedFlags) -> None:
    """Check that the model is a directory in a format that actor and engines read in the same way."""
    from openrlhf_sfpo.checkpoints.model_directory import check_model_directory

    path, through_transformers = args.actor.model_name_or_path, args.actor.backend == "deepspeed"
    if through_transformers and not Path(path).exists():  # a name on the Hugging Face Hub
        return
    check_model_directory(path, bin_files=through_transformers)


@flags_named()
def check_against_config(args: NestedFlags) -> None:
    """Check the tensors in the model directory against its configuration."""
    from openrlhf_sfpo.checkpoints.hf_directory import check_tokenizer_files
    from openrlhf_sfpo.checkpoints.model_directory import check_stop_tokens
    from openrlhf_sfpo.megatron.model.config import ModelConfig
    from openrlhf_sfpo.megatron.weights.check import check_weights

    path, is_deepspeed = args.actor.model_name_or_path, args.actor.backend == "deepspeed"
    if is_deepspeed and not list(Path(path).glob("model*.safetensors*")):  # a name on the Hub, or pickle files
        return
    try:
        model = ModelConfig.from_pretrained(path)
    except UsageError:
        if is_deepspeed:  # transformers supports more architectures, and checks them itself
            return
        raise
    check_stop_tokens(path, model.vocab_size)
    for notice in check_weights(path, model):
        print(notice, file=sys.stderr)
    if not is_deepspeed:
        check_tokenizer_files(path)


@flags_named()
def check_compiled_operators(args: NestedFlags) -> None:
    from openrlhf_sfpo.deepspeed.compiled_ops import check_locks

    if args.actor.backend == "deepspeed":
        check_locks()
