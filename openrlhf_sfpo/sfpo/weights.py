"""The weights that SFPO moves: those in fp32 that an optimizer owns on this rank, and the optimizer's state for
them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate

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
        whole: the optimizer's parameter, if `weight` is this rank's part of that (a DTensor).
    """

    weight: torch.Tensor
    optimizer: torch.optim.Optimizer
    counted: bool = True
    whole: torch.Tensor | None = None

    @property
    def parameter(self) -> torch.Tensor:
        """The optimizer's parameter."""
        return self.weight if self.whole is None else self.whole

    @property
    def state(self) -> dict[str, Any]:
        """The optimizer's state of this weight; empty before the first step."""
        found: dict[str, Any] = self.optimizer.state.get(self.parameter, {})
        return found if self.whole is None else _LocalState(found)

    @property
    def inner_state(self) -> dict[str, Any]:
        """A copy of `state` without the outer momentum, which is not the optimizer's own."""
        return {name: value for name, value in self.state.items() if name != OUTER_MOMENTUM}


class _LocalState(dict[str, Any]):
    """A parameter's state with this rank's parts in place of DTensors; they share memory, and changes are passed on."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__({name: local_part(value) for name, value in state.items()})
        self._state = state

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self._state[name] = value

    def pop(self, name: str, *default: Any) -> Any:
        self._state.pop(name, *default)
        return super().pop(name, *default)


def local_part(value: Any) -> Any:
    """This rank's part of a DTensor, in the same memory; anything else as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


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


class ShardedTorchWeights(TorchWeights):
    """The weights of a torch optimizer whose parameters are divided over the ranks, as FSDP does: DTensors (FSDP2, with
    replicas or without), or flat parameters of which each rank has its own (FSDP1).

    Args:
        optimizer: see `TorchWeights`.
        group: all ranks that hold a part of the weights; by default the default process group.
        replicated: for flat parameters, whether this rank's are those of another rank as well, which counts them.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, group: dist.ProcessGroup | None = None, replicated: bool = False
    ) -> None:
        super().__init__(optimizer)
        self._group, self._replicated = group, replicated

    def shards(self) -> Iterator[Shard]:
        for parameter in self._parameters():
            if isinstance(parameter, DTensor):
                local = local_part(parameter.detach())
                yield Shard(local, self._optimizer, _is_first_replica(parameter), whole=parameter)
            else:
                yield Shard(parameter, self._optimizer, not self._replicated)

    def parts(self) -> list[list[Part]]:
        parameters = enumerate(self._parameters())
        return [[Part(str(number), 0, local_part(parameter).numel())] for number, parameter in parameters]

    def reduce(self, values: list[float], op: Literal["sum", "max"]) -> list[float]:
        device = next((local_part(one).device for one in self._parameters()), torch.device("cpu"))
        if device.type == "cpu" and dist.get_backend(self._group) == "nccl":  # offloaded weights
            device = torch.device("cuda", torch.cuda.current_device())
        reduced = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(reduced, dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX, group=self._group)
        return reduced.tolist()


def _is_first_replica(parameter: DTensor) -> bool:
    """Whether this rank is the first of those that hold the same part of a parameter."""
    coordinate = parameter.device_mesh.get_coordinate()
    assert coordinate is not None, "this rank holds no part of the parameter"
    placed = zip(coordinate, parameter.placements, strict=True)
    return all(place == 0 for place, placement in placed if isinstance(placement, Replicate))
