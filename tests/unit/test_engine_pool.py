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
        assert list(pool.answers([], lambda index, share: [], lambda: None)) == []


class Answers:
    """What two engines answer: `b` kills engine 1 the first time, and the calls are kept."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[str]]] = []

    def dispatch(self, index: int, requests: list[str]) -> list[Any]:
        self.sent.append((index, list(requests)))
        first = len(self.sent) <= 2
        return [ray.exceptions.RayActorError() if first and text == "b" else f"{text}!" for text in requests]


@pytest.fixture
def two(pool: EnginePool, monkeypatch: pytest.MonkeyPatch) -> EnginePool:
    class Healthy(Engine):
        heartbeat = Method(7)

    monkeypatch.setattr(engine_pool.ray, "wait", lambda refs, timeout, num_returns=1: (refs[:1], refs[1:]))
    policy = SimpleNamespace(reconnect_engines=Method(None))
    events = SimpleNamespace(send=lambda *args, **kwargs: None, policy=lambda: [policy])
    return EnginePool([Healthy(), Healthy()], 5.0, events)


def test_requests_of_an_engine_that_dies_are_sent_again_after_the_others_are_answered(two: EnginePool) -> None:
    engines, requests, found, looked = Answers(), ["a", "b", "c", "d"], [], []
    for answer in two.answers(requests, engines.dispatch, lambda: looked.append(two.all_up)):
        found.append(answer)
        if answer == "c!":
            requests.append("later")
    assert sorted(found) == ["a!", "b!", "c!", "d!", "later!"]
    assert engines.sent[:2] == [(0, ["a", "c"]), (1, ["b", "d"])], "the loads are even"
    again = [text for _, share in engines.sent[2:] for text in share]
    assert sorted(again) == ["b", "later"], "once all engines are up again"
    assert False in looked and looked[-1]
    assert requests == []


def test_an_error_of_the_request_itself_ends_it(two: EnginePool) -> None:
    with pytest.raises(ValueError, match="bad prompt"):
        list(two.answers(["a"], lambda index, share: [ValueError("bad prompt") for _ in share], lambda: None))
