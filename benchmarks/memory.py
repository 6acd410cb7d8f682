"""Peak memory of a piece of code, as its allocator saw it."""

from collections.abc import Callable
from itertools import accumulate

import torch


def peak_bytes(function: Callable[[], object], device: str) -> int:
    """Call the function; return the most bytes of tensors that were alive at a time beyond those from before it.

    On a GPU the caching allocator keeps that count. On a CPU torch's profiler records every allocation and every
    release, of which this is the running sum's maximum.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(size for _, size in changes), default=0)
