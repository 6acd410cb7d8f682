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


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the kernel, as CUDA's caching allocator does.

    Activations and logits are tens of megabytes, allocated and freed in every micro-batch. Mapped afresh each time
    they cost a page fault per 4 KiB, about a quarter of a training step on CPU.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc; other C libraries do without
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, -1)
