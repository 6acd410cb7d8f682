"""Context parallelism: distributes the positions of a pack over ranks, and merges their results.

Each sequence is divided into 2 CP chunks of equal length. Rank r has the r-th from the start and the r-th from the end,
so that every rank has the same work in causal attention. Transformer Engine divides packs in the same way.
"""

from typing import Any

import torch
import torch.distributed as dist


def chunks_of(cu_seqlens: torch.Tensor, cp: int, rank: int) -> torch.Tensor:
    """A rank's chunks of a pack, in the order in which it holds them.

    Args:
        cu_seqlens: int [sequences + 1], boundaries of the sequences, whose lengths are multiples of 2 * cp.
        cp: context-parallel size.
        rank: context-parallel rank.

    Returns:
        int64 [2 * sequences, 2], first position and length of each chunk.
    """
    starts, lengths = cu_seqlens[:-1].long(), cu_seqlens.diff().long() // (2 * cp)
    firsts = torch.stack([starts + rank * lengths, starts + (2 * cp - 1 - rank) * lengths], dim=1)
    return torch.stack([firsts, lengths.unsqueeze(1).expand(-1, 2)], dim=2).flatten(0, 1)


def positions_of(cu_seqlens: torch.Tensor, cp: int, rank: int) -> torch.Tensor:
    """A rank's positions of a pack, int64 [positions / cp]; arguments as for `chunks_of`."""
    if cp == 1:
        return torch.arange(int(cu_seqlens[-1]), device=cu_seqlens.device)
    firsts, lengths = chunks_of(cu_seqlens, cp, rank).unbind(1)
    count = int(cu_seqlens[-1]) // cp
    begins = (lengths.cumsum(0) - lengths).repeat_interleave(lengths, output_size=count)
    return torch.arange(count, device=cu_seqlens.device) - begins + firsts.repeat_interleave(lengths, output_size=count)


class _Merged(torch.autograd.Function):
    """Puts each rank's columns into their places, with the same result on all ranks. A rank's gradient is that of its
    own columns: every rank computes the whole loss, and the weights' gradients are summed over all ranks."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, places: torch.Tensor, count: int, group: dist.ProcessGroup
    ) -> torch.Tensor:
        ctx.save_for_backward(places)
        merged = values.new_zeros(values.shape[0], count)
        merged[:, places] = values
        dist.all_reduce(merged, group=group)
        return merged

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (places,) = ctx.saved_tensors
        return grad[:, places], None, None, None


def merged(values: torch.Tensor, places: torch.Tensor, count: int, group: dist.ProcessGroup) -> torch.Tensor:
    """Merge the results of the context-parallel ranks for their positions.

    Args:
        values: fp32 [rows, n], this rank's results.
        places: int64 [n], their columns in the result; each column belongs to one rank.
        count: number of columns of the result.
        group: the context-parallel group.

    Returns:
        fp32 [rows, count], the same on every rank.
    """
    return values if group.size() == 1 else _Merged.apply(values, places, count, group)
