"""Runs OpenRLHF's own command line with this package's classes instead of its own.

OpenRLHF's command line builds its parser and its cluster under `__main__`; it looks up its Ray actor classes as module
attributes at its start. So the attributes are set first, then `openrlhf.cli.train_ppo_ray` runs as `__main__`.
`system.replaced_names` lists what is replaced and what is relied on.
"""

import argparse
import runpy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.orchestration.bundle_order import node_by_node
from openrlhf_sfpo.orchestration.worker_reuse import ReusedWorkers
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS, RELIED_ON, REPLACEMENTS
from openrlhf_sfpo.system.replacements import check_library, replaced

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.engine import EngineClass

_own_run = False

SUPPORTED_VERSIONS = ("0.11.2",)


def check_version() -> None:
    """Check that the hooks support the installed OpenRLHF. Does not import it.

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
    """Check every name of OpenRLHF that is replaced or relied on, and those of Ray and torch that are relied on; what
    is replaced there is checked when it is. Imports the libraries.

    Raises:
        UsageError: naming what changed and the versions that work.
    """
    check_library("openrlhf", [*REPLACEMENTS.values(), *ON_OBJECTS.values(), *RELIED_ON])
    for library in ("ray", "torch"):
        check_library(library, RELIED_ON)


@contextmanager
def installed(backend: str, engine_class: "EngineClass", reused: ReusedWorkers | None) -> Iterator[None]:
    """Replace OpenRLHF's classes with ours until the block ends.

    Args:
        backend: --actor.backend.
        engine_class: an `engine.EngineClass`.
        reused: keeps the workers between runs; without it each run starts its own.
    """
    import openrlhf.trainer.ray
    import ray
    from openrlhf.trainer.ray import launcher

    from openrlhf_sfpo.orchestration import trainers

    policy, reference = model_actors(backend)
    trainer = ray.remote(trainers.Trainer)
    values = {
        "openrlhf.trainer.ray.ppo_actor.PolicyModelActor": policy,
        "openrlhf.trainer.ray.launcher.ReferenceModelActor": reference,
        "openrlhf.trainer.ray.launcher.PlacementGroupSchedulingStrategy": node_by_node,
        "openrlhf.trainer.ray.vllm_engine.RolloutRayActor": engine_class,
        "openrlhf.trainer.ppo_trainer.PPOTrainer": reused.trainer(trainer) if reused else trainer,
        "openrlhf.trainer.ppo_trainer_async.TrainingActor": ray.remote(trainers.TrainingActor),
        "openrlhf.trainer.ppo_trainer_async.GenerateSamplesActor": ray.remote(trainers.GenerateSamplesActor),
    }
    if reused:
        values["openrlhf.trainer.ray.create_vllm_engines"] = reused.engines(openrlhf.trainer.ray.create_vllm_engines)
        values["openrlhf.trainer.ray.launcher.RayActorGroup"] = reused.group(launcher.RayActorGroup)
    with ExitStack() as stack:
        for key, value in values.items():
            stack.enter_context(replaced(REPLACEMENTS[key], value))
        yield


def model_actors(backend: str) -> tuple[Any, Any]:
    """The Ray actor classes of the policy and of the reference model.

    Args:
        backend: --actor.backend.
    """
    import ray

    actors: ModuleType
    if backend == "deepspeed":
        from openrlhf_sfpo.orchestration import deepspeed_actor

        actors = deepspeed_actor
    else:
        from openrlhf_sfpo.orchestration import megatron_actor

        actors = megatron_actor
    on_gpu = ray.remote(num_gpus=1)
    return on_gpu(actors.PolicyActor), on_gpu(actors.ReferenceActor)


def run_openrlhf(namespace: argparse.Namespace) -> None:
    """Run OpenRLHF's train_ppo_ray as `__main__` with parsed flags (flat, with dotted names)."""

    parsed = namespace

    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        return parsed

    global _own_run
    _own_run = True
    try:
        with replaced(REPLACEMENTS["argparse.ArgumentParser.parse_args"], parse_args):
            runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
    finally:
        _own_run = False


def is_own_run() -> bool:
    """Whether `run_openrlhf` is running in this process. A patched OpenRLHF then leaves the replacements to it."""
    return _own_run
