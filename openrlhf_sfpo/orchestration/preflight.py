"""Everything that can be checked before a model is loaded or a GPU is taken."""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openrlhf_sfpo.checkpoints.directory import Checkpoint
from openrlhf_sfpo.checks import check_flags
from openrlhf_sfpo.errors import NotThere, UsageError
from openrlhf_sfpo.files import check_writable
from openrlhf_sfpo.home import check_caches
from openrlhf_sfpo.megatron.model_config import MODEL_FLAG
from openrlhf_sfpo.orchestration import data_check, hooks, places, ray_cluster, resume, run_data
from openrlhf_sfpo.orchestration.batches import check_batches
from openrlhf_sfpo.orchestration.reward_check import check_rewards, try_rewards
from openrlhf_sfpo.placement import engines_share_gpus, reference_shares_gpus
from openrlhf_sfpo.rollout.recording import load_rollouts, record_files
from openrlhf_sfpo.search_path import check_packages
from openrlhf_sfpo.tasks.tokenizers import check_model_code


def nested(flat: argparse.Namespace) -> SimpleNamespace:
    """Dotted names as nested namespaces: `a.b` becomes args.a.b, as OpenRLHF does it."""
    root: dict[str, Any] = {}
    for name, value in vars(flat).items():
        *sections, leaf = name.split(".")
        node = root
        for part in sections:
            node = node.setdefault(part, {})
        node[leaf] = value

    def build(node: Any) -> Any:
        return SimpleNamespace(**{k: build(v) for k, v in node.items()}) if isinstance(node, dict) else node

    return build(root)


def dotted(args: Any, prefix: str = "") -> dict[str, Any]:
    """The opposite of `nested`: values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in vars(args).items():
        if isinstance(value, argparse.Namespace | SimpleNamespace):
            flat.update(dotted(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def gpus_needed(args: Any) -> int:
    """GPUs that OpenRLHF's placement asks Ray for."""
    actor = args.actor.num_nodes * args.actor.num_gpus_per_node
    shared = reference_shares_gpus(args)
    reference = args.ref.num_nodes * args.ref.num_gpus_per_node if args.algo.kl.init_coef > 0 and not shared else 0
    engines = 0 if args.rollout.replay_dir else (args.vllm.num_engines or 0) * args.vllm.tensor_parallel_size
    if engines_share_gpus(args):
        engines = 0
    return actor + reference + engines


def check(flat: argparse.Namespace, given: Container[str] = ()) -> data_check.DataCheck:
    """Check flags, OpenRLHF's version, model, layout, reward, data, tokenizer and run directory; write nothing.

    Args:
        flat: the flags.
        given: names of those that were set.

    Returns:
        What was found out about the data.

    Raises:
        UsageError: for the first thing that is wrong.
    """
    flat = _with_places(flat, given)
    data = data_check.DataCheck(nested(flat))
    for step in _steps(flat, given, data):
        step()
    return data


def still_to_do(
    flat: argparse.Namespace, given: Container[str] = (), data: data_check.DataCheck | None = None
) -> list[UsageError]:
    """As `check`, for a command line that is not run yet: what has to exist or be made before it is, rather than an
    error for the first of it. Not even a probe is written.

    Args:
        flat: the flags.
        given: names of those that were set.
        data: finds out about the data; it was made for these flags, with `ahead`.

    Raises:
        UsageError: for the first flag that is wrong.
    """
    found: list[UsageError] = []
    flat = _with_places(flat, given)
    for step in _steps(flat, given, data or data_check.DataCheck(nested(flat), ahead=True), probe=False):
        try:
            step()
        except UsageError as error:
            if not isinstance(error, NotThere) and step.func is not _check_writable:
                raise
            if str(error) not in map(str, found):  # several steps need the same file
                found.append(error)
    return found


def _with_places(flat: argparse.Namespace, given: Container[str]) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(flat), **places.places(vars(flat)["run.dir"], given)})


def _steps(
    flat: argparse.Namespace, given: Container[str], data: data_check.DataCheck, probe: bool = True
) -> Iterator[partial[None]]:
    """What is checked, in this order. `probe`: try directories by writing to them."""
    args = nested(flat)
    yield partial(check_packages)
    yield partial(_check_given, args)
    yield partial(check_caches)
    yield partial(ray_cluster.check_cluster, args.run.allow_open_ray)
    yield partial(check_flags, args)
    yield partial(_check_rewards, args)
    yield partial(data.flags)
    yield partial(data.rows, data_check.PROMPTS, args.data.prompt_dataset)
    yield partial(data.rows, data_check.EVAL, args.eval.dataset)
    yield partial(check_batches, args, data, given)
    yield partial(_check_writable, args, probe)
    yield partial(resume.check_continues, vars(flat))
    yield partial(places.check_free, vars(flat))
    yield partial(_check_model_directory, args)
    yield partial(_check_code, args, probe)
    yield partial(_check_layout, args)
    yield partial(_check_weights, args)
    yield partial(_check_engine, args)
    yield partial(_check_compiled_operators, args)
    yield partial(data.tokenizer)  # loading it takes seconds
    yield partial(try_rewards, args, data)


def _check_given(args: Any) -> None:
    hooks.check_version()
    if not args.actor.model_name_or_path:
        raise UsageError("--actor.model_name_or_path", "is not given.", "Give a Hugging Face model directory.")
    if not args.data.prompt_dataset:
        raise UsageError(
            "--data.prompt_dataset", "is not given.", "Give a file, a Hugging Face name or reasoning_gym:NAME."
        )


def _check_rewards(args: Any) -> None:
    if args.rollout.replay_dir:
        _check_recording(args)
    check_rewards(args)


def _check_recording(args: Any) -> None:
    """The recording's first batch against the flag that says which samples belong together."""
    first = load_rollouts(record_files(args.rollout.replay_dir)[0])
    runs = [len(list(group)) for _, group in itertools.groupby(record.prompt for record in first)]
    asked, recorded = args.rollout.n_samples_per_prompt, min(runs)
    if recorded != asked:
        raise UsageError(
            "--rollout.n_samples_per_prompt",
            f"is {asked}, but {args.rollout.replay_dir} was recorded with {recorded}.",
            f"Use {recorded}.",
        )


def _check_layout(args: Any) -> None:
    """The model's configuration against the layout and the sequence length."""
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.model_config import ModelConfig

    if args.actor.backend == "deepspeed":  # transformers' own implementations, of any architecture
        return
    model = ModelConfig.from_pretrained(args.actor.model_name_or_path)
    layout = Layout.of(args.megatron)
    for role in ("actor", "ref") if args.algo.kl.init_coef > 0 else ("actor",):
        group = getattr(args, role)
        layout.check(group.num_nodes * group.num_gpus_per_node, model, role)
    model.check_sequence_length(args.data.max_len)


def _check_engine(args: Any) -> None:
    """The model's configuration against what vLLM can run."""
    from openrlhf_sfpo.megatron.model_config import ModelConfig
    from openrlhf_sfpo.orchestration.devices import runs_on_cpu
    from openrlhf_sfpo.rollout.engine_limits import EngineModel, check_engine

    if args.rollout.replay_dir:
        return
    read = EngineModel.of_any_architecture if args.actor.backend == "deepspeed" else ModelConfig.from_pretrained
    model = read(args.actor.model_name_or_path)
    check_engine(model, args.data.max_len, args.vllm.tensor_parallel_size, runs_on_cpu(args.megatron.device))


def check_model(args: Any) -> None:
    """Check the model directory alone: its format, and its weights against config.json.

    Raises:
        UsageError: for the first thing that is wrong.
    """
    _check_model_directory(args)
    _check_weights(args)


def _check_model_directory(args: Any) -> None:
    """Whether the model is a directory in a format that actor and engines read alike."""
    from openrlhf_sfpo.megatron.model_directory import check_model_directory

    path, through_transformers = args.actor.model_name_or_path, args.actor.backend == "deepspeed"
    if through_transformers and not Path(path).exists():  # a name on the Hugging Face Hub
        return
    check_model_directory(path, bin_files=through_transformers)


def _check_weights(args: Any) -> None:
    """The tensors in the model directory against its configuration."""
    from openrlhf_sfpo.megatron.checkpoint_files import check_tokenizer_files
    from openrlhf_sfpo.megatron.model_config import ModelConfig
    from openrlhf_sfpo.megatron.model_directory import check_stop_tokens
    from openrlhf_sfpo.megatron.weight_check import check_weights

    path, is_deepspeed = args.actor.model_name_or_path, args.actor.backend == "deepspeed"
    if is_deepspeed and not list(Path(path).glob("model*.safetensors*")):  # a name on the Hub, or pickles
        return
    try:
        model = ModelConfig.from_pretrained(path)
    except UsageError:
        if is_deepspeed:  # transformers knows more architectures, and checks them itself
            return
        raise
    check_stop_tokens(path, model.vocab_size)
    for notice in check_weights(path, model):
        print(notice, file=sys.stderr)
    if not is_deepspeed:
        check_tokenizer_files(path)


def _check_compiled_operators(args: Any) -> None:
    from openrlhf_sfpo.deepspeed.compiled_ops import check_locks

    if args.actor.backend == "deepspeed":
        check_locks()


def _check_code(args: Any, download: bool) -> None:
    """No model runs code of its own unless a flag allows it."""
    model, allowed = args.actor.model_name_or_path, args.actor.trust_remote_code
    is_name = args.actor.backend == "deepspeed"  # or may be one
    check_model_code(MODEL_FLAG, model, data_check.CODE_FLAG, allowed, download and is_name)


def _check_writable(args: Any, probe: bool) -> None:
    """The directories that the run writes to; what is found out at their first use may come hours later."""
    for flag, place in (
        ("--run.dir", args.run.dir),
        ("--ckpt.path", args.ckpt.path),
        ("--ckpt.output_dir", args.ckpt.output_dir),
        ("--logger.tensorboard_dir", args.logger.tensorboard_dir),
        ("--rollout.record_dir", args.rollout.record_dir),
    ):
        if place:
            check_writable(flag, Path(place), probe)


def prepare(flat: argparse.Namespace, given: set[str]) -> Path:
    """Make the run directory, write its data sets into it, and fill in the defaults that depend on it.

    Args:
        flat: the flags; changed in place.
        given: names of the flags that the user set.

    Returns:
        The run directory.
    """
    values = vars(flat)
    directory = Path(values["run.dir"]).absolute()
    values["run.dir"] = str(directory)
    (directory / "logs").mkdir(parents=True, exist_ok=True)
    values |= places.places(directory, given)
    Path(values["ckpt.path"]).mkdir(parents=True, exist_ok=True)
    run_data.prepare(nested(flat), directory / "data")  # the flags stay as they were given
    return directory


def for_openrlhf(flat: argparse.Namespace, checkpoint: Checkpoint | None = None) -> argparse.Namespace:
    """The flags as OpenRLHF's own code must see them. With a checkpoint, it loads what the actors say is in there.

    For Megatron, it sends one chunk of data to `ds.tensor_parallel_size` neighbouring ranks: the ranks that hold one
    copy of the model. Its own packing and balancing stay off, because the actor packs and balances for itself.
    """
    values = dict(vars(flat))
    values.pop("config", None)
    values["run.settings"] = json.dumps(resume.portable(values))  # what a checkpoint says of the run that wrote it
    run_data.for_openrlhf(values)
    values["ckpt.resume_from"] = str(checkpoint.path) if checkpoint else None
    if values["actor.backend"] == "megatron":
        values["ckpt.load_enable"] = checkpoint is not None
    if values["actor.backend"] == "megatron":
        for_megatron(values)
    elif values["megatron.device"] == "cpu":
        for_deepspeed_on_cpu(values)
    if values["rollout.replay_dir"]:
        values["vllm.num_engines"] = 0
        # Without a URL OpenRLHF would wait for the GPUs of a reward model; the rewards are in the recording.
        values["reward.remote_url"] = values["reward.remote_url"] or "replayed"
    return argparse.Namespace(**values)


def for_megatron(values: dict[str, Any]) -> None:
    """See `for_openrlhf`; `values` by dotted name, changed in place."""
    values["ds.tensor_parallel_size"] = math.prod(
        values[f"megatron.{kind}_size"]
        for kind in ("tensor_model_parallel", "context_parallel", "pipeline_model_parallel")
    )
    values["train.dynamic_batch_enable"] = False
    values["ds.packing_samples"] = False
    # A larger train batch is the whole rollout batch here; OpenRLHF, which would count no step at all, is to know.
    samples = values["rollout.batch_size"] * values["rollout.n_samples_per_prompt"]
    values["train.batch_size"] = min(values["train.batch_size"], samples)


def for_deepspeed_on_cpu(values: dict[str, Any]) -> None:
    """What OpenRLHF's actor needs where there is no flash-attention, and no bf16."""
    values["ds.attn_implementation"] = "sdpa"
    values["ds.param_dtype"] = values["megatron.param_dtype"]
