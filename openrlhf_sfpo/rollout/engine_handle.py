"""The handles of vLLM engine actors, for the type checker: of the attributes of Ray's own it knows nothing."""

from typing import Any, Protocol


class RemoteMethod(Protocol):
    """A method of an actor."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call it; return a reference to what it returns."""


class EngineHandle(Protocol):
    """Ray's handle of an `orchestration.engine.RolloutEngine` actor, with the methods that are called through it."""

    # Its process.
    heartbeat: RemoteMethod
    processes: RemoteMethod
    restart: RemoteMethod
    # Memory.
    sleep: RemoteMethod
    wake_up: RemoteMethod
    lacks_weights: RemoteMethod
    reset_prefix_cache: RemoteMethod
    # Weights.
    init_weight_transfer_engine: RemoteMethod
    start_weight_update: RemoteMethod
    update_weights: RemoteMethod
    finish_weight_update: RemoteMethod
    weights_are: RemoteMethod
