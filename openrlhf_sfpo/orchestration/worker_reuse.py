"""Worker reuse: the next run uses the engines, actors and trainer of the last one instead of starting new ones.

Starting them takes longer than many short runs. They are reset: the actors rebuild model and optimizer in their
processes, the engines receive its weights, drop cached prefixes and are reseeded, and the trainer is reinitialized.
"""

from collections.abc import Callable
from typing import Any

from openrlhf_sfpo.config.flag_table import may_change_on_reuse
from openrlhf_sfpo.rollout.engine_handle import EngineHandle


def can_follow(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a run with the flags `after` can reuse the workers of one with `before`."""
    colocated = after["train.colocate_actor_ref"] or after["train.colocate_all"]
    if after["train.async_enable"] or colocated or after["actor.backend"] == "deepspeed":
        # The asynchronous trainer has actors that are not reused here; with colocation OpenRLHF first waits for free
        # GPUs; DeepSpeed's engines cannot be built twice in a process.
        return False
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return all(may_change_on_reuse(name) for name in differing)


class ReusedWorkers:
    """The workers of a session. Each method returns a replacement for one of OpenRLHF's names."""

    def __init__(self) -> None:
        self._engines: list[EngineHandle] | None = None
        self._groups: dict[int, Any] = {}

    def engines(self, create: Callable[..., list[EngineHandle]]) -> Callable[..., list[EngineHandle]]:
        """Replaces `create_vllm_engines`. The actor resets the engines once they have its weights."""

        def create_or_reuse(*args: Any, **kwargs: Any) -> list[EngineHandle]:
            if self._engines is None:
                self._engines = create(*args, **kwargs)
            return self._engines

        return create_or_reuse

    def group(self, create: Callable[..., Any]) -> Callable[..., Any]:
        """Replaces `RayActorGroup`. A group is initialized again for each run, which resets it."""

        def create_or_reuse(num_nodes: int, num_gpus_per_node: int, actor_type: Any, **kwargs: Any) -> Any:
            key = id(actor_type)
            if key not in self._groups:
                self._groups[key] = create(num_nodes, num_gpus_per_node, actor_type, **kwargs)
            return self._groups[key]

        return create_or_reuse

    def trainer(self, actor_class: Any) -> "_ReusedActor":
        """Replaces the Ray actor class `PPOTrainer`, which must have a method `restart` with the arguments of
        __init__."""
        return _ReusedActor(actor_class)


class _ReusedActor:
    """Replaces a Ray actor class: the first `remote` starts the actor, later ones restart it."""

    def __init__(self, actor_class: Any) -> None:
        self._actor_class = actor_class
        self._handle: Any = None

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        import ray

        if self._handle is None:
            self._handle = self._actor_class.remote(*args, **kwargs)
        else:
            ray.get(self._handle.restart.remote(*args, **kwargs))
        return self._handle
