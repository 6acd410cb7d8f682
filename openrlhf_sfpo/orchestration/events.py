"""How workers tell the driver what is going on: a Ray actor that the driver empties into the run directory."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

NAME = "openrlhf_sfpo_events"


class Events:
    """The sending end, found by name from any worker of the run. Sending never waits and never fails a run."""

    def __init__(self) -> None:
        import ray

        self._mailbox = None  # where no driver listens: an actor without Ray, or in somebody else's OpenRLHF
        if ray.is_initialized():
            with suppress(ValueError):
                self._mailbox = ray.get_actor(NAME)

    def send(self, kind: str, **fields: Any) -> None:
        """Send an event; those of one worker arrive in order.

        Args:
            kind: `phase` (text, and long if it may take minutes), `step` (step, metrics), `eval` (step, metrics),
                `samples` (step, samples) or `sync` (metrics).
            fields: its content, plain Python values.
        """
        if self._mailbox is not None:
            self._mailbox.put.remote({"kind": kind, **fields})


class Mailbox:
    """Holds events until the driver takes them.

    A plain actor, to which Ray makes the calls of one worker in their order. It does not promise that for
    `ray.util.queue.Queue`, whose actor is asynchronous: evaluations were seen to overtake the step before them.
    """

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        """Keep an event."""
        self._events.append(event)

    def take(self) -> list[dict[str, Any]]:
        """All events since the last time."""
        events, self._events = self._events, []
        return events


@contextmanager
def mailbox() -> Iterator[Any]:
    """Start a `Mailbox` under the name by which `Events` finds it."""
    import ray

    actor = ray.remote(num_cpus=0, name=NAME)(Mailbox).remote()
    try:
        yield actor
    finally:
        ray.kill(actor)  # frees the name for the next session
