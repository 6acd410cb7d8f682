"""Puts SFPO around the actor's updates in verl's workers, once verl has imported them."""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Any

from openrlhf_sfpo.verl.settings import settings_of

_WORKERS, _TRAINER = "verl.workers.engine_workers", "verl.trainer.ppo.ray_trainer"
VERSIONS = ("0.7.1", "0.8.0", "0.9.1")
METRIC = "sfpo/active"  # by which the trainer sees that the update took hold


class DidNotTakeHold(RuntimeError):
    """SFPO was asked for, and the actor's update did without it."""


def install() -> None:
    """Wrap verl's worker and trainer now, or when they are imported."""
    for name, wrap in ((_WORKERS, _wrap_workers), (_TRAINER, _wrap_trainer)):
        if name in sys.modules:
            wrap(sys.modules[name])
        else:
            sys.meta_path.insert(0, _AfterImport(name, wrap))


def check_version() -> None:
    """Check that this was written for the installed verl.

    Raises:
        DidNotTakeHold: naming the versions that work.
    """
    found = version("verl")
    if found not in VERSIONS:
        known = ", ".join(VERSIONS)
        raise DidNotTakeHold(
            f"actor_rollout_ref.sfpo is set, and SFPO was not written for verl {found}. Install one of: {known}."
        )


def _wrap_workers(module: ModuleType) -> None:
    """Make the actor's worker train with SFPO if its config asks for it."""
    worker = module.ActorRolloutRefWorker
    initialize = worker.init_model

    @functools.wraps(initialize)  # keeps what verl's dispatch has registered on it
    def init_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = initialize(self, *args, **kwargs)
        settings = settings_of(self.config)
        if settings is not None and self.actor is not None:
            check_version()
            from openrlhf_sfpo.verl.passes import train_with_sfpo

            train_with_sfpo(self.actor, settings, self.config)
        return result

    worker.init_model = init_model


def _wrap_trainer(module: ModuleType) -> None:
    """Make the trainer's first update fail if SFPO was asked for and did not take hold in the workers."""
    trainer = module.RayPPOTrainer
    update = trainer._update_actor

    @functools.wraps(update)
    def update_actor(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = update(self, *args, **kwargs)
        if settings_of(self.config.actor_rollout_ref) is not None and METRIC not in output.meta_info["metrics"]:
            raise DidNotTakeHold(
                "actor_rollout_ref.sfpo is set, and the workers trained without it: they have not loaded the plug-in. "
                "Set VERL_USE_EXTERNAL_MODULES=openrlhf_sfpo.verl in their environment, for example with "
                "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES=openrlhf_sfpo.verl, and with "
                "verl 0.7 trainer.use_legacy_worker_impl=disable."
            )
        return output

    trainer._update_actor = update_actor


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module right after its import.

    Args:
        name: the module's.
        then: the function.
    """

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name, self._then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute, then = spec.loader.exec_module, self._then

            def exec_module(module: ModuleType) -> None:
                execute(module)
                then(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
