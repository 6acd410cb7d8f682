"""Events of a worker reach the driver, in order."""

import time
from typing import Any

import ray

from openrlhf_sfpo.orchestration.events import Events, mailbox


@ray.remote(num_cpus=0)
class Worker:
    """Tells of evaluations, whose events are so large that Ray moves them through its object store, and of steps."""

    def tell(self, count: int) -> None:
        events = Events()
        for step in range(count):
            events.send("eval", step=step, metrics={"text": "x" * 300_000})
            Events().send("step", step=step, metrics={})


def told(box: Any, count: int) -> list[tuple[int, str]]:
    """What arrives when a worker tells of `count` steps; sending does not wait, so that it may not all be there yet."""
    ray.get(Worker.remote().tell.remote(count))
    events: list[dict[str, Any]] = []
    deadline = time.monotonic() + 60
    while len(events) < 2 * count and time.monotonic() < deadline:
        events += ray.get(box.take.remote())[0]
    return [(event["step"], event["kind"]) for event in events]


def test_events_arrive_in_order() -> None:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with mailbox() as box:
            assert told(box, 50) == [(step, kind) for step in range(50) for kind in ("eval", "step")]
        with mailbox() as box:  # the name is free again
            assert told(box, 1) == [(0, "eval"), (0, "step")]
    finally:
        ray.shutdown()
