"""Why a run failed, in one line, and whether a restart could help."""

import pickle
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from torch.distributed import DistBackendError

from openrlhf_sfpo.cluster.error_text import exception_line, summary
from openrlhf_sfpo.cluster.failures import details, failed_to_start, reason
from openrlhf_sfpo.cluster.recovery import Repetitions, may_recover
from openrlhf_sfpo.cluster.worker_logs import last_line, why_engine_failed
from openrlhf_sfpo.orchestration.engine_starts import start_error
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.run_errors import EngineStartFailed, StepHung, WeightSyncFailed, WorkerLost

FRAMES = '  File "/site/thing.py", line 7, in start\n    return wanted[key]\n           ~~~~~~^^^^^\n'


def raised_in_a_worker(error: Exception, name: str = "PolicyActor.fit") -> RayTaskError:
    text = f"\x1b[36mray::{name}()\x1b[39m (pid=7, ip=10.0.0.1)\n{FRAMES}{type(error).__name__}: {error}"
    return RayTaskError(name, text, error, pid=7, ip="10.0.0.1")


def died(pid: int = 41, name: str = "PolicyActor") -> ActorDiedError:
    message = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: ..."
    )
    context = ActorDiedErrorContext(
        error_message=message, class_name=name, actor_id=b"a" * 16, pid=pid, node_ip_address="10.0.0.1"
    )
    return ActorDiedError(context)


class Unsendable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle")


PYDANTIC = (
    "1 validation error for ModelConfig\n  Value error, max_model_len (96) is greater than 64. To allow it, set X=1. "
    "[type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]\n    For further information visit http"
)
REWARD = (
    f"The reward function mine.py failed:\nTraceback (most recent call last):\n{FRAMES}KeyError: 'no such problem'\n"
)


class RewardFailure(RuntimeError):
    __module__ = "openrlhf_sfpo.orchestration.engine"


def in_a_constructor(error: Exception) -> Exception:
    return ActorDiedError(raised_in_a_worker(error, "RolloutEngine.__init__"))


DENIED = PermissionError(13, "Permission denied", "/root")
GLOO = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
KILLED_CORE = RuntimeError("Engine core failed. Failed core proc(s): {'EngineCore': -9}")
# What is raised, a part of the line that it becomes, and whether another start may help.
REASONS = [
    (ValueError("wrong shape\nhere: 3"), "ValueError: wrong shape", False),
    (MemoryError(), "MemoryError", False),
    (RuntimeError("CUDA error:\nout of memory\nfoo"), "RuntimeError: CUDA error: out of memory", False),
    (raised_in_a_worker(KeyError("x")), "KeyError: 'x'", False),
    (raised_in_a_worker(raised_in_a_worker(OSError("full"))), "OSError: full", False),
    (raised_in_a_worker(ValueError("x")).as_instanceof_cause(), "ValueError: x", False),
    (raised_in_a_worker(Unsendable("odd")), "Unsendable: odd", False),
    (raised_in_a_worker(RewardFailure(REWARD)), "The reward function mine.py failed: KeyError: 'no such", False),
    (in_a_constructor(DENIED), "PermissionError: [Errno 13] Permission denied: '/root'", False),
    (in_a_constructor(ValueError(PYDANTIC)), "ValueError: max_model_len (96) is greater than 64. To allow", False),
    (raised_in_a_worker(in_a_constructor(ImportError("no cv2"))), "ImportError: no cv2", False),
    (in_a_constructor(KILLED_CORE), "process", True),
    (died(), "the process of PolicyActor (process 41 on 10.0.0.1) ended unexpectedly: it was killed", True),
    (ActorUnavailableError("gone", b"a" * 16), "", True),
    (WorkerCrashedError(), "", True),
    (OutOfMemoryError("memory"), "OutOfMemoryError: memory", True),
    (raised_in_a_worker(GLOO), "RuntimeError: [gloo", True),
    (raised_in_a_worker(DistBackendError("NCCL error: remote process exited")), "DistBackendError: NCCL error", True),
    (raised_in_a_worker(RuntimeError("NCCL is not compiled in")), "RuntimeError: NCCL is not compiled in", False),
    (RuntimeError("the server said: Connection reset by peer"), "RuntimeError: the server said", False),
    (StepHung("no rank made progress"), "no rank made progress", True),
    (raised_in_a_worker(WeightSyncFailed("an engine died")), "an engine died", True),
    (raised_in_a_worker(EngineStartFailed("engine 0 could not start: no")), "engine 0 could not start: no", False),
    (raised_in_a_worker(WorkerLost("engine 0 could not restart")), "engine 0 could not restart", True),
    (ValueError("long " * 1000), "long long", False),
    (UsageError("--a", "is 1.", "Use 2."), "--a: is 1. Use 2.", False),
]


@pytest.mark.parametrize(("error", "line", "passes"), REASONS)
def test_one_line_of_reason(error: Exception, line: str, passes: bool) -> None:
    found = reason(error)
    assert line in found
    assert "\n" not in found
    assert "\x1b" not in found
    assert len(found) < 500
    assert may_recover(error) == passes


def test_only_the_users_own_traceback_is_shown() -> None:
    shown = details(raised_in_a_worker(RewardFailure(REWARD)))
    assert shown[0] == "Traceback (most recent call last):"
    assert shown[-1] == "KeyError: 'no such problem'"
    assert details(raised_in_a_worker(ValueError("a\nb"))) == []


def test_exceptions_raised_while_another_was_handled() -> None:
    between = "During handling of the above exception, another exception occurred:"
    text = f"KeyError: 1\n\n{between}\n\n{FRAMES}my.Error: two\nmore"
    assert exception_line(text) == "Error: two"
    assert exception_line(f"{FRAMES}ValueError") == "ValueError"
    assert exception_line("nothing of the kind") == "nothing of the kind"
    assert exception_line("") == "unknown reason"
    assert summary("\n\n  first\nsecond") == "first"
    assert summary("") == ""


def test_an_engine_that_cannot_start_and_one_that_was_killed() -> None:
    refused = start_error(1, in_a_constructor(EngineStartFailed("engine 1 could not start: ValueError: too long")))
    assert isinstance(refused, EngineStartFailed)
    assert str(refused) == "engine 1 could not start: ValueError: too long"
    other = start_error(0, in_a_constructor(OSError("No space left on device")))
    assert str(other) == "engine 0 could not start: OSError: No space left on device"
    killed = start_error(0, died(name="RolloutEngine"))
    assert isinstance(killed, WorkerLost)
    assert not failed_to_start(died())
    assert failed_to_start(in_a_constructor(ValueError("x")))


def test_a_lost_machine_does_not_end_the_run() -> None:
    lost = died()
    lost.error_msg = lost.error_msg.replace("its worker process has died", "its node has died")
    assert reason(lost).endswith("its machine is gone")
    repetitions = Repetitions()
    assert not any(repetitions.again(lost, step=3) for _ in range(3)), "another one may be preempted, too"


def test_the_same_death_without_progress() -> None:
    repetitions = Repetitions()
    assert not repetitions.again(died(pid=41), step=3)
    assert repetitions.again(died(pid=97), step=3), "the process number is another one, the death is not"
    assert not repetitions.again(died(), step=4), "a step was finished"
    assert not repetitions.again(died(name="RolloutEngine"), step=4)
    assert not repetitions.again(StepHung("hangs"), step=4)
    assert not repetitions.again(StepHung("hangs"), step=4), "a network may come back"
    assert not repetitions.again(died(name="RolloutEngine"), step=4)


PREFIX = "(EngineCore pid=812) ERROR 11-26 01:00:00 [core.py:1374] "
CORE = "\n".join(
    [
        "INFO 11-26 00:59:59 [core.py:90] Initializing a V1 LLM engine",
        "Loading safetensors checkpoint shards: 100% Completed | 1/1",
        f"{PREFIX}EngineCore failed to start.",
        f"{PREFIX}Traceback (most recent call last):",
        *(PREFIX + line for line in FRAMES.splitlines()),
        f"{PREFIX}ValueError: No available memory for the cache blocks.",
        "(EngineCore pid=812) Process EngineCore:",
        "(EngineCore pid=812) Traceback (most recent call last):",
        '(EngineCore pid=812)   File "/site/multiprocessing.py", line 1, in run',
        "(EngineCore pid=812) RuntimeError: something that follows from it",
    ]
)
WORKER = (
    CORE.replace("EngineCore failed", "WorkerProc failed").replace("EngineCore", "Worker_TP0")
    + "\n"
    + CORE.replace(
        "No available memory for the cache blocks.",
        "WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.",
    )
)
CRASH = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x0001 (most recent call first):\n"


POINTER = "Engine core initialization failed. See root cause above."
NO_MEMORY = "ValueError: No available memory for the cache blocks."


@pytest.mark.parametrize(
    ("raised", "printed", "why"),
    [
        (POINTER, CORE, NO_MEMORY),
        (POINTER, WORKER, NO_MEMORY),
        (POINTER, CRASH, f"RuntimeError: {POINTER}"),
        (POINTER, "", f"RuntimeError: {POINTER}"),
        (PYDANTIC, CORE, "RuntimeError: max_model_len (96) is greater than 64."),
    ],
    ids=["in its process", "in a worker of it", "crash", "nothing printed", "before its process"],
)
def test_an_engines_failure_reason_is_from_its_own_process(raised: str, printed: str, why: str) -> None:
    assert why_engine_failed(RuntimeError(raised), ["", printed]).startswith(why)


def test_an_engine_whose_process_was_killed() -> None:
    why = why_engine_failed(RuntimeError(f"{POINTER} Failed core proc(s): {{'EngineCore': -9}}"), [CORE])
    assert why == "its process was killed by signal 9; the machine may have run out of memory"
    assert isinstance(
        start_error(0, in_a_constructor(EngineStartFailed(f"engine 0 could not start: {why}"))), WorkerLost
    )


def test_the_last_message_of_an_engine() -> None:
    text = f":job_id:01\n{PREFIX}Loading weights took 3.2 seconds\n\n:actor_name:RolloutEngine\n"
    assert last_line(text) == "Loading weights took 3.2 seconds"
    assert len(last_line("x" * 500)) == 120
    assert last_line("") == ""


def test_usage_errors_of_a_worker_arrive_complete() -> None:
    error = pickle.loads(pickle.dumps(UsageError("--a", "is 1.", "Use 2.")))
    assert (error.flag, error.problem, error.fix) == ("--a", "is 1.", "Use 2.")
