"""OpenRLHF's experiences as the Megatron actor's samples, and the means of what OpenRLHF logs for each sample."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from openrlhf_sfpo.megatron.data.batching import Sample

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.openrlhf_types import Experience


def unpad(
    sequences: torch.Tensor,
    action_mask: torch.Tensor,
    attention_mask: torch.Tensor,
    floats: dict[str, torch.Tensor] | None = None,
) -> list[Sample]:
    """The rows of a right-padded batch ([B, T], and [B, T - 1] for the rest) as samples without padding."""
    samples = []
    for row, length in enumerate(attention_mask.long().sum(dim=1).tolist()):
        fields = {name: value[row, : length - 1].float() for name, value in (floats or {}).items()}
        samples.append(Sample(sequences[row, :length], action_mask[row, : length - 1].bool(), **fields))
    return samples


def sample_infos(experience: "Experience") -> list[dict[str, float]]:
    """The numbers that OpenRLHF logs per sample (reward, return, lengths and what the reward function added)."""
    columns = {name: value for name, value in experience.info.items() if isinstance(value, torch.Tensor | list)}
    for name in ("response_length", "truncated", "total_length"):
        value = getattr(experience, name)
        if value is not None:
            columns[name] = value
    rows = len(experience.sequences)
    infos: list[dict[str, float]] = [{} for _ in range(rows)]
    for name, values in columns.items():
        if len(values) == rows:
            for info, value in zip(infos, values, strict=True):
                info[name] = float(value)
    return infos


def mean_infos(infos: list[dict[str, float]]) -> dict[str, float]:
    """Means over the samples of all ranks, the same on every rank; each name's over the samples that have it. Ranks of
    one model copy repeat its samples, which does not change the means."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, sorted({name for info in infos for name in info}))
    names = sorted(set[str]().union(*gathered))
    if not names:
        return {}
    values = [[info[name] for info in infos if name in info] for name in names]
    sums = torch.tensor([[sum(one), len(one)] for one in values], dtype=torch.float64)  # [names, 2]
    dist.all_reduce(sums)
    return {name: total / count for name, (total, count) in zip(names, sums.tolist(), strict=True)}
