"""The weights that SFPO moves: those in fp32 that an optimizer owns on this rank, and the optimizer's state for
them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

# The name of the outer momentum among the optimizer's state, so that whoever saves or moves that state includes it.
OUTER_MOMENTUM = "outer_momentum"


@dataclass(frozen=True)
class Part:
    """A contiguous part of a tensor that a shard holds.

    Attributes:
        name: the tensor's.
        start: the part's first element in the flat shard.
        length: its number of elements.
    """

    name: str
    start: int
    length: int


@dataclass(frozen=True)
class Shard:
    """A part of the weights.

    Attributes:
        weight: contiguous fp32 (or fp64) tensor of any shape that the optimizer updates in place.
        optimizer: the torch optimizer that has `weight` as one of its parameters, and its state.
        counted: whether it counts in norms over the whole model; False if another rank holds it, too.
    """

    weight: torch.Tensor
    optimizer: torch.optim.Optimizer
    counted: bool = True

    @property
    def state(self) -> dict[str, Any]:
        """The optimizer's state of this weight; empty before the first step."""
        found: dict[str, Any] = self.optimizer.state.get(self.weight, {})
        return found

    @property
    def inner_state(self) -> dict[str, Any]:
        """A copy of `state` without the outer momentum, which is not the optimizer's own."""
        return {name: value for name, value in self.state.items() if name != OUTER_MOMENTUM}


class OwnedWeights(Protocol):
    """The trained weights, as the optimizer holds them on this rank."""

    def shards(self) -> Iterator[Shard]:
        """This rank's shards, in the same order every time, without frozen parameters and buffers."""

    def tensors(self) -> dict[str, int]:
        """The number of elements of every trained tensor of the model by name, the same on all ranks."""

    def parts(self) -> list[list[Part]]:
        """The parts of tensors that each of this rank's shards holds; elements in none of them are padding."""

    def refresh(self) -> None:
        """Update every other copy of the weights that a forward pass reads from the shards."""

    def reduce(self, values: list[float], op: Literal["sum", "max"]) -> list[float]:
        """Reduce each value over the ranks that hold different shards; the result is the same on all of them."""


class TorchWeights:
    """The weights of any torch optimizer whose parameters are complete on every rank (one process, or DDP).

    Args:
        optimizer: its parameters that require gradients are the weights, all on one device.

    Raises:
        ValueError: parameters on several devices, or a parameter that is not contiguous or neither fp32 nor fp64. A
            16-bit blend loses most of an update: at a learning rate of 1e-6 nearly every weight is rounded back to its
            old value.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        devices = {str(parameter.device) for parameter in self._parameters()}
        if len(devices) > 1:
            raise ValueError(f"SFPO needs all weights of a process on one device, and they are on {sorted(devices)}.")
        for parameter in self._parameters():
            if parameter.dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f"SFPO needs fp32 weights, and the optimizer has a parameter in {parameter.dtype}, in which small "
                    "updates are lost. Load the model in fp32 and compute in 16 bits with torch.autocast."
                )
            if not parameter.is_contiguous():
                raise ValueError("SFPO needs contiguous weights; call .contiguous() on the parameters first.")

    def shards(self) -> Iterator[Shard]:
        return (Shard(parameter, self._optimizer) for parameter in self._parameters())

    def tensors(self) -> dict[str, int]:
        return {str(number): parameter.numel() for number, parameter in enumerate(self._parameters())}

    def parts(self) -> list[list[Part]]:
        return [[Part(name, 0, length)] for name, length in self.tensors().items()]

    def refresh(self) -> None:
        """Do nothing: the forward pass reads the weights themselves."""

    def reduce(self, values: list[float], op: Literal["sum", "max"]) -> list[float]:
        """The values themselves, because no other rank holds shards. Under DDP, times are this process's own."""
        return values

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        return (
            parameter
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        )
