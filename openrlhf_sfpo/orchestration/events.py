"""How workers tell the driver what is going on: a Ray queue that the driver empties into the run directory."""

from typing import Any

NAME = "openrlhf_sfpo_events"


class Events:
    """The sending end, found by name from any worker of the run. Sending never waits and never fails a run."""

    def __init__(self) -> None:
        import ray

        try:
            self._queue = ray.get_actor(NAME)
        except ValueError:  # no driver listens, as when an actor is tested on its own
            self._queue = None

    def send(self, kind: str, **fields: Any) -> None:
        """Queue an event.

        Args:
            kind: `phase` (text, and long if it may take minutes), `step` (step, metrics), `eval` (step, metrics),
                `samples` (step, samples) or `sync` (metrics).
            fields: its content, plain Python values.
        """
        if self._queue is not None:
            self._queue.put_nowait.remote({"kind": kind, **fields})
