"""Ray's machines: doing something on one, and which ranks are where."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ray._private.node import Node


def this_node() -> "Node":
    """Ray's own account of this machine, in a process that is connected to it."""
    from ray._private import worker

    return cast("Node", worker._global_node)  # which is declared as None


def on_node(node: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function there, without taking any of its resources; return what it returns.

    Args:
        node: Ray's id of the machine.
        function: importable there.
        args: its arguments.

    Raises:
        ray.exceptions.RayError: the machine is gone, or did not answer within a minute.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    remote = ray.remote(function).options(num_cpus=0, scheduling_strategy=there)
    return ray.get(remote.remote(*args), timeout=60)


def kill_on(node: str, processes: dict[int, float]) -> None:
    """Kill processes of a machine, unless their numbers belong to others by now. Where the machine does not answer,
    they are gone with it.

    Args:
        node: Ray's id of the machine.
        processes: when each of them was started, in seconds since the epoch, by number.
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
    """Which groups of `size` neighboring ranks are on more than one machine.

    Args:
        nodes: the machine of each rank.
        size: of a group; divides their number.
    """
    groups = [range(first, first + size) for first in range(0, len(nodes), size)]
    return [group for group in groups if len({nodes[rank] for rank in group}) > 1]
