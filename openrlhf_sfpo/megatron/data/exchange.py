"""Moving samples to the data-parallel ranks that train on them, and results back to the ranks that own them.

Every rank knows the sizes of all samples, 32 bytes each, but receives only the samples that it trains on. What a rank
sends and receives therefore shrinks as the number of data-parallel ranks grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
import torch.distributed as dist

from openrlhf_sfpo.megatron.data.batching import FLOAT_FIELDS, Sample


@dataclass(frozen=True)
class BatchSizes:
    """The sizes of all samples of a rollout batch, known to every rank. Samples are numbered across all ranks, in
    order.

    Attributes:
        lengths: tokens of each sample, by the rank that owns it.
        scored: the number of scored positions of each sample, by its number.
        fields: the per-position fields that all samples have.
        advantages: the mean advantage of each sample over its scored positions, in fp32, by its number; 0 without any.
        rewarded: the numbers of the samples with an advantage other than zero at a scored position; all samples if
            advantages are not among the fields.
    """

    lengths: list[list[int]]
    scored: list[int]
    fields: tuple[str, ...]
    advantages: list[float]
    rewarded: frozenset[int]

    @property
    def flat_lengths(self) -> list[int]:
        """Tokens of each sample, by its number."""
        return [length for rank in self.lengths for length in rank]


def gather_sizes(samples: Sequence[Sample], group: dist.ProcessGroup) -> BatchSizes:
    """Share the sizes of this rank's samples with all data-parallel ranks. `group` must carry CPU tensors."""
    own = torch.tensor([_sizes_of(sample) for sample in samples], dtype=torch.long).view(-1, 4)
    if group.size() == 1:
        parts = [own]
    else:
        counts = [torch.zeros(1, dtype=torch.long) for _ in range(group.size())]
        dist.all_gather(counts, torch.tensor([len(own)]), group=group)
        longest = int(max(counts))
        padded = torch.zeros(longest, 4, dtype=torch.long)
        padded[: len(own)] = own
        gathered = [torch.zeros_like(padded) for _ in counts]
        dist.all_gather(gathered, padded, group=group)
        parts = [part[: int(count)] for part, count in zip(gathered, counts, strict=True)]
    everything = torch.cat(parts)
    present = [bool((everything[:, 2] >> bit & 1).all()) for bit in range(len(FLOAT_FIELDS))]
    return BatchSizes(
        lengths=[part[:, 0].tolist() for part in parts],
        scored=everything[:, 1].tolist(),
        fields=tuple(name for name, found in zip(FLOAT_FIELDS, present, strict=True) if found),
        advantages=everything[:, 3].to(torch.int32).view(torch.float32).tolist(),
        rewarded=frozenset((everything[:, 2] >> len(FLOAT_FIELDS)).nonzero().view(-1).tolist()),
    )


def _sizes_of(sample: Sample) -> tuple[int, int, int, int]:
    """Tokens, scored positions, bits (one for each of `FLOAT_FIELDS` that the sample has, one for an advantage), and
    the bits of the mean advantage in fp32."""
    scored = int(sample.action_mask.sum())
    bits = sum(1 << bit for bit, name in enumerate(FLOAT_FIELDS) if getattr(sample, name) is not None)
    mean = torch.zeros(())
    if sample.advantages is not None:
        advantages = sample.advantages.float() * sample.action_mask
        mean = advantages.sum() / max(1, scored)
    if sample.advantages is None or bool(advantages.any()):
        bits |= 1 << len(FLOAT_FIELDS)
    return len(sample.tokens), scored, bits, int(mean.view(torch.int32))


class Route:
    """The routes of a rollout batch's samples between the ranks that own them and those that train on them.

    Args:
        lengths: tokens of each sample, by the rank that owns it.
        trained_on: the numbers of the samples that each rank trains on.
        group: the data-parallel group; it must carry CPU tensors.

    Attributes:
        sent: bytes that this rank has sent to other ranks so far.
    """

    def __init__(
        self, lengths: Sequence[Sequence[int]], trained_on: Sequence[Sequence[int]], group: dist.ProcessGroup
    ) -> None:
        self._group = group
        self._me = group.rank()
        self._lengths = [length for rank in lengths for length in rank]
        firsts = [sum(len(rank) for rank in lengths[:index]) for index in range(len(lengths) + 1)]
        self._first = firsts[self._me]
        owned = [range(first, end) for first, end in pairwise(firsts)]
        # The samples that this rank sends to and receives from each other rank, on the way to the trainers.
        self._outgoing = [[n for n in sorted(numbers) if n in owned[self._me]] for numbers in trained_on]
        self._incoming = [[n for n in sorted(trained_on[self._me]) if n in rank] for rank in owned]
        self.sent = 0

    @property
    def own_count(self) -> int:
        """The number of samples that this rank owns."""
        return sum(map(len, self._outgoing))

    def to_trainers(
        self, values: Sequence[torch.Tensor], dtype: torch.dtype, shorter: int = 0
    ) -> dict[int, torch.Tensor]:
        """Send per-position values of this rank's samples; return those of the samples that it trains on.

        Args:
            values: [length - shorter] for each sample that this rank owns; may be empty.
            dtype: the dtype for sending and receiving.
            shorter: 0 for values of tokens, 1 for values of predictions.

        Returns:
            By sample number, [length - shorter], on the CPU.
        """
        numbers = [number for part in self._outgoing for number in part]
        parts = [values[number - self._first].to(dtype) for number in numbers]
        flat = torch.cat(parts) if parts else torch.empty(0, dtype=dtype)
        return self._move(flat, self._outgoing, self._incoming, shorter)

    def to_owners(
        self, values: Annotated[torch.Tensor, "float32 positions"]
    ) -> list[Annotated[torch.Tensor, "float32 _"]]:
        """Send per-position values back to the owners.

        Args:
            values: fp32, the concatenated values [length - 1] of the samples that this rank trains on, in the order of
                their numbers; on the CPU.

        Returns:
            [length - 1] for each sample that this rank owns.
        """
        found = self._move(values, self._incoming, self._outgoing, shorter=1)
        return [found[number] for number in range(self._first, self._first + self.own_count)]

    def _move(
        self, flat: torch.Tensor, outgoing: list[list[int]], incoming: list[list[int]], shorter: int
    ) -> dict[int, torch.Tensor]:
        sizes = [[self._lengths[number] - shorter for number in part] for part in incoming]
        if self._group.size() == 1:
            received = flat
        else:
            send = [sum(self._lengths[number] - shorter for number in part) for part in outgoing]
            receive = [sum(part) for part in sizes]
            received = flat.new_empty(sum(receive))
            dist.all_to_all_single(received, flat, receive, send, group=self._group)
            self.sent += flat.element_size() * (sum(send) - send[self._me])
        numbers = [number for part in incoming for number in part]
        parts = received.split([size for part in sizes for size in part])
        return dict(zip(numbers, parts, strict=True))
