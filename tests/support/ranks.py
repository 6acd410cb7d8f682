"""Rank processes, forked for each job from a process that has done the imports, which take seconds."""

import contextlib
import faulthandler
import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

import pytest

from openrlhf_sfpo.system.ports import free_port

# Seconds that importing everything and compiling DeepSpeed's Adam may take on a slow machine.
PREPARATION_S = 420


def import_megatron() -> None:
    importlib.import_module("openrlhf_sfpo.megatron.actor")
    importlib.import_module("openrlhf_sfpo.megatron.train.loss")


class RankFailure(AssertionError):
    """One or more ranks raised; the message has their tracebacks."""


class RankPool:
    """Runs a function on `world_size` new processes joined by gloo.

    They are forked from a process that has done the imports and nothing else, no threads and no collectives. Each job
    has its own processes, because DeepSpeed, Megatron and PyTorch leave state in their modules.

    Args:
        prepare: imports what all jobs need; importable itself.
        checked: check the tensors' shapes that our annotations give, and let flash-attn be missing.
    """

    def __init__(self, prepare: Callable[[], None] = import_megatron, checked: bool = True) -> None:
        self._prepare, self._checked = prepare, checked
        self._template: tuple[Any, Connection] | None = None
        self._unprepared = ""  # why there are no ranks; repeated to every later test, which would wait as long

    def run(self, world_size: int, function: Callable[..., Any], *args: Any, timeout: float = 240.0) -> list[Any]:
        """Call function(*args) on every rank; return what each rank returned.

        The function must be importable (module level) and what it returns picklable.
        """
        pipe = self._started()
        pipe.send((world_size, free_port(), timeout, function, args))
        answers: dict[int, Any] = {}
        failures: list[str] = []
        deadline = time.monotonic() + timeout
        while len(answers) < world_size:
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                missing = ", ".join(str(rank) for rank in range(world_size) if rank not in answers)
                failures.append(f"rank(s) {missing} did not answer" + ("" if failures else f" within {timeout} s"))
                break
            rank, answer = pipe.recv()
            ok, answers[rank] = pickle.loads(answer) if answer else (False, "died")
            if not ok:
                failures.append(f"rank {rank}:\n{answers[rank]}")
                # The others wait for this one, perhaps for long.
                deadline = min(deadline, time.monotonic() + 5)
        if failures:
            self.close()  # ranks may still be at work
            raise RankFailure("\n".join(failures))
        return [answers[rank] for rank in range(world_size)]

    def close(self) -> None:
        if self._template is None:
            return
        process, pipe = self._template
        pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all ranks
        process.join()
        self._template = None

    def _started(self) -> Connection:
        if self._unprepared:
            raise RankFailure(self._unprepared)
        if self._template is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, list(sys.path), self._prepare, self._checked), daemon=True
            )
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("OMP_NUM_THREADS", "1")  # read when torch is imported
                process.start()
            theirs.close()
            self._template = process, ours
            self._wait_until_prepared(ours)
        return self._template[1]

    def _wait_until_prepared(self, pipe: Connection) -> None:
        if not pipe.poll(PREPARATION_S):
            self._unprepared = f"the imports of the rank processes did not end within {PREPARATION_S} s"
        else:
            try:
                self._unprepared = pipe.recv()
            except EOFError:
                self._unprepared = "the process that does the imports of the rank processes died"
        if self._unprepared:
            self.close()
            raise RankFailure(self._unprepared)


def _serve(pipe: Connection, path: list[str], prepare: Callable[[], None], checked: bool) -> None:
    import warnings

    os.setpgid(0, 0)
    sys.path[:] = path
    if checked:
        stub = importlib.import_module("openrlhf_sfpo.system.flash_attn_stub")
        stub.install_if_missing()  # as in Ray's workers: OpenRLHF imports flash_attn
    warnings.filterwarnings("ignore")
    faulthandler.dump_traceback_later(PREPARATION_S - 5)  # shows where it hangs
    try:
        prepare()
        if checked:
            importlib.import_module("shapes").install()
    except BaseException:
        pipe.send(traceback.format_exc())
        return
    faulthandler.cancel_dump_traceback_later()
    pipe.send("")
    gc.freeze()  # otherwise each collection in a rank would traverse all imports
    while True:
        try:
            world_size, port, timeout, function, args = pipe.recv()
        except EOFError:
            return
        os.environ.update(WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        ranks: dict[Any, tuple[int, int]] = {}
        for rank in range(world_size):
            answers, theirs = multiprocessing.Pipe(duplex=False)
            pid = os.fork()
            if not pid:
                faulthandler.dump_traceback_later(timeout - 5)
                _run(theirs, rank, function, args)
            theirs.close()
            ranks[answers] = rank, pid
        while ranks:
            ready: list[Any] = wait(list(ranks))
            for ended in ready:
                rank, pid = ranks.pop(ended)
                try:
                    answer = ended.recv_bytes()
                except EOFError:
                    answer = b""
                os.waitpid(pid, 0)
                pipe.send((rank, answer))


def _run(pipe: Connection, rank: int, function: Callable[..., Any], args: tuple[Any, ...]) -> NoReturn:
    os.environ["RANK"] = str(rank)
    try:
        answer = (True, function(*args))
    except BaseException:
        answer = (False, traceback.format_exc())
    try:
        pipe.send_bytes(pickle.dumps(answer))  # by value: `send` would leave tensors in this process's memory
    finally:
        os._exit(0)  # must not clean up what is the parent's
