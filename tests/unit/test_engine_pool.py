"""The limit on engine restarts, with fake engines: no real one fails again and again at the right moment."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from openrlhf_sfpo.orchestration import engine_pool
from openrlhf_sfpo.orchestration.engine_pool import EnginePool
from openrlhf_sfpo.system.run_errors import WeightSyncFailed, WorkerLost


class Method:
    """A method of an actor: `remote` gives what `ray.get` then returns or raises."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return self.answer


class Engine:
    """An engine that answers `processes` when it starts, and then no heartbeat."""

    processes = Method(("", {7: 0.0}))
    heartbeat = Method(ray.exceptions.RayActorError())


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> EnginePool:
    def get(ref: Any, timeout: float | None = None) -> Any:
        if isinstance(ref, Exception):
            raise ref
        return ref

    monkeypatch.setattr(engine_pool.ray, "get", get)
    monkeypatch.setattr(engine_pool.ray, "kill", lambda engine, no_restart: None)
    policy = SimpleNamespace(reconnect_engines=Method(None))
    events = SimpleNamespace(send=lambda *args, **kwargs: None, policy=lambda: [policy])
    made = EnginePool([Engine()], 5.0, events)
    made.check_all()  # from now on it counts as up
    return made


def fails() -> None:
    raise WeightSyncFailed("an engine died")


def test_engines_that_fail_again_and_again_end_the_run(pool: EnginePool) -> None:
    for _ in range(3):
        pool.deliver(fails)
    with pytest.raises(WorkerLost, match="failed 4 times without finishing a rollout batch"):
        pool.deliver(fails)


def test_a_rollout_batch_that_is_complete_counts_as_a_recovery(pool: EnginePool) -> None:
    for _ in range(9):
        pool.deliver(fails)
        pool.batch_is_complete()
