"""Metrics of a whole rollout batch, which travel with its samples from the process that samples to the one that trains,
and into recordings."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

_PREFIX = "batch:"  # in a sample's info
SAMPLED = "rollout/num_sampled"


class HasInfo(Protocol):
    """A sample, such as OpenRLHF's `Experience` of one."""

    info: dict[str, Any]


def attach(samples: Sequence[HasInfo], metrics: dict[str, float]) -> None:
    """Give the batch's metrics to its samples."""
    for sample in samples:
        sample.info |= {f"{_PREFIX}{name}": torch.tensor([value]) for name, value in metrics.items()}


def take(samples: Sequence[HasInfo]) -> dict[str, float]:
    """Remove the batch's metrics from its samples, and return them."""
    found: dict[str, float] = {}
    for sample in samples:
        for name in [name for name in sample.info if name.startswith(_PREFIX)]:
            found[name.removeprefix(_PREFIX)] = float(sample.info.pop(name)[0])
    return found
