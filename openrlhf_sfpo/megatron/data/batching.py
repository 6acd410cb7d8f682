"""Packs samples of different lengths into micro-batches: balanced over ranks, equal in number, nothing dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from openrlhf_sfpo.megatron.model.context_parallel import positions_of

# Tensors with a dtype and dimensions, which the tests check at run time: of one sample, of a batch with a row for each
# sample, and of the scored positions of a pack.
Predictions: TypeAlias = Annotated[torch.Tensor, "float32 length-1"]
PerPosition: TypeAlias = Annotated[torch.Tensor, "float32 batch actions"]
Scored: TypeAlias = Annotated[torch.Tensor, "float32 scored"]

# Optional per-position fields of a sample, all fp32 [length - 1].
FLOAT_FIELDS = ("old_log_probs", "advantages", "base_log_probs", "rollout_log_probs")


@dataclass
class Sample:
    """One prompt with its response. Position t refers to the prediction of token t + 1.

    Attributes:
        tokens: int64 [length].
        action_mask: bool [length - 1], whether the token predicted there is the policy's own.
        old_log_probs: fp32 [length - 1], at the weights when the rollout batch arrived (theta_0).
        advantages: fp32 [length - 1].
        base_log_probs: fp32 [length - 1], of the reference model.
        rollout_log_probs: fp32 [length - 1], as the rollout engine reported them.
    """

    tokens: Annotated[torch.Tensor, "int64 length"]
    action_mask: Annotated[torch.Tensor, "bool length-1"]
    old_log_probs: Predictions | None = None
    advantages: Predictions | None = None
    base_log_probs: Predictions | None = None
    rollout_log_probs: Predictions | None = None


@dataclass
class MicroBatch:
    """Concatenated sequences with their scored positions: B sequences, A = longest length - 1.

    A sample's last token predicts nothing, so it is only a label. With context parallelism this is a rank's part of the
    pack; the attributes about the loss (the last four) are the whole pack's on every rank.

    Attributes:
        tokens: int64 [1, positions]; positions = (sum of (length - 1) + padding) / context-parallel size.
        packed: boundaries of the sequences in the whole pack, padding included.
        positions: int64 [positions], the tokens' positions within their sequences.
        selected: int64 [n here], positions in this rank's part where `action_mask` is set.
        labels: int64 [n here], the tokens predicted there.
        places: int64 [n here], their indices among the n scored positions of the whole pack.
        rows, columns: int64 [n], indices of all scored positions in the [B, A] tensors below.
        action_mask: fp32 [B, A], right-padded with zeros.
        floats: the available per-position fields of `Sample`, fp32 [B, A], right-padded with zeros.
    """

    tokens: Annotated[torch.Tensor, "int64 1 positions"]
    packed: PackedSeqParams
    positions: Annotated[torch.Tensor, "int64 positions"]
    selected: Annotated[torch.Tensor, "int64 here"]
    labels: Annotated[torch.Tensor, "int64 here"]
    places: Annotated[torch.Tensor, "int64 here"]
    rows: Annotated[torch.Tensor, "int64 scored"]
    columns: Annotated[torch.Tensor, "int64 scored"]
    action_mask: PerPosition
    floats: dict[str, PerPosition]

    @property
    def nbytes(self) -> int:
        """The size of the tensors on the device."""
        tensors = [value for value in vars(self).values() if isinstance(value, torch.Tensor)]
        return sum(tensor.nbytes for tensor in [*tensors, *self.floats.values()])

    def padded(self, values: Scored) -> PerPosition:
        """Spread values [n] of the scored positions over a [B, A] tensor that is zero elsewhere."""
        return values.new_zeros(self.action_mask.shape).index_put((self.rows, self.columns), values)


# For each train batch and each data-parallel rank, the micro-batches as lists of sample numbers.
Plan = list[list[list[list[int]]]]


def plan_train_batches(lengths: Sequence[Sequence[int]], train_batch_size: int) -> list[list[int]]:
    """Divide the samples of all data-parallel ranks into train batches: the m-th takes the m-th equal part of every
    rank's samples.

    Args:
        lengths: tokens of each sample on each rank. Samples are numbered across all ranks, in order.
        train_batch_size: samples of one optimizer step over all ranks; a remainder makes the steps smaller instead of
            being dropped.
    """
    total = sum(len(rank) for rank in lengths)
    steps = max(1, -(-total // train_batch_size))
    offsets = [sum(len(rank) for rank in lengths[:index]) for index in range(len(lengths))]
    return [
        [
            offset + index
            for offset, rank in zip(offsets, lengths, strict=True)
            for index in range(len(rank) * step // steps, len(rank) * (step + 1) // steps)
        ]
        for step in range(steps)
    ]


def plan_micro_batches(
    lengths: Sequence[Sequence[int]], batches: Sequence[Sequence[int]], max_tokens: int, multiple_of: int = 1
) -> Plan:
    """Divide the samples of train batches into micro-batches of the data-parallel ranks.

    A pure function of its arguments, so that every rank computes the same plan. Within a train batch samples are
    assigned to the ranks by decreasing length, each to the rank with the fewest tokens so far; all ranks get the same
    number of micro-batches, the smallest within the budget. A sample longer than the budget has a micro-batch to
    itself.

    Args:
        lengths: tokens of each sample on each data-parallel rank, numbered as in `plan_train_batches`.
        batches: the numbers of the samples to train on in each train batch; there may be none.
        max_tokens: budget of a micro-batch.
        multiple_of: the number of micro-batches is a multiple of this (the interleaved schedule needs a multiple of the
            number of pipeline stages). Micro-batches may be empty.

    Returns:
        plan[m][rank] is the list of that rank's micro-batches in train batch m.
    """
    plan: Plan = []
    flat = [length for rank in lengths for length in rank]
    for members in batches:
        shares = _deal(members, flat, len(lengths))
        count = max((_bins_needed(share, flat, max_tokens) for share in shares), default=1)
        count = -(-max(count, 1) // multiple_of) * multiple_of
        # Samples of equal length are consecutive: attention processes them together.
        plan.append(
            [[sorted(bin_, key=lambda n: (flat[n], n)) for bin_ in _deal(share, flat, count)] for share in shares]
        )
    return plan


def _deal(members: Sequence[int], lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Assign samples to bins, longest first, each to the bin with the fewest tokens (then samples, then the first)."""
    dealt: list[list[int]] = [[] for _ in range(bins)]
    tokens = [0] * bins
    for member in sorted(members, key=lambda m: (-lengths[m], m)):
        lightest = min(range(bins), key=lambda h: (tokens[h], len(dealt[h]), h))
        dealt[lightest].append(member)
        tokens[lightest] += lengths[member]
    return dealt


def _bins_needed(members: Sequence[int], lengths: Sequence[int], max_tokens: int) -> int:
    """The least number of bins for which `_deal` keeps every bin within the budget."""
    total = sum(lengths[m] for m in members)
    for bins in range(max(1, -(-total // max_tokens)), len(members)):
        dealt = _deal(members, lengths, bins)
        if all(len(part) <= 1 or sum(lengths[m] for m in part) <= max_tokens for part in dealt):
            return bins
    return len(members)


@dataclass(frozen=True)
class PackSharding:
    """How a pack is divided over the ranks that hold one copy of the model.

    Attributes:
        cp: context-parallel size; each sequence is padded to a multiple of twice that.
        cp_rank: context-parallel rank.
        multiple_of: a rank's part is padded to a multiple of this (for sequence parallelism, the tensor-parallel size).
    """

    cp: int = 1
    cp_rank: int = 0
    multiple_of: int = 1

    def padded(self, lengths: torch.Tensor) -> torch.Tensor:
        """The lengths of sequences with their padding, int64 [sequences]; the last one takes what the pack needs."""
        align = 2 * self.cp if self.cp > 1 else 1
        lengths = -(-lengths // align) * align
        while int(lengths.sum()) % (self.cp * self.multiple_of):
            lengths[-1] += align
        return lengths


def pack(samples: Sequence[Sample], device: torch.device | str, sharding: PackSharding = PackSharding()) -> MicroBatch:
    """Pack samples into a micro-batch. No samples make a two-token sequence in which nothing is scored, so that a
    rank without work still takes part in communication."""
    if not samples:
        samples = [Sample(torch.zeros(2, dtype=torch.long), torch.zeros(1, dtype=torch.bool))]
    lengths = torch.tensor([len(sample.tokens) - 1 for sample in samples])
    padded = sharding.padded(lengths.clone())
    cu_seqlens = torch.nn.functional.pad(padded.cumsum(0), (1, 0))
    width = int(lengths.max())
    mask = torch.zeros(len(samples), width)
    for row, sample in enumerate(samples):
        mask[row, : len(sample.action_mask)] = sample.action_mask.float()
    rows, columns = mask.nonzero(as_tuple=True)
    tokens, following = torch.zeros(2, int(cu_seqlens[-1]), dtype=torch.long)
    for start, sample in zip(cu_seqlens.tolist(), samples, strict=False):
        stop = start + len(sample.tokens) - 1
        tokens[start:stop], following[start:stop] = sample.tokens[:-1], sample.tokens[1:]
    here = positions_of(cu_seqlens, sharding.cp, sharding.cp_rank)
    place_of = torch.full((len(tokens),), -1)
    place_of[cu_seqlens[rows] + columns] = torch.arange(len(rows))
    places = place_of[here]
    selected = (places >= 0).nonzero().squeeze(1)
    boundaries = cu_seqlens.to(torch.int32).to(device)
    longest = int(padded.max())
    return MicroBatch(
        tokens=tokens[here].unsqueeze(0).to(device),
        packed=PackedSeqParams("thd", boundaries, boundaries, max_seqlen_q=longest, max_seqlen_kv=longest),
        positions=(here - cu_seqlens[:-1].repeat_interleave(padded)[here]).to(device),
        selected=selected.to(device),
        labels=following[here][selected].to(device),
        places=places[selected].to(device),
        rows=rows.to(device),
        columns=columns.to(device),
        action_mask=mask.to(device),
        floats=per_position(samples, width, device),
    )


def per_position(samples: Sequence[Sample], width: int, device: torch.device | str) -> dict[str, PerPosition]:
    """The per-position fields that all samples have, fp32 [B, width], right-padded with zeros."""
    found = {}
    for name in FLOAT_FIELDS:
        values = [getattr(sample, name) for sample in samples]
        if all(value is not None for value in values):
            padded = torch.zeros(len(samples), width)
            for row, value in enumerate(values):
                padded[row, : len(value)] = value
            found[name] = padded.to(device)
    return found
