"""How the processes of a run communicate: through a Ray actor, which workers find by name and the driver empties.

Workers report to it what they do; the driver writes that to the run directory, and watches their progress. It also
holds the workers' handles, for restarting and ending them.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.actor import ActorHandle

NAME = "openrlhf_sfpo_events"


class Events:
    """The workers' end, found by name from any worker of the run. Sending neither waits nor raises."""

    def __init__(self) -> None:
        import ray

        # None where no driver listens: in an actor without Ray, or in somebody else's OpenRLHF.
        self._mailbox: ActorHandle | None = None
        if ray.is_initialized():
            with suppress(ValueError):
                self._mailbox = ray.get_actor(NAME)

    @property
    def are_heard(self) -> bool:
        """Whether a driver listens."""
        return self._mailbox is not None

    def send(self, kind: str, **fields: Any) -> None:
        """Send an event; those of one worker arrive in order.

        Args:
            kind: `phase` (text, and long if it may take minutes), `step` (step, metrics), `eval` (step, metrics),
                `samples` (step, samples; as with `step`, again if they may be known already), `sync` (metrics),
                `checkpoint` (of a save that ended: tag, step, error, blocked_seconds, seconds, bytes), `training` (the
                workers are up; step, after which the run continues), `engine` (index, state "starting", "up" or
                "failed", text and, if it failed, log) or `notice` (text).
            fields: its content, plain Python values.
        """
        if self._mailbox is not None:
            self._mailbox.put.remote({"kind": kind, **fields})

    def send_now(self, kind: str, **fields: Any) -> None:
        """As `send`, from a process that is about to end: wait until the event has arrived, for 10 s at most."""
        import ray

        if self._mailbox is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._mailbox.put.remote({"kind": kind, **fields}), timeout=10)

    def register(self, role: str, rank: int = 0) -> None:
        """Leave the handle of the Ray actor that this is called in.

        Args:
            role: `policy` or `trainer`.
            rank: which of them this is.
        """
        import ray

        if self._mailbox is not None:
            # Pickled by hand: the mailbox would import the actor's class, seconds that the worker would wait for.
            handle = ray.cloudpickle.dumps(ray.get_runtime_context().current_actor)
            ray.get(self._mailbox.register.remote(role, rank, handle))

    def policy(self) -> list[Any]:
        """The handles of the policy's ranks, in their order; empty without a driver that listens."""
        return [] if self._mailbox is None else workers(self._mailbox, "policy")

    def beat(self, rank: int, state: dict[str, Any]) -> None:
        """Say that a rank of the policy lives, and what it does; see `heartbeat.Heartbeat`."""
        if self._mailbox is not None:
            self._mailbox.beat.remote(rank, state)

    def stop_requested(self) -> bool:
        """Whether the run is to stop as soon as nothing is lost by that."""
        import ray

        return self._mailbox is not None and bool(ray.get(self._mailbox.stop_requested.remote()))


class Mailbox:
    """Holds events until the driver takes them.

    A plain actor, to which Ray makes the calls of one worker in their order. It does not promise that for
    `ray.util.queue.Queue`, whose actor is asynchronous: evaluations were seen to overtake the step before them.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget everything: another run begins."""
        self._events: list[dict[str, Any]] = []
        self._workers: dict[tuple[str, int], bytes] = {}
        self._beats: dict[int, dict[str, Any]] = {}
        self._stop = False

    def put(self, event: dict[str, Any]) -> None:
        """Keep an event."""
        self._events.append(event)

    def beat(self, rank: int, state: dict[str, Any]) -> None:
        """Keep what a rank said last."""
        self._beats[rank] = state

    def take(self) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
        """All events, and the beats of those ranks that had any, since the last time."""
        events, self._events = self._events, []
        beats, self._beats = self._beats, {}
        return events, beats

    def register(self, role: str, rank: int, handle: bytes) -> None:
        """Keep a worker's handle, pickled."""
        self._workers[role, rank] = handle

    def workers(self, role: str) -> list[bytes]:
        """The handles of a role, by rank; see `workers`."""
        return [self._workers[key] for key in sorted(self._workers) if key[0] == role]

    def request_stop(self) -> None:
        """Ask the run to stop."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop


def workers(mailbox: "ActorHandle", role: str) -> list[Any]:
    """The handles of a role that a mailbox keeps, by rank."""
    import ray

    handles: list[bytes] = ray.get(mailbox.workers.remote(role))
    return [ray.cloudpickle.loads(handle) for handle in handles]


@contextmanager
def mailbox() -> Iterator[Any]:
    """Start a `Mailbox` under the name by which `Events` finds it."""
    import ray

    actor: Any = ray.remote(Mailbox).options(num_cpus=0, name=NAME).remote()
    try:
        yield actor
    finally:
        ray.kill(actor)  # frees the name for the next session
