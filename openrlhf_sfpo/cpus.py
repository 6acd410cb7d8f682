"""How many processors this process may use, which in a container or under taskset is fewer than the machine has."""

import os


def usable_cpus() -> int:
    """The size of the process's CPU affinity."""
    return len(os.sched_getaffinity(0))
