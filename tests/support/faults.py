"""Real faults: processes of a run that kill or stop themselves, each other, or the whole run.

`python faulty_train.py ARGUMENTS` is `openrlhf-sfpo train ARGUMENTS` whose workers read the variable FAULTS, a JSON
list. Each fault has `at` (the phase in which it happens), `do` (below), and optionally `nth` (which entry into
the phase, counted per start of the run), `rank` (default 0) and `delay` (seconds into the phase, in a thread).
"""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.orchestration.megatron_actor import PolicyActor
from openrlhf_sfpo.orchestration.trainers import Trainer


class Faults:
    """Counts phases and makes the faults of this process, each once, even across restarts of the run."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._seen: dict[str, int] = {}

    def enter(self, phase: str) -> None:
        self._seen[phase] = self._seen.get(phase, 0) + 1
        for number, fault in enumerate(json.loads(os.environ.get("FAULTS", "[]"))):
            if (fault["at"], fault.get("nth", 1), fault.get("rank", 0)) == (phase, self._seen[phase], self._rank):
                marker = Path(os.environ["FAULTS_DONE"]) / f"{number}"
                if not marker.exists():
                    marker.touch()
                    make(fault)


def make(fault: dict[str, Any]) -> None:
    action = {"kill_all": kill_all, "kill_self": kill_self, "stop_self": stop_self, "sigterm": sigterm}.get(fault["do"])
    if action is None:
        kind, _, name = fault["do"].partition(" ")
        signal_number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[kind]

        def action() -> None:
            (process,) = [one for one in run_processes() if name in " ".join(one.cmdline())]
            process.send_signal(signal_number)

    if "delay" in fault:
        threading.Timer(fault["delay"], action).start()
    else:
        action()


def run_processes() -> list[psutil.Process]:
    """All of the run's processes except its driver."""
    return psutil.Process(int(os.environ["FAULTS_DRIVER"])).children(recursive=True)


def kill_all() -> None:
    """Kill everything at once, as a power failure does."""
    processes = [psutil.Process(int(os.environ["FAULTS_DRIVER"])), *run_processes()]
    for process in processes:
        if process.pid != os.getpid() and process.is_running():
            process.send_signal(signal.SIGSTOP)  # no process may clean up while others die
    for process in processes:
        if process.pid != os.getpid() and process.is_running():
            process.kill()
    kill_self()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop_self() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sigterm() -> None:
    os.kill(int(os.environ["FAULTS_DRIVER"]), signal.SIGTERM)


class FaultyPolicy(PolicyActor):
    """The policy, with faults at its phases."""

    def _stage(self, text: str) -> None:
        super()._stage(text)
        if not hasattr(self, "_faults"):
            self._faults = Faults(self._rank)
        self._faults.enter(text)


class _FaultyEvents(Events):
    _faults = Faults(0)

    def send(self, kind: str, **fields: Any) -> None:
        super().send(kind, **fields)
        if kind == "phase":
            self._faults.enter(fields["text"])


class FaultyTrainer(Trainer):
    """The trainer, with faults at its phases."""

    def _events(self) -> Events:
        if not hasattr(self, "_event_sender"):
            self._event_sender = _FaultyEvents()
        return self._event_sender

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def wait_for(condition: Any, seconds: float) -> None:
    """Wait until condition() holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
