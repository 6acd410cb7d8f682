"""Communication between the processes of a run, through a Ray actor that workers find by name and the driver empties.

Workers report their progress to it; the driver writes that to the run directory and monitors it. The actor also holds
the workers' handles, for restarting and ending them.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.actor import ActorHandle

NAME = "openrlhf_sfpo_events"


class Events:
    """The workers' side; finds the mailbox by name. Sending neither blocks nor raises."""

    def __init__(self) -> None:
        import ray

        # None if no driver listens: without Ray, or under a patched OpenRLHF.
        self._mailbox: ActorHandle | None = None
        if ray.is_initialized():
            with suppress(ValueError):
                self._mailbox = ray.get_actor(NAME)

    @property
    def are_heard(self) -> bool:
        """Whether a driver listens."""
        return self._mailbox is not None

    def send(self, kind: str, **fields: Any) -> None:
        """Send an event. Events of one worker arrive in order.

        Args:
            kind: `phase` (text, and long if it may take minutes), `step` (step, metrics), `eval` (step, metrics),
                `samples` (step, samples), `sync` (metrics), `checkpoint` (after a save: tag, step, error,
                blocked_seconds, seconds, bytes), `training` (the workers are up; step, after which the run continues),
                `engine` (index, state "starting", "up" or "failed", text and, if it failed, log) or `notice` (text).
                `step` and `samples` also have `again` if the driver may already have received them.
            fields: its content, plain Python values.
        """
        if self._mailbox is not None:
            self._mailbox.put.remote({"kind": kind, **fields})

    def send_now(self, kind: str, **fields: Any) -> None:
        """Like `send`, for a process that is about to exit: wait up to 10 s for the event to arrive."""
        import ray

        if self._mailbox is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._mailbox.put.remote({"kind": kind, **fields}), timeout=10)

    def register(self, role: str, rank: int = 0) -> None:
        """Register the handle of the calling Ray actor.

        Args:
            role: `policy` or `trainer`.
            rank: the actor's rank.
        """
        import ray

        if self._mailbox is not None:
            # Pickled here: otherwise the mailbox would import the actor's class, and the worker would wait seconds for
            # it.
            handle = ray.cloudpickle.dumps(ray.get_runtime_context().current_actor)
            ray.get(self._mailbox.register.remote(role, rank, handle))

    def policy(self) -> list[Any]:
        """The handles of the policy's ranks, in order; empty if no driver listens."""
        return [] if self._mailbox is None else workers(self._mailbox, "policy")

    def beat(self, rank: int, state: dict[str, Any]) -> None:
        """Send a policy rank's heartbeat; see `heartbeat.Heartbeat`."""
        if self._mailbox is not None:
            self._mailbox.beat.remote(rank, state)

    def stop_requested(self) -> bool:
        """Whether the run should stop as soon as it can do so without losing work."""
        import ray

        return self._mailbox is not None and bool(ray.get(self._mailbox.stop_requested.remote()))


class Mailbox:
    """Holds events until the driver takes them.

    A plain actor: Ray executes the calls of one worker in order. It does not promise that for `ray.util.queue.Queue`,
    whose actor is asynchronous: evaluations were seen to overtake the preceding step.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Discard everything: another run begins."""
        self._events: list[dict[str, Any]] = []
        self._workers: dict[tuple[str, int], bytes] = {}
        self._beats: dict[int, dict[str, Any]] = {}
        self._stop = False

    def put(self, event: dict[str, Any]) -> None:
        """Store an event."""
        self._events.append(event)

    def beat(self, rank: int, state: dict[str, Any]) -> None:
        """Store a rank's newest heartbeat."""
        self._beats[rank] = state

    def take(self) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
        """All events since the last call, and the newest heartbeats of ranks that sent any."""
        events, self._events = self._events, []
        beats, self._beats = self._beats, {}
        return events, beats

    def register(self, role: str, rank: int, handle: bytes) -> None:
        """Store a worker's pickled handle."""
        self._workers[role, rank] = handle

    def workers(self, role: str) -> list[bytes]:
        """The handles of a role, by rank; see `workers`."""
        return [self._workers[key] for key in sorted(self._workers) if key[0] == role]

    def request_stop(self) -> None:
        """Ask the run to stop."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stop


def workers(mailbox: "ActorHandle", role: str) -> list[Any]:
    """The handles of a role in a mailbox, by rank."""
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
