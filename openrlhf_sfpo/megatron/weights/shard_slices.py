"""Locates a rank's flat shard of a parameter in the Hugging Face tensors, for checkpoints.

The distributed optimizer assigns each data-parallel rank a range of the flattened parameter, which may begin and end in
the middle of a row. In the full tensor such a range is a few rectangles. A checkpoint that stores these is independent
of the layout that wrote it, and any other layout can read it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from openrlhf_sfpo.megatron.weights.mapping import Block, Converter


@dataclass(frozen=True)
class ShardSlice:
    """A rectangle of a Hugging Face tensor that a shard holds.

    Attributes:
        name: the tensor's name.
        shape: the tensor's full shape.
        offset: the rectangle's first element in the tensor.
        size: the rectangle's shape.
        start: the flattened rectangle's first element in the shard.
    """

    name: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]
    start: int

    def view(self, shard: torch.Tensor) -> torch.Tensor:
        """The rectangle in a flat shard, as a view."""
        return shard.narrow(0, self.start, torch.Size(self.size).numel()).view(self.size)


def shard_slices(converter: Converter, rank: int, size: int, start: int, stop: int) -> Iterator[ShardSlice]:
    """The rectangles of a range of a flattened parameter, without rows of padding.

    Args:
        converter: the parameter's converter.
        rank: tensor-parallel rank.
        size: tensor-parallel size.
        start: first element of the range.
        stop: one after its last.
    """
    position = 0
    for block in converter.blocks(rank, size):
        end = position + block.rows * block.columns
        first, last = max(start, position), min(stop, end)
        if block.name is not None and first < last:
            yield from _rectangles(block, first - position, last - position, first - start)
        position = end


def _rectangles(block: Block, first: int, last: int, start: int) -> Iterator[ShardSlice]:
    """The rectangles of a range of a flattened block: the end of a row, whole rows, the start of a row, as far as they
    exist."""
    assert block.name is not None  # not padding
    width = block.columns
    while first < last:
        row, column = divmod(first, width)
        if column or last - first < width:
            rows, columns = 1, min(width - column, last - first)
        else:
            rows, columns = (last - first) // width, width
        offset: tuple[int, ...] = (block.row + row,)
        shape: tuple[int, ...] = (rows,)
        if len(block.shape) == 2:
            offset, shape = (*offset, (block.column or 0) + column), (rows, columns)
        yield ShardSlice(block.name, block.shape, offset, shape, start)
        first += rows * columns
        start += rows * columns
