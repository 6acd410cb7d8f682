"""The vLLM engines of a run: their health, sleep and restarts, and the delivery of weights to them."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import ray

from openrlhf_sfpo.cluster.failures import failed_to_start
from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.cluster.nodes import kill_on
from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.orchestration.engine_starts import start_error
from openrlhf_sfpo.rollout.engine_handle import EngineHandle
from openrlhf_sfpo.system.run_errors import WeightSyncFailed, WorkerLost

T = TypeVar("T")

_RESTARTS_PER_BATCH = 3


class EnginePool:
    """Monitors a run's engines, restarts them, puts them to sleep, and sends them requests and weights.

    Ray restarts a dead actor under its handle, which stays valid. This class kills a hung engine with its child
    processes, waits for the restart, and makes the policy reconnect and send its weights.

    Args:
        engines: the handles.
        timeout: seconds within which a started engine must answer.
        events: receives reports; also has the policy's handles.
        sleeps: whether idle engines sleep (--vllm.enable_sleep).
        start_timeout: seconds within which an engine must start.
    """

    def __init__(
        self,
        engines: list[EngineHandle],
        timeout: float,
        events: Events,
        sleeps: bool = False,
        start_timeout: float = 1800.0,
    ) -> None:
        self._engines = engines
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._events = events
        self._sleeps = sleeps
        self._down: set[int] = set()
        self._asked: dict[int, tuple[Any, float]] = {}
        self._next_round = 0.0
        self._restarts = 0
        self._processes: dict[int, tuple[str, dict[int, float]]] = {}
        self._awake = False

    @classmethod
    def of(cls, engines: list[EngineHandle], args: NestedFlags, events: Events) -> "EnginePool":
        """A pool with the time limits and the sleep setting of the flags."""
        limits = args.rollout
        return cls(engines, limits.engine_timeout, events, args.vllm.enable_sleep, limits.engine_start_timeout)

    def send_weights(self, broadcast: Callable[[], None]) -> None:
        """Send the weights with `broadcast` or, if engines have failed since the rollouts, by restarting them."""
        self.check_all()
        if self.all_up:
            self.deliver(broadcast, resting=True)
        else:
            self.restore(resting=True)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Keep the engines awake while they are generating; may be nested."""
        if self._awake:
            yield
            return
        self.wake_up()
        self._awake = True
        try:
            yield
        finally:
            self._awake = False
            self.put_to_sleep()

    def answers(
        self, requests: list[T], dispatch: Callable[[int, list[T]], list[Any]], meanwhile: Callable[[], None]
    ) -> Iterator[Any]:
        """Send requests to the engines so that their loads even out, and yield the answers in the order in which they
        come.

        The unanswered requests of a failed engine wait until the other engines have answered; then all engines get the
        weights, and the requests are sent again.

        Args:
            requests: emptied here. What the caller appends to it between two answers is sent, too.
            dispatch: sends requests to the engine with this index, and returns Ray's reference to the answer of each.
            meanwhile: called after each answer, and at least once a second; may raise.
        """
        pending: dict[Any, tuple[int, T]] = {}
        self.check_all()
        while requests or pending:
            if requests and (not pending or self.all_up):
                if not self.all_up:
                    self.restore()
                self._send(requests, pending, dispatch)
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
            for ref in ready:
                index, request = pending.pop(ref)
                try:
                    answer = ray.get(ref)
                except Exception as error:
                    if not is_engine_failure(error):
                        raise
                    self.failed(index, error)
                    requests.append(request)
                else:
                    yield answer
            self.check()
            meanwhile()
        self._restarts = 0

    def _send(
        self, requests: list[T], pending: dict[Any, tuple[int, T]], dispatch: Callable[[int, list[T]], list[Any]]
    ) -> None:
        """Move the requests to the pending ones. Those for an engine that turns out to be dead stay."""
        load = Counter(index for index, _ in pending.values())
        shares: dict[int, list[T]] = {index: [] for index in range(len(self._engines))}
        for request in requests:
            index = min(shares, key=lambda one: load[one])
            load[index] += 1
            shares[index].append(request)
        requests.clear()
        for index, share in shares.items():
            try:
                for ref, request in zip(dispatch(index, share), share, strict=True):
                    pending[ref] = (index, request)
            except Exception as error:
                if not is_engine_failure(error):
                    raise
                self.failed(index, error)
                requests += share

    @property
    def all_up(self) -> bool:
        """Whether no engine is known to be down."""
        return not self._down

    def check_all(self) -> None:
        """Send each engine a heartbeat request and wait for the answers, before the engines are needed.

        Raises:
            EngineStartFailed: an engine that has never been up could not start.
        """
        up = [index for index in range(len(self._engines)) if index not in self._down]
        # An engine's processes are requested once, after its start, which may take long.
        waits = [self._timeout if index in self._processes else self._start_timeout for index in up]
        questions = {
            index: (self._engines[index].heartbeat if index in self._processes else self._engines[index].processes)
            for index in up
        }
        asked = {index: question.remote() for index, question in questions.items()}
        for index, wait in zip(up, waits, strict=True):
            try:
                answer = ray.get(asked[index], timeout=wait)
                if index in self._processes:
                    self._heard(index, answer)
                else:
                    self._processes[index] = answer
            except ray.exceptions.GetTimeoutError:
                self._hangs(index, wait)
            except Exception as error:
                if not is_engine_failure(error):
                    raise
                if failed_to_start(error) and index not in self._processes:
                    raise start_error(index, error) from None
                self.failed(index, error)

    def failed(self, index: int, error: Exception) -> None:
        """Record that a call to an engine failed with an error for which `is_engine_failure` is true."""
        if index not in self._down:
            self._say(index, f"died ({_reason(error)})")
            self._end(index)

    def check(self) -> None:
        """Send heartbeat requests at intervals; kill engines that have not answered for too long."""
        now = time.monotonic()
        for index, (ref, since) in list(self._asked.items()):
            if ray.wait([ref], timeout=0)[0]:
                del self._asked[index]
                try:
                    self._heard(index, ray.get(ref))
                except Exception as error:
                    if not is_engine_failure(error):
                        raise
                    self.failed(index, error)
            elif now - since > self._timeout:
                self._hangs(index, self._timeout)
        if now >= self._next_round:
            self._next_round = now + self._timeout / 5
            for index, engine in enumerate(self._engines):
                if index not in self._down and index not in self._asked:
                    self._asked[index] = (engine.heartbeat.remote(), now)

    def _heard(self, index: int, process: int) -> None:
        """Record an answer to a heartbeat request. If another process than the known one answered, the engine died and
        Ray restarted it unnoticed, with the weights of the model directory."""
        known = self._processes.get(index)
        if known is not None and process not in known[1]:
            self._say(index, "died (its process is gone)")
            self._end(index, is_restarted=True)

    def wake_up(self) -> None:
        """Bring all engines up and wake them, with the current weights. Does nothing if engines do not sleep."""
        if not self._sleeps:
            return
        self.check_all()
        while True:
            if self._down:
                self.restore()
            # Wake the weights before the cache: while they are sent, the actor needs memory, too.
            lacking = self._ask_all("wake_up", tags=["weights"]) and self._ask_all("lacks_weights")
            if any(lacking):
                self.deliver(lambda: ray.get([rank.send_weights_again.remote() for rank in self._policy()]))
            if lacking and not self._down and self._ask_all("wake_up"):
                return

    def put_to_sleep(self) -> None:
        """Free the engines' memory, if they sleep. An engine that fails here is restarted when it is needed."""
        if self._sleeps:
            self._ask_all("sleep")

    def deliver(self, send: Callable[[], Any], resting: bool = False) -> None:
        """Send the weights to all engines; restart engines that die or hang meanwhile, and send them the weights, too.

        Args:
            send: sends the weights.
            resting: whether the engines are between two rollouts.
        """
        try:
            send()
        except Exception as error:
            cause = getattr(error, "cause", error)
            if isinstance(cause, WeightSyncFailed):
                self._events.send("notice", text=str(cause))
            elif not is_engine_failure(error):
                raise
            self.check_all()
            if not self._down:
                raise
            self.restore(resting)

    def restore(self, resting: bool = False) -> None:
        """Wait until the engines that are down are up again, and send all engines the current weights.

        All engines must be idle. Afterwards the weights of all engines are awake, and the cache of restarted engines
        unless they are resting.

        Args:
            resting: whether the engines are between two rollouts.

        Raises:
            WorkerLost: engines keep failing, or one does not restart; the run must restart.
            RuntimeError: there is no policy to send weights.
        """
        policy = self._policy()
        self._restarts += 1
        if self._restarts > _RESTARTS_PER_BATCH:
            raise WorkerLost(f"vLLM engines failed {self._restarts} times without finishing a rollout batch")
        started = time.monotonic()
        for index in sorted(self._down):
            self._processes[index] = self._wait_for(index)
            if self._sleeps and resting:
                ray.get(self._engines[index].sleep.remote())
        if self._sleeps:
            ray.get([engine.wake_up.remote(tags=["weights"]) for engine in self._engines])
        ray.get([rank.reconnect_engines.remote() for rank in policy])
        seconds = time.monotonic() - started
        names = ", ".join(str(index) for index in sorted(self._down))
        self._events.send("notice", text=f"engine {names} is up again with the current weights after {seconds:.0f} s")
        self._down.clear()

    def _policy(self) -> list[Any]:
        policy = self._events.policy()
        if not policy:
            raise RuntimeError("a vLLM engine needs the weights again, and this actor cannot send them")
        return policy

    def _ask_all(self, method: str, **arguments: Any) -> list[Any]:
        """Call a method of all engines; return the answers, or an empty list if one failed, which is recorded."""
        asked = [getattr(engine, method).remote(**arguments) for engine in self._engines]
        answers = []
        for index, ref in enumerate(asked):
            try:
                answers.append(ray.get(ref, timeout=self._timeout))
            except ray.exceptions.GetTimeoutError:
                self._hangs(index, self._timeout)
            except Exception as error:
                if not is_engine_failure(error):
                    raise
                self.failed(index, error)
        return answers if len(answers) == len(asked) else []

    def _wait_for(self, index: int) -> tuple[str, dict[int, float]]:
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            try:
                return ray.get(self._engines[index].processes.remote(), timeout=max(1.0, deadline - time.monotonic()))
            except ray.exceptions.GetTimeoutError:
                break
            except ray.exceptions.ActorUnavailableError:  # Ray has not restarted it yet
                time.sleep(1.0)
            except ray.exceptions.RayActorError as error:
                raise WorkerLost(
                    str(start_error(index, error)).replace("could not start:", "could not restart:")
                ) from None
        raise WorkerLost(
            f"engine {index} has not restarted within {self._start_timeout:.0f} s (--rollout.engine_start_timeout)"
        )

    def _hangs(self, index: int, seconds: float) -> None:
        flag = "engine_timeout" if index in self._processes else "engine_start_timeout"
        self._say(index, f"has not answered for {seconds:.0f} s (--rollout.{flag})")
        self._end(index)

    def _end(self, index: int, is_restarted: bool = False) -> None:
        """Kill an engine with all its processes; Ray restarts it unless it already has."""
        self._down.add(index)
        self._asked.pop(index, None)
        if not is_restarted:
            ray.kill(cast("ray.actor.ActorHandle[Any]", self._engines[index]), no_restart=False)
        node, processes = self._processes.pop(index, ("", {}))
        if node:
            kill_on(node, processes)

    def _say(self, index: int, what: str) -> None:
        self._events.send(
            "notice",
            text=f"engine {index} {what}; restarting it with the current weights and sending its prompts again",
        )


def is_engine_failure(error: BaseException) -> bool:
    """Whether an engine is dead, as opposed to having refused a request. vLLM raises EngineDeadError when its engine
    process died while the Ray actor lives."""
    if isinstance(error, ray.exceptions.RayActorError):
        return True
    vllm = sys.modules.get("vllm.v1.engine.exceptions")  # loaded if such an error occurred
    return vllm is not None and isinstance(getattr(error, "cause", error), vllm.EngineDeadError)


def _reason(error: Exception) -> str:
    if isinstance(error, ray.exceptions.RayActorError):
        return "its process is gone"
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
