"""Peak memory of a piece of code, according to the allocator."""

from collections.abc import Callable
from itertools import accumulate

import torch


def peak_bytes(function: Callable[[], object], device: str) -> int:
    """Call the function; return the peak bytes of live tensors, minus those alive before the call.

    On a GPU the caching allocator keeps count. On a CPU torch's profiler records every allocation and release, and the
    peak is the maximum of their running sum.
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
