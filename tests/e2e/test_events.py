"""Events of a worker must reach the driver in order, and the driver must act on them."""

import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from openrlhf_sfpo.cluster.failures import failed_to_start, reason, root_of
from openrlhf_sfpo.cluster.mailbox import Events, mailbox
from openrlhf_sfpo.cluster.recovery import may_recover
from openrlhf_sfpo.cluster.watchdog import Watchdog
from openrlhf_sfpo.orchestration.engine_pool import EnginePool
from openrlhf_sfpo.orchestration.engine_starts import EngineStarts, wait_until_started
from openrlhf_sfpo.report.console import Console
from openrlhf_sfpo.report.reading import read_metrics
from openrlhf_sfpo.report.run_writer import RunWriter
from openrlhf_sfpo.runs import listener as listening
from openrlhf_sfpo.runs.listener import Listener
from openrlhf_sfpo.system.run_errors import EngineStartFailed, WorkerLost
from openrlhf_sfpo.system.stopping import Stopping, StopRequested


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, address="local")
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Worker:
    """Sends events of steps and evaluations; the latter are so large that Ray moves them through its object store."""

    def tell(self, count: int) -> None:
        events = Events()
        for step in range(count):
            events.send("eval", step=step, metrics={"text": "x" * 300_000})
            Events().send("step", step=step, metrics={})

    def say(self, kind: str, **fields: Any) -> None:
        Events().send_now(kind, **fields)


def told(box: Any, count: int) -> list[tuple[int, str]]:
    """What arrives when a worker reports `count` steps. Sending does not wait, so this waits until all has arrived."""
    ray.get(Worker.remote().tell.remote(count))
    events: list[dict[str, Any]] = []
    deadline = time.monotonic() + 60
    while len(events) < 2 * count and time.monotonic() < deadline:
        events += ray.get(box.take.remote())[0]
    return [(event["step"], event["kind"]) for event in events]


def test_events_arrive_in_order(local_ray: None) -> None:
    with mailbox() as box:
        assert told(box, 50) == [(step, kind) for step in range(50) for kind in ("eval", "step")]
    with mailbox() as box:  # the name is free again
        assert told(box, 1) == [(0, "eval"), (0, "step")]


@ray.remote(num_cpus=0)
class Actor:
    """Ends in the requested way."""

    def __init__(self, how: str = "") -> None:
        self.end(how)

    def end(self, how: str) -> None:
        if how == "raise":
            raise PermissionError(13, "Permission denied", "/root/.cache")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            os._exit(3)

    def ask(self, other: Any, how: str) -> None:
        ray.get(other.end.remote(how))


@pytest.mark.parametrize("nested", [False, True], ids=["asked", "asked by another actor"])
@pytest.mark.parametrize(
    ("constructor", "method", "line", "passes"),
    [
        ("raise", "", "PermissionError: [Errno 13] Permission denied: '/root/.cache'", False),
        ("", "raise", "PermissionError: [Errno 13] Permission denied: '/root/.cache'", False),
        ("kill", "", "ended unexpectedly: it was killed, ran out of memory, or crashed", True),
        ("", "kill", "ended unexpectedly: it was killed, ran out of memory, or crashed", True),
    ],
)
def test_failures_as_ray_raises_them(
    local_ray: None, constructor: str, method: str, line: str, passes: bool, nested: bool
) -> None:
    actor = Actor.remote(constructor)
    with pytest.raises(ray.exceptions.RayError) as raised:
        ray.get(Actor.remote().ask.remote(actor, method) if nested else actor.end.remote(method))
    assert line in reason(raised.value)
    assert may_recover(raised.value) == passes
    assert failed_to_start(root_of(raised.value)) == (constructor == "raise")


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class Engine:
    """Answers what is asked of an engine's process, without vLLM. It takes a while to start, as vLLM does."""

    def __init__(self, seconds: float, refuses: str = "") -> None:
        time.sleep(seconds)
        if refuses and Path(refuses).exists():
            raise OSError("no memory left")

    def heartbeat(self) -> int:
        return os.getpid()

    def processes(self) -> tuple[str, dict[int, float]]:
        return ray.get_runtime_context().get_node_id(), {os.getpid(): psutil.Process().create_time()}

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@ray.remote(num_cpus=0)
class Policy:
    """A rank to which engines can be reconnected."""

    def __init__(self) -> None:
        Events().register("policy")

    def reconnect_engines(self) -> None:
        pass


def dead(engine: Any) -> None:
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(engine.die.remote())


def test_slow_starts_are_not_hangs_and_silent_restarts_are_noticed(local_ray: None, tmp_path: Path) -> None:
    refuses = tmp_path / "refuses"
    with mailbox() as box:
        policy = Policy.remote()
        engines = [Engine.remote(4.0), Engine.remote(0.0, str(refuses))]
        looked: list[None] = []
        wait_until_started(engines, 600.0, lambda: looked.append(None))
        assert looked
        care = EnginePool([Engine.remote(4.0), *engines[1:]], 2.0, Events(), start_timeout=600.0)
        care.check_all()
        assert care.all_up, "starting took longer than an answer may take"
        dead(engines[1])
        until(lambda: is_up(engines[1]))
        care.check_all()
        assert not care.all_up, "it has the model's first weights"
        care.restore()
        care.check_all()
        assert care.all_up
        refuses.touch()
        dead(engines[1])
        care.check_all()
        with pytest.raises(WorkerLost, match="engine 1 could not restart: OSError: no memory left"):
            care.restore()
        said = [event["text"] for event in ray.get(box.take.remote())[0]]
        assert said[0].startswith("engine 1 died (its process is gone); restarting it with the current weights")
        assert said[1].startswith("engine 1 is up again with the current weights")
        ray.kill(policy)


def is_up(engine: Any) -> bool:
    try:
        return ray.get(engine.heartbeat.remote()) > 0
    except ray.exceptions.RayActorError:
        return False


@pytest.mark.parametrize(
    ("start", "timeout", "error", "words"),
    [
        (
            {"seconds": 0.0, "refuses": os.devnull},
            600.0,
            EngineStartFailed,
            "engine 0 could not start: OSError: no memory",
        ),
        ({"seconds": 600.0}, 0.5, EngineStartFailed, r"has not started within 0 s \(--rollout.engine_start_timeout\)"),
    ],
    ids=["refuses", "takes too long"],
)
def test_engines_that_do_not_start(local_ray: None, start: Any, timeout: float, error: type, words: str) -> None:
    engine = Engine.remote(**start)
    with pytest.raises(error, match=words):
        wait_until_started([engine], timeout)
    ray.kill(engine)


class Heard:
    """A listener with everything it needs."""

    def __init__(self, directory: Path, stopping: Stopping, **options: Any) -> None:
        (directory / "logs").mkdir(exist_ok=True)
        self.stream = io.StringIO()
        watchdog = Watchdog(3600.0, directory / "logs" / "stacks.txt", lambda rank, beat: "")
        writer = RunWriter(directory, {})
        console = Console(self.stream)
        self.listener = Listener(watchdog, writer, console, stopping, 9, 60.0, **options)

    @property
    def shown(self) -> str:
        return self.stream.getvalue()


def test_errors_do_not_stop_the_listener_and_the_end_of_the_mailbox_ends_the_run(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listening, "_DEAF", 2.0)
    stopping = Stopping()
    heard = Heard(tmp_path, stopping)
    worker = Worker.remote()
    with mailbox() as box, stopping.installed(), stopping.deferred():
        with pytest.raises(StopRequested), heard.listener.listening(box):
            ray.get(worker.say.remote("step", step="not a number", metrics=3))
            ray.get(worker.say.remote("notice"))
            ray.get(worker.say.remote("step", step=1, metrics={"rollout/reward_mean": 0.5}))
            until(lambda: "step 1/9" in heard.shown)
            ray.kill(box)
            time.sleep(60)
        assert "messages has been gone" in str(heard.listener.lost)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    assert "KeyError: 'text'" in capsys.readouterr().err


def test_a_stop_request_reaches_the_workers_once_training_has_begun(local_ray: None, tmp_path: Path) -> None:
    stopping = Stopping()
    heard = Heard(tmp_path, stopping)
    worker = Worker.remote()
    with mailbox() as box, stopping.installed(), stopping.deferred(), heard.listener.listening(box):
        ray.get(worker.say.remote("training", step=0))
        ray.get(worker.say.remote("phase", text="slow"))
        until(lambda: heard.listener._phase == "slow")
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: ray.get(box.stop_requested.remote()))
    assert "SIGTERM: finishing the step in progress and saving a checkpoint (up to 60 s" in heard.shown


def test_a_stop_before_training_ends_it_at_once(local_ray: None, tmp_path: Path) -> None:
    stopping = Stopping()
    heard = Heard(tmp_path, stopping)
    with mailbox() as box, stopping.installed(), stopping.deferred():  # noqa: SIM117
        with pytest.raises(StopRequested), heard.listener.listening(box):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(60)
    assert "SIGHUP: stopping before the first step; there is nothing to save" in heard.shown


STEP = {"kind": "step", "step": 4, "metrics": {}}
SAVED = {"kind": "checkpoint", "tag": "global_step4", "step": 4, "error": None, "bytes": 1, "seconds": 1.0,
         "blocked_seconds": 0.1}  # fmt: skip
TRAINING = {"kind": "training", "step": 0}


def phase(text: str) -> dict[str, Any]:
    return {"kind": "phase", "text": text}


@pytest.mark.parametrize(
    ("events", "continues_after", "follows"),
    [
        ([], 0, "stopping before the first step; there is nothing to save"),
        ([phase("loading")], 7, "stopping before the first step; there is nothing to save"),
        ([TRAINING, phase("evaluating on 9 prompts")], 0, "no step is finished yet, so there is nothing to save"),
        ([TRAINING, phase("rollout")], 0, "no step is finished yet, so there is nothing to save"),
        ([TRAINING, phase("rollout")], 7, "the checkpoint of step 7 is up to date"),
        ([TRAINING, phase("fast 1/2")], 0, "finishing the step in progress and saving a checkpoint (up to 60 s"),
        ([TRAINING, STEP, phase("rollout")], 0, "saving a checkpoint of step 4 (up to 60 s"),
        ([TRAINING, STEP, SAVED, phase("rollout")], 0, "the checkpoint of step 4 is up to date"),
        ([TRAINING, STEP, {**SAVED, "error": "disk full"}, phase("rollout")], 0, "saving a checkpoint of step 4"),
        ([TRAINING, STEP, phase("saving the model")], 0, "the training is over; saving the model"),
    ],
)
def test_outcomes_of_a_stop_request(events: list[Any], continues_after: int, follows: str, tmp_path: Path) -> None:
    heard = Heard(tmp_path, Stopping(), continues_after=continues_after)
    for event in events:
        heard.listener._handle(event)
    assert follows in heard.listener._what_follows()


def test_rollouts_and_updates_that_overlap(tmp_path: Path) -> None:
    listener = Heard(tmp_path, Stopping(), asynchronous=True).listener
    for event in (TRAINING, STEP, SAVED, phase("rollout")):
        listener._handle(event)
    assert "finishing the step in progress" in listener._what_follows()


def test_slow_engine_starts_are_reported_periodically(tmp_path: Path) -> None:
    now = [0.0]
    starts = EngineStarts(tmp_path, lambda: now[0])
    said = []
    for second in range(0, 1000, 10):
        now[0] = float(second)
        starts.handle({"index": 1, "state": "starting", "text": f"Loading weights: {second} %" if second < 500 else ""})
        said += [(second, line) for line in starts.progress()]
        if second == 100:
            starts.handle({"index": 0, "state": "starting", "text": ""})
            starts.handle({"index": 0, "state": "up", "text": ""})
    assert [second for second, _ in said] == [60, 120, 240, 480, 960]
    assert said[0][1] == "engine 1 is starting, for 60 s so far: Loading weights: 60 %"
    assert said[-1][1] == "engine 1 is starting, for 960 s so far: Loading weights: 490 %", "what it said last"
    starts.handle({"index": 1, "state": "failed", "text": "ValueError: no memory", "log": "all of it\n"})
    assert (
        starts.failure
        == f"engine 1 could not start: ValueError: no memory (what it printed is in {tmp_path}/engine1.log)"
    )
    assert (tmp_path / "engine1.log").read_text() == "all of it\n"
    now[0] = 5000.0
    assert starts.progress() == []
