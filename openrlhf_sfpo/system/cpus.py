"""The processors that a process may use, and the freed memory that it keeps."""

import ctypes
import os


def usable_cpus() -> int:
    """The size of the process's CPU affinity, which in a container or under taskset may be smaller than the machine."""
    return len(os.sched_getaffinity(0))


def give_back_freed_memory() -> None:
    """Make glibc return freed memory to the kernel."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # other C libraries do without
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the kernel, as CUDA's caching allocator does.

    Activations and logits are tens of megabytes, allocated and freed in every micro-batch. Mapping them again each time
    costs a page fault per 4 KiB, about a quarter of a training step on CPU.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc; other C libraries do without
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, -1)
