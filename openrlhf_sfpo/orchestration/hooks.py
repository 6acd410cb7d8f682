"""Every name of OpenRLHF that is replaced, and why. Nothing of OpenRLHF is touched anywhere else.

OpenRLHF's command line builds its parser and its cluster under `__main__`; its Ray actor classes are module attributes
that it looks up when it starts. So the attributes are set first, then `openrlhf.cli.train_ppo_ray` runs as `__main__`.

| name | replaced by | because |
| --- | --- | --- |
| trainer.ray.ppo_actor.PolicyModelActor | actors.PolicyActor | the policy trains with Megatron-Core and SFPO |
| the same with --actor.backend deepspeed | deepspeed.actor.PolicyActor | OpenRLHF's policy trains with SFPO |
| trainer.ray.launcher.ReferenceModelActor | each's ReferenceActor | the reference model has the policy's layout |
| trainer.ray.launcher.PlacementGroupSchedulingStrategy | bundle_order.node_by_node | neighbouring ranks on one node |
| trainer.ray.vllm_engine.RolloutRayActor | engine.RolloutEngine | weight transfer, log-probabilities, reward errors |
| trainer.ppo_trainer.PPOTrainer | trainers.Trainer | run directory, record and replay, evaluation at both ends |
| trainer.ppo_trainer_async.TrainingActor | trainers.TrainingActor | run directory, record |
| trainer.ppo_trainer_async.GenerateSamplesActor | trainers.GenerateSamplesActor | evaluations in the run directory |
| trainer.ray.create_vllm_engines | worker_reuse, in comparisons | a run reuses the engines of the run before |
| trainer.ray.launcher.RayActorGroup | worker_reuse, in comparisons | a run reuses the actors of the run before |
| argparse.ArgumentParser.parse_args | returns our parsed flags | OpenRLHF parses in `__main__`, out of reach |
| sys.modules["flash_attn"], where it is missing | flash_attn_stub | OpenRLHF imports it and never calls it here |

Inside the classes on the right, on their own instances and on no class of OpenRLHF's:

| what | set by | because |
| --- | --- | --- |
| the trainers' `samples_generator` | sample_generator.Rollouts, Replay | progress, errors of evaluations, replay |
| its `tokenizer` | sample_generator | it is sent with every prompt, and loading one takes 0.2 s |
| its `args.vllm.enable_sleep` | sample_generator.Rollouts | it wakes engines itself: alive, and with weights |
| its `args.rollout.batch_size`, in evaluations | sample_generator.Rollouts | as many samples in flight as in training |
| the loggers' `close`, until the last evaluation | trainers.Trainer | OpenRLHF closes them before it |
| the engine executor's `reward_func`, `reward_endpoints` | engine.RolloutEngine | rewards by name, failures stop |
| its `_fetch_rewards_via_http` | engine.RolloutEngine | the query is the prompt and the response's own tokens |
| the executor of --train.agent_func_path | engine.RolloutEngine | its file is loaded as Python loads files |
| the sampling parameters' `logprobs` | engine.RolloutEngine | every step compares them with the actor's |
| flags as OpenRLHF sees them | runs.openrlhf_arguments | dispatch to the ranks of one model copy; packing is ours |
"""

import argparse
import importlib
import inspect
import runpy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from openrlhf_sfpo.orchestration.bundle_order import node_by_node
from openrlhf_sfpo.orchestration.worker_reuse import ReusedWorkers
from openrlhf_sfpo.system.errors import UsageError

_own_run = False

SUPPORTED_VERSIONS = ("0.11.2",)

# What the replacements rely on: (module, attribute path, parameters). A Ray actor class is looked through.
EXPECTED_SIGNATURES: list[tuple[str, str, tuple[str, ...]]] = [
    ("openrlhf.trainer.ray.utils", "get_bundle_indices", ("placement_group", "index", "length")),
    (
        "openrlhf.trainer.ray.ppo_actor",
        "PolicyModelActor.init_model_from_pretrained",
        ("self", "strategy", "pretrain", "max_steps", "vllm_engines"),
    ),
    ("openrlhf.trainer.ray.ppo_actor", "PolicyModelActor.fit", ("self", "kl_ctl")),
    ("openrlhf.trainer.ray.ppo_actor", "PolicyModelActor.append", ("self", "experience")),
    (
        "openrlhf.trainer.ray.ppo_actor",
        "PolicyModelActor.save_checkpoint",
        ("self", "tag", "client_states", "metric_value", "metric_key"),
    ),
    (
        "openrlhf.trainer.ray.launcher",
        "ReferenceModelActor.init_model_from_pretrained",
        ("self", "strategy", "pretrain"),
    ),
    (
        "openrlhf.trainer.ray.launcher",
        "BaseModelActor.execute_batch",
        ("self", "method_name", "all_data", "start_idx", "end_idx"),
    ),
    (
        "openrlhf.trainer.ray.launcher",
        "RayActorGroup.__init__",
        (
            "self",
            "num_nodes",
            "num_gpus_per_node",
            "ray_actor_type",
            "pg",
            "num_gpus_per_actor",
            "duplicate_actors",
            "resources",
            "num_resources_per_node",
        ),
    ),
    (
        "openrlhf.trainer.ray.vllm_engine",
        "RolloutRayActor.generate_responses",
        ("self", "prompt", "label", "sampling_params", "max_length", "hf_tokenizer", "num_samples", "images"),
    ),
    ("openrlhf.trainer.ppo_trainer", "PPOTrainer.fit", ("self", "global_step")),
    ("openrlhf.trainer.ppo_trainer", "PPOTrainer.evaluate", ("self", "global_step", "generate_kwargs")),
    ("openrlhf.trainer.ppo_trainer", "BasePPOTrainer.train_step", ("self", "rollout_samples", "global_step")),
    (
        "openrlhf.trainer.ppo_trainer",
        "BasePPOTrainer.save_logs_and_checkpoints",
        ("self", "global_step", "logs_dict", "client_states"),
    ),
    ("openrlhf.trainer.ppo_trainer_async", "GenerateSamplesActor._run_eval", ("self",)),
    ("openrlhf.trainer.ppo_trainer_async", "TrainingActor.fit", ("self", "global_step")),
    ("openrlhf.trainer.ppo_utils.samples_generator", "SamplesGenerator.generate_samples", ("self", "generate_kwargs")),
    (
        "openrlhf.trainer.ppo_utils.samples_generator",
        "SamplesGenerator.generate_eval_samples",
        ("self", "generate_kwargs"),
    ),
    (
        "openrlhf.models.loss",
        "aggregate_loss",
        ("loss", "loss_mask", "token_level_loss", "dp_size", "batch_num_tokens", "global_batch_size"),
    ),
    (
        "openrlhf.models.utils",
        "compute_approx_kl",
        ("log_probs", "log_probs_base", "log_probs_old", "kl_estimator", "unbiased_gradient"),
    ),
    (
        "openrlhf.models.loss",
        "PolicyLoss.forward",
        (
            "self",
            "log_probs",
            "old_log_probs",
            "advantages",
            "action_mask",
            "rollout_log_probs",
            "dp_size",
            "batch_num_tokens",
            "global_batch_size",
        ),
    ),
]


def check_version() -> None:
    """Check that the installed OpenRLHF is one that the hooks were written for. Imports nothing of it.

    Raises:
        UsageError: naming the versions that work.
    """
    works = f"Install one of: {', '.join(f'openrlhf=={known}' for known in SUPPORTED_VERSIONS)}."
    try:
        found = version("openrlhf")
    except PackageNotFoundError:
        raise UsageError("openrlhf", "is not installed.", works) from None
    if found not in SUPPORTED_VERSIONS:
        raise UsageError("openrlhf", f"{found} is installed, which the hooks were not written for.", works)


def check_signatures() -> None:
    """Check that everything in `EXPECTED_SIGNATURES` looks as expected. Imports OpenRLHF.

    Raises:
        UsageError: naming what changed and the versions that work.
    """
    for module_name, path, expected in EXPECTED_SIGNATURES:
        found = _parameters(module_name, path)
        if found != expected:
            raise UsageError(
                "openrlhf",
                f"{version('openrlhf')} has {module_name}.{path}({', '.join(found)}) where "
                f"({', '.join(expected)}) is expected; it may have been edited.",
                f"Install one of: {', '.join(f'openrlhf=={known}' for known in SUPPORTED_VERSIONS)}.",
            )


def _parameters(module_name: str, path: str) -> tuple[str, ...]:
    target: Any = importlib.import_module(module_name)
    for part in path.split("."):
        target = getattr(target, part, None)
        if target is None:
            return ("missing",)
        metadata = getattr(target, "__ray_metadata__", None)
        if metadata is not None and not isinstance(target, type):
            target = metadata.modified_class.__ray_actor_class__
    # Ray adds a parameter of its own to the methods of actor classes.
    return tuple(name for name in inspect.signature(target).parameters if name != "_ray_trace_ctx")


@contextmanager
def installed(backend: str, engine_class: Any, reused: ReusedWorkers | None) -> Iterator[None]:
    """Put the replacements of the table above in place; take them away again at the end.

    Args:
        backend: --actor.backend.
        engine_class: an `engine.EngineClass`.
        reused: holds the workers from run to run; without it each run starts its own.
    """
    import openrlhf.trainer.ray
    import ray
    from openrlhf.trainer import ppo_trainer, ppo_trainer_async
    from openrlhf.trainer.ray import launcher, ppo_actor, vllm_engine

    from openrlhf_sfpo.orchestration import trainers

    policy, reference = model_actors(backend)
    trainer = ray.remote(trainers.Trainer)
    replacements = [
        (ppo_actor, "PolicyModelActor", policy),
        (launcher, "ReferenceModelActor", reference),
        (launcher, "PlacementGroupSchedulingStrategy", node_by_node),
        (vllm_engine, "RolloutRayActor", engine_class),
        (ppo_trainer, "PPOTrainer", reused.trainer(trainer) if reused else trainer),
        (ppo_trainer_async, "TrainingActor", ray.remote(trainers.TrainingActor)),
        (ppo_trainer_async, "GenerateSamplesActor", ray.remote(trainers.GenerateSamplesActor)),
    ]
    if reused:
        replacements += [
            (openrlhf.trainer.ray, "create_vllm_engines", reused.engines(openrlhf.trainer.ray.create_vllm_engines)),
            (launcher, "RayActorGroup", reused.group(launcher.RayActorGroup)),
        ]
    with ExitStack() as stack:
        for module, name, replacement in replacements:
            stack.enter_context(replaced(module, name, replacement))
        yield


def model_actors(backend: str) -> tuple[Any, Any]:
    """The Ray actor classes of the policy and of the reference model.

    Args:
        backend: --actor.backend.
    """
    import ray

    if backend == "deepspeed":
        from openrlhf_sfpo.orchestration import deepspeed_actor as actors
    else:
        from openrlhf_sfpo.orchestration import megatron_actor as actors
    on_gpu = ray.remote(num_gpus=1)
    return on_gpu(actors.PolicyActor), on_gpu(actors.ReferenceActor)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value until the block ends."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def run_openrlhf(namespace: argparse.Namespace) -> None:
    """Run OpenRLHF's train_ppo_ray as `__main__` with flags that are already parsed (flat, with dotted names)."""

    def parse_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> argparse.Namespace:
        return namespace

    global _own_run
    _own_run = True
    try:
        with replaced(argparse.ArgumentParser, "parse_args", parse_args):
            runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
    finally:
        _own_run = False


def is_own_run() -> bool:
    """Whether `run_openrlhf` is running here. A patched OpenRLHF then leaves the replacements to it."""
    return _own_run
