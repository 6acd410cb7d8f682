"""What a process may use of the processors, and what it keeps of the memory, of the machine or container it is in."""

import ctypes
import os


def usable_cpus() -> int:
    """The size of the process's CPU affinity, which in a container or under taskset is less than the machine has."""
    return len(os.sched_getaffinity(0))


def give_back_freed_memory() -> None:
    """Have glibc return to the kernel what it keeps of freed memory: whole pieces, and the ends of others."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # other C libraries do without
        libc.malloc_trim(0)
