"""Watches an optimizer's steps from outside, whoever makes them."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import torch

from openrlhf_sfpo.sfpo.weights import OwnedWeights, local_part

# see(index of the shard in OwnedWeights.shards, its optimizer, its parameter group, its gradient)
Seer = Callable[[int, torch.optim.Optimizer, dict[str, Any], Annotated[torch.Tensor, "float n"]], None]


@contextmanager
def watching_steps(weights: OwnedWeights, see: Seer) -> Iterator[None]:
    """Inside the block, call `see` for each shard before each optimizer step, with the gradient that the step uses:
    reduced and clipped. ZeRO runs the optimizer once for each partition, so the shards of a step may come in several
    calls of the optimizer."""
    shards = list(weights.shards())
    numbers = {id(shard.parameter): number for number, shard in enumerate(shards)}

    def before_step(optimizer: torch.optim.Optimizer, *ignored: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                number = numbers.get(id(parameter))
                if number is not None and parameter.grad is not None:
                    see(number, optimizer, group, local_part(parameter.grad.detach()).view(-1))

    with ExitStack() as stack:
        for optimizer in {id(shard.optimizer): shard.optimizer for shard in shards}.values():
            stack.callback(optimizer.register_step_pre_hook(before_step).remove)
        yield


def decay_of(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    """The factor by which a step shrinks the weights of a group, apart from the gradient's part: 1 - lr * weight decay
    with decoupled weight decay, else 1."""
    decoupled = (
        isinstance(optimizer, torch.optim.AdamW)
        or group.get("decoupled_weight_decay", False)
        or getattr(optimizer, "adam_w_mode", False)  # Transformer Engine, Apex, DeepSpeed
    )
    return 1.0 - float(group["lr"]) * float(group.get("weight_decay", 0.0)) if decoupled else 1.0


def scale_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> Callable[[], None]:
    """Multiply the learning rates. The returned function restores them."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= factor

    def restore() -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    return restore


def inner_products(one: torch.Tensor, other: torch.Tensor) -> Annotated[torch.Tensor, "float64 3"]:
    """<one, other>, ||one||^2 and ||other||^2 of flat tensors, for `cosine_of`."""
    return torch.stack([torch.dot(one, other), torch.dot(one, one), torch.dot(other, other)]).double()


def cosine_of(sums: Annotated[torch.Tensor, "float64 3"], weights: OwnedWeights, undefined: float) -> float:
    """The cosine over all ranks, from the sums of `inner_products` on each; `undefined` if a norm is 0. Every rank must
    call it."""
    dot, one_sq, other_sq = weights.reduce(sums.tolist(), "sum")
    return dot / (one_sq * other_sq) ** 0.5 if one_sq > 0 and other_sq > 0 else undefined


class GradientCosine:
    """Compares the gradients of two passes, in the first optimizer step of each. Keeps the first one's, a number for
    each weight, until `value`."""

    def __init__(self, weights: OwnedWeights) -> None:
        self._weights = weights
        self._counted = [shard.counted for shard in weights.shards()]
        self._gradients: dict[int, torch.Tensor] = {}
        self._products: dict[int, torch.Tensor] = {}

    @contextmanager
    def first(self) -> Iterator[None]:
        """Keep the gradient of the first step in the block. Nothing in later blocks."""
        fresh = not self._gradients

        def see(number: int, optimizer: torch.optim.Optimizer, group: dict[str, Any], grad: torch.Tensor) -> None:
            if fresh and number not in self._gradients:
                self._gradients[number] = grad.clone()

        with watching_steps(self._weights, see):
            yield

    @contextmanager
    def second(self) -> Iterator[None]:
        """Compare the gradient of the first step in the block with it. Nothing in later blocks."""

        def see(number: int, optimizer: torch.optim.Optimizer, group: dict[str, Any], grad: torch.Tensor) -> None:
            kept = self._gradients.get(number)
            if kept is not None and self._counted[number] and number not in self._products:
                self._products[number] = inner_products(kept, grad)

        with watching_steps(self._weights, see):
            yield

    def value(self) -> float:
        """The cosine over all ranks, NaN if a gradient is zero. Every rank must call it."""
        products = list(self._products.values())
        sums = torch.stack(products).sum(dim=0) if products else torch.zeros(3, dtype=torch.float64)
        return cosine_of(sums, self._weights, undefined=math.nan)
