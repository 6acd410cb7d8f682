"""Doing something on one of Ray's machines."""

from collections.abc import Callable
from typing import Any


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
    return ray.get(ray.remote(num_cpus=0, scheduling_strategy=there)(function).remote(*args), timeout=60)
