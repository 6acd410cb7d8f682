"""Processes that play the ranks of a job, kept alive between tests because importing Megatron takes seconds."""

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

_PRELOADED = ("openrlhf_sfpo.megatron.actor", "openrlhf_sfpo.megatron.loss")


class RankFailure(AssertionError):
    """One or more ranks raised; the message has their tracebacks."""


class RankPool:
    """Runs a function on `world_size` processes joined by gloo; processes are started once and reused.

    Args:
        preloaded: modules that are imported once for all ranks.
    """

    def __init__(self, preloaded: tuple[str, ...] = _PRELOADED) -> None:
        # Ranks are forked from a process that has done the imports and nothing else, no threads and no collectives.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preloaded))
        self._ranks: list[tuple[Any, Connection]] = []

    def run(self, world_size: int, function: Callable[..., Any], *args: Any, timeout: float = 300.0) -> list[Any]:
        """Call function(*args) on every rank; return what each rank returned.

        The function must be importable (module level) and what it returns picklable.
        """
        self._grow(world_size)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        active = self._ranks[:world_size]
        for rank, (_, pipe) in enumerate(active):
            pipe.send((rank, world_size, port, function, args))
        answers: dict[int, Any] = {}
        failures: list[str] = []
        deadline = time.monotonic() + timeout
        while len(answers) < world_size:
            waited_for = {pipe: rank for rank, (_, pipe) in enumerate(active) if rank not in answers}
            ready = wait(waited_for, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                missing = ", ".join(map(str, waited_for.values()))
                failures.append(f"rank(s) {missing} did not answer" + ("" if failures else f" within {timeout} s"))
                break
            for pipe in ready:
                rank = waited_for[pipe]
                try:
                    ok, answers[rank] = pipe.recv()
                except EOFError:
                    ok, answers[rank] = False, "died"
                if not ok:
                    failures.append(f"rank {rank}:\n{answers[rank]}")
                    # The others wait for this one, and would for long.
                    deadline = min(deadline, time.monotonic() + 5)
        if failures:
            self.close()  # process groups may be in any state
            raise RankFailure("\n".join(failures))
        return [answers[rank] for rank in range(world_size)]

    def close(self) -> None:
        for process, pipe in self._ranks:
            pipe.close()
            process.kill()
            process.join()
        self._ranks = []

    def _grow(self, world_size: int) -> None:
        while len(self._ranks) < world_size:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs, list(sys.path)), daemon=True)
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("OMP_NUM_THREADS", "1")  # read when torch is imported, by the first start
                process.start()
            theirs.close()
            self._ranks.append((process, ours))


def _serve(pipe: Connection, path: list[str]) -> None:
    sys.path[:] = path
    import warnings

    warnings.filterwarnings("ignore")
    while True:
        try:
            rank, world_size, port, function, args = pipe.recv()
        except EOFError:
            return
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        try:
            answer = (True, function(*args))
        except BaseException:
            answer = (False, traceback.format_exc())
        pipe.send(answer)
        _tear_down()


def _tear_down() -> None:
    import gc

    import torch.distributed as dist

    # What the job built refers to itself in circles, and holds process groups: fifty threads each time, if they stay.
    gc.collect()
    if dist.is_initialized():
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
