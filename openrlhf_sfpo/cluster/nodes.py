"""Ray's nodes: calling functions on one, and which ranks run where."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ray._private.node import Node


def this_node() -> "Node":
    """Ray's object for this node, in a process that is connected to Ray."""
    from ray._private import worker

    return cast("Node", worker._global_node)  # it is declared as None


def on_node(node: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function on a node, without reserving resources; return its result.

    Args:
        node: the node's Ray ID.
        function: importable on that node.
        args: its arguments.

    Raises:
        ray.exceptions.RayError: the node is gone, or did not answer within a minute.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    remote = ray.remote(function).options(num_cpus=0, scheduling_strategy=there)
    return ray.get(remote.remote(*args), timeout=60)


def kill_on(node: str, processes: dict[int, float]) -> None:
    """Kill processes on a node, unless their PIDs have been reused. If the node does not answer, the processes are gone
    with it.

    Args:
        node: the node's Ray ID.
        processes: start times, in seconds since the epoch, by PID.
    """
    import ray

    with suppress(ray.exceptions.RayError):
        on_node(node, _kill, processes)


def _kill(processes: dict[int, float]) -> None:
    import psutil

    for number, started in processes.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(number)
            if process.create_time() == started:
                process.kill()


def divided_groups(nodes: list[str], size: int) -> list[range]:
    """The groups of `size` consecutive ranks that span several nodes.

    Args:
        nodes: each rank's node.
        size: ranks per group; divides the number of ranks.
    """
    groups = [range(first, first + size) for first in range(0, len(nodes), size)]
    return [group for group in groups if len({nodes[rank] for rank in group}) > 1]
