"""Everything that can be checked before a model is loaded or a GPU is taken."""

import argparse
import itertools
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openrlhf_sfpo.checkpoints.directory import Checkpoint
from openrlhf_sfpo.checks import check_flags
from openrlhf_sfpo.errors import NotThere, UsageError
from openrlhf_sfpo.files import check_writable
from openrlhf_sfpo.home import check_caches
from openrlhf_sfpo.orchestration import hooks, ray_cluster, resume
from openrlhf_sfpo.placement import engines_share_gpus, reference_shares_gpus
from openrlhf_sfpo.rollout.recording import load_rollouts, record_files
from openrlhf_sfpo.search_path import check_packages
from openrlhf_sfpo.tasks.data import REASONING_GYM, prompts_of, resolve_dataset
from openrlhf_sfpo.tasks.rewards import check_reward


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


def check(flat: argparse.Namespace) -> None:
    """Check flags, OpenRLHF's version, model, layout, reward, data files and run directory; write nothing.

    Raises:
        UsageError: for the first thing that is wrong.
    """
    args = nested(flat)
    for step in _steps(args):
        step()


def still_to_do(flat: argparse.Namespace) -> list[UsageError]:
    """As `check`, for a command that is not run yet: what has to be there or made before it is, rather than an error
    for the first of it. Not even a probe is written.

    Raises:
        UsageError: for the first flag that is wrong.
    """
    found: list[UsageError] = []
    for step in _steps(nested(flat), probe=False):
        try:
            step()
        except UsageError as error:
            if not isinstance(error, NotThere) and step.func not in (check_run_directory, _check_places):
                raise
            found.append(error)
    return found


def _steps(args: Any, probe: bool = True) -> Iterator[partial[None]]:
    """What is checked, in this order. `probe`: try directories by writing to them."""
    yield partial(check_packages)
    yield partial(_check_given, args)
    yield partial(check_caches)
    yield partial(ray_cluster.check_cluster, args.run.allow_open_ray)
    yield partial(check_flags, args)
    yield partial(_check_rewards, args)
    for flag, spec in (("--data.prompt_dataset", args.data.prompt_dataset), ("--eval.dataset", args.eval.dataset)):
        yield partial(_check_dataset, args, flag, spec or "")
    yield partial(check_run_directory, Path(args.run.dir), probe)
    yield partial(_check_places, args, probe)
    yield partial(_check_layout, args)
    yield partial(_check_weights, args)


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
    elif not args.reward.remote_url and not args.train.agent_func_path:
        raise UsageError(
            "--reward.remote_url",
            "is not given, so that nothing would be rewarded.",
            "Give a Python file, a built-in reward's name or a URL (or --train.agent_func_path).",
        )
    if args.reward.remote_url:
        check_reward(args.reward.remote_url.split(",")[0])


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
        ranks = group.num_nodes * group.num_gpus_per_node
        layout.check(ranks, model.num_layers, model.num_heads, model.num_kv_heads, role)
    model.check_sequence_length(args.data.max_len)


def _check_weights(args: Any) -> None:
    """The model directory's files against its configuration."""
    from openrlhf_sfpo.megatron.checkpoint_files import check_complete
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.model_config import ModelConfig
    from openrlhf_sfpo.megatron.weights import weight_plan

    if args.actor.backend == "deepspeed":
        return
    path = args.actor.model_name_or_path
    plan = weight_plan(ModelConfig.from_pretrained(path), Layout())
    check_complete(path, [name for entry in plan for name in entry.converter.names])


def _check_dataset(args: Any, flag: str, spec: str) -> None:
    """Data files are read to their ends; what reasoning-gym generates is generated later, in the run directory."""
    files = [part for part in spec.split(",") if part and not part.strip().startswith(REASONING_GYM)]
    if files:
        resolve_dataset(flag, ",".join(files), args.data.input_key, args.data.label_key, Path())


def check_run_directory(directory: Path, probe: bool = True) -> None:
    """Check that the run directory can be made or is there, can be written to, and holds nothing but a run.

    Args:
        directory: what is checked.
        probe: as in `check_writable`.

    Raises:
        UsageError: naming the directory.
    """
    resume.holds_a_run(directory)
    check_writable("--run.dir", directory, probe)


def _check_places(args: Any, probe: bool) -> None:
    """Other directories that the run writes to; what is found out at their first use may come hours later."""
    for flag, place in (
        ("--ckpt.path", args.ckpt.path),
        ("--ckpt.output_dir", args.ckpt.output_dir),
        ("--rollout.record_dir", args.rollout.record_dir),
    ):
        if place and place != _default_of(flag):
            check_writable(flag, Path(place), probe)
    continues = resume.holds_a_run(Path(args.run.dir)) or args.ckpt.load_enable
    if args.rollout.record_dir and not continues and list(Path(args.rollout.record_dir).glob("rollouts_*.safetensors")):
        raise UsageError(
            "--rollout.record_dir", f"{args.rollout.record_dir} already holds recorded rollouts.", "Choose another one."
        )


def _default_of(flag: str) -> Any:
    """OpenRLHF's default; `prepare` puts a place inside the run directory there."""
    from openrlhf_sfpo.cli.flags import openrlhf_parser

    return openrlhf_parser().get_default(flag.removeprefix("--")) if flag.startswith("--ckpt") else None


def prepare(flat: argparse.Namespace, given: set[str]) -> Path:
    """Make the run directory, generate data sets into it, and fill in the defaults that depend on it.

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
    for name, place in (
        ("ckpt.path", "checkpoints"),
        ("ckpt.output_dir", "hf"),
        ("logger.tensorboard_dir", "tensorboard"),
    ):
        if name not in given:
            values[name] = str(directory / place)
    Path(values["ckpt.path"]).mkdir(parents=True, exist_ok=True)
    _resolve_datasets(values, directory / "data")
    return directory


def _resolve_datasets(values: dict[str, Any], directory: Path) -> None:
    """Generate what reasoning-gym makes; evaluation sets keep clear of the training prompts."""
    specs = [values[name] for name in ("data.prompt_dataset", "eval.dataset") if values[name]]
    input_key, label_key = values["data.input_key"], values["data.label_key"]
    if label_key is None and any(REASONING_GYM in spec for spec in specs):
        values["data.label_key"] = label_key = "label"
    train = resolve_dataset("--data.prompt_dataset", values["data.prompt_dataset"], input_key, label_key, directory)
    values["data.prompt_dataset"] = train
    if values["eval.dataset"]:
        seen = prompts_of(train, input_key)
        values["eval.dataset"] = resolve_dataset(
            "--eval.dataset", values["eval.dataset"], input_key, label_key, directory, held_out_from=seen
        )


def for_openrlhf(flat: argparse.Namespace, checkpoint: Checkpoint | None = None) -> argparse.Namespace:
    """The flags as OpenRLHF's own code must see them. With a checkpoint, it loads what the actors say is in there.

    For Megatron, it sends one chunk of data to `ds.tensor_parallel_size` neighbouring ranks: the ranks that hold one
    copy of the model. Its own packing and balancing stay off, because the actor packs and balances for itself.
    """
    values = dict(vars(flat))
    values.pop("config", None)
    values["run.settings"] = json.dumps(resume.portable(values))  # what a checkpoint says of the run that wrote it
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


def for_deepspeed_on_cpu(values: dict[str, Any]) -> None:
    """What OpenRLHF's actor needs where there is no flash-attention, and no bf16."""
    values["ds.attn_implementation"] = "sdpa"
    values["ds.param_dtype"] = values["megatron.param_dtype"]
