"""What the watchdog reports of a run that hangs."""

from pathlib import Path
from typing import Any

import pytest

from openrlhf_sfpo.cluster.watchdog import Watchdog

STACK = '  File "/site/megatron/core/schedules.py", line 7, in forward_step\n    output = model()\n'
WAITING = '  File "/site/torch/distributed/distributed_c10d.py", line 9, in all_reduce\n    work.wait()\n'


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watchdog(clock: Clock, tmp_path: Path) -> Watchdog:
    return Watchdog(60.0, tmp_path / "stacks.txt", lambda rank, beat: f"as py-spy sees rank {rank}", clock)


def beat(progress: int, busy: bool = True, **fields: Any) -> dict[str, Any]:
    return {"phase": "fast 1/3", "busy": busy, "progress": progress, "pid": 5, "host": "node1", **fields}


def test_progress_of_one_rank_is_progress(watchdog: Watchdog, clock: Clock) -> None:
    for number in range(100):
        clock.now += 5
        watchdog.hear({0: beat(number // 10), 1: beat(0)})
        assert watchdog.verdict() is None, "rank 1 waits for rank 0, which works"


def test_idle_ranks_do_not_count_as_hung(watchdog: Watchdog, clock: Clock) -> None:
    for _ in range(100):
        clock.now += 5
        watchdog.hear({0: beat(3, busy=False), 1: beat(3, busy=False)})
        assert watchdog.verdict() is None


def test_a_weight_transfer_that_hangs_is_named_with_what_to_look_at(watchdog: Watchdog, clock: Clock) -> None:
    watchdog.hear({0: beat(9, phase="weights to vLLM"), 1: beat(9, phase="weights to vLLM", waits_in="barrier")})
    clock.now += 60
    said = watchdog.verdict()
    assert "in: weights to vLLM." in said
    assert "NCCL_SOCKET_IFNAME" in said
    watchdog.hear({0: beat(10), 1: beat(10)})
    clock.now += 60
    assert "NCCL" not in watchdog.verdict()


def test_each_rank_is_named_with_its_place(watchdog: Watchdog, clock: Clock, tmp_path: Path) -> None:
    watchdog.hear({rank: beat(9) for rank in range(4)})
    for _ in range(12):
        assert watchdog.verdict() is None
        clock.now += 5
        watchdog.hear(
            {
                0: beat(9, waits_in="all_reduce", stack=WAITING),
                1: beat(9, waits_in=None, stack=STACK),
                3: beat(4, busy=False),
            }
        )
    verdict = watchdog.verdict()
    assert verdict is not None
    assert "no rank made progress for 60 s (--train.timeout) in: fast 1/3." in verdict
    assert "Rank(s) 0 wait for the others in all_reduce." in verdict
    assert 'Rank 1 (process 5 on node1) did not arrive: it is at "/site/megatron/core/schedules.py", line 7' in verdict
    assert "Rank 2 (process 5 on node1) did not arrive: it has given no sign of life for 60 s" in verdict
    assert "Rank 3 (process 5 on node1) did not arrive: it was not called." in verdict
    stacks = (tmp_path / "stacks.txt").read_text()
    assert stacks.count("process 5 on node1:\n") == 4
    assert "as py-spy sees rank 2" in stacks
    assert "forward_step" in stacks


def test_a_hang_is_noticed_where_nothing_can_be_written(clock: Clock, tmp_path: Path) -> None:
    watchdog = Watchdog(60.0, tmp_path / "missing" / "stacks.txt", lambda rank, beat: "", clock)
    watchdog.hear({0: beat(1)})
    clock.now += 60
    assert "no rank made progress for 60 s" in (watchdog.verdict() or "")


def test_processes_by_node(watchdog: Watchdog) -> None:
    watchdog.hear({0: beat(1, node="a", pid=7, started=1.5), 1: beat(1, node="b", pid=7, started=2.5)})
    watchdog.hear({2: beat(1, node="a", pid=8, started=3.5)})
    assert watchdog.processes() == {"a": {7: 1.5, 8: 3.5}, "b": {7: 2.5}}
