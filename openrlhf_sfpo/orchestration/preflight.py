"""Everything that can be checked before a model is loaded or a GPU is taken."""

import argparse
import itertools
import json
import math
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

from openrlhf_sfpo.checkpoints.directory import Checkpoint
from openrlhf_sfpo.checks import check_flags
from openrlhf_sfpo.errors import NotThere, UsageError
from openrlhf_sfpo.files import check_writable
from openrlhf_sfpo.orchestration import hooks, places, resume
from openrlhf_sfpo.orchestration.batches import check_batches
from openrlhf_sfpo.placement import engines_share_gpus, reference_shares_gpus
from openrlhf_sfpo.rollout.recording import load_rollouts, record_files
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


def check(flat: argparse.Namespace, given: Container[str] = ()) -> None:
    """Check flags, OpenRLHF's version, model, layout, reward, data files and run directory; write nothing.

    Args:
        flat: the flags.
        given: names of those that were set.

    Raises:
        UsageError: for the first thing that is wrong.
    """
    for step in _steps(_with_places(flat, given), given):
        step()


def still_to_do(flat: argparse.Namespace, given: Container[str] = ()) -> list[UsageError]:
    """As `check`, for a command line that is not run yet: what has to be there or made before it is, rather than an
    error for the first of it. Not even a probe is written.

    Raises:
        UsageError: for the first flag that is wrong.
    """
    found: list[UsageError] = []
    for step in _steps(_with_places(flat, given), given, probe=False):
        try:
            step()
        except UsageError as error:
            if not isinstance(error, NotThere) and step.func is not _check_writable:
                raise
            found.append(error)
    return found


def _with_places(flat: argparse.Namespace, given: Container[str]) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(flat), **places.places(vars(flat)["run.dir"], given)})


def _steps(flat: argparse.Namespace, given: Container[str], probe: bool = True) -> Iterator[partial[None]]:
    """What is checked, in this order. `probe`: try directories by writing to them."""
    args = nested(flat)
    yield partial(_check_given, args)
    yield partial(check_flags, args)
    yield partial(_check_rewards, args)
    for flag, spec in (("--data.prompt_dataset", args.data.prompt_dataset), ("--eval.dataset", args.eval.dataset)):
        yield partial(_check_dataset, args, flag, spec or "")
    yield partial(check_batches, args, given)
    yield partial(_check_writable, args, probe)
    yield partial(resume.check_continues, vars(flat))
    yield partial(places.check_free, vars(flat))
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
    values |= places.places(directory, given)
    Path(values["ckpt.path"]).mkdir(parents=True, exist_ok=True)
    before = dict(values)
    for name, seed in (("data.prompt_dataset", 1), ("eval.dataset", 1_000_003)):
        if values[name]:
            values[name] = with_seed(values[name], seed)
    _resolve_datasets(values, directory / "data")
    # The settings that are written down are those that were asked for: another run has its own copies of the data.
    values[resume.ASKED] = {name: before[name] for name in before if values[name] != before[name]}
    return directory


def with_seed(spec: str, seed: int) -> str:
    """Data sets, separated by commas, with a seed for those that are generated and have none: a run that is continued,
    and all runs of a comparison, must get the same problems. Problem i depends on seed + i."""
    parts = [part.strip() for part in spec.split(",")]
    for index, part in enumerate(parts):
        name, _, query = part.removeprefix(REASONING_GYM).partition("?")
        if part.startswith(REASONING_GYM) and "seed" not in parse_qs(query) and _takes_seed(name):
            parts[index] = f"{REASONING_GYM}{name}?{query}&seed={seed}" if query else f"{part.rstrip('?')}?seed={seed}"
    return ",".join(parts)


def _takes_seed(name: str) -> bool:
    import reasoning_gym

    found = reasoning_gym.factory.DATASETS.get(name)
    return found is not None and getattr(found[1](), "seed", 0) is None


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
    values.pop(resume.ASKED, None)
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
