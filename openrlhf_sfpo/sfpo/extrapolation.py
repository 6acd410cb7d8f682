"""Predicts where K passes would lead from the first two of them (PrePO, arXiv 2605.06755)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch

from openrlhf_sfpo.sfpo.slow_copy import SlowCopy, ranges
from openrlhf_sfpo.sfpo.steps import decay_of, watching_steps
from openrlhf_sfpo.sfpo.weights import OwnedWeights, Shard

Retention = Literal["displacement", "gradient", "tensor"]
_ACTIVE = 1e-3  # of the tensor's root mean square: coordinates that moved less are not extrapolated
_LOWEST, _HIGHEST = -2.0, 3.0  # of r


@dataclass(frozen=True)
class PredictiveSettings:
    """How `prepo` predicts.

    Attributes:
        retention: see `Extrapolation`.
        corrective: make a slow pass from the repositioned weights; otherwise a batch is two passes and the reposition.
        per: `pass`: both probes, the reposition and the slow pass traverse the whole rollout batch, as in SFPO.
            `train_batch`: all of them on one train batch, then all on the next, as in the authors' code. The same
            where a rollout batch is one train batch.
        max_zero_rewards: make a plain pass on a batch in which more than this share of the responses has reward 0, and
            do not show it to the gate. None for no such limit; the authors have 0.5.

    Raises:
        ValueError: an unknown retention or form, or a share out of range.
    """

    retention: Retention = "displacement"
    corrective: bool = True
    per: Literal["pass", "train_batch"] = "pass"
    max_zero_rewards: float | None = None

    def __post_init__(self) -> None:
        if self.retention not in ("displacement", "gradient", "tensor"):
            raise ValueError(f"unknown retention {self.retention!r}")
        if self.per not in ("pass", "train_batch"):
            raise ValueError(f"per must be pass or train_batch, got {self.per!r}")
        if self.max_zero_rewards is not None and not 0 <= self.max_zero_rewards <= 1:
            raise ValueError(f"max_zero_rewards must be in [0, 1], got {self.max_zero_rewards}")


def extrapolation_factor(
    retention: Annotated[torch.Tensor, "float *shape"], k: int
) -> Annotated[torch.Tensor, "float *shape"]:
    """How many times farther K steps lead than two, if each step is r times the one before: q = S_K(r) / S_2(r) with
    S_n(r) = 1 + r + ... + r^(n-1), clamped to [1, K/2 + 1].

    Args:
        retention: r; clipped to [-2, 3], and 1 where it is not finite.
        k: number of steps.
    """
    r = retention.nan_to_num(nan=1.0, posinf=1.0, neginf=1.0).clamp_(_LOWEST, _HIGHEST)
    two = 1.0 + r
    total = torch.ones_like(r)
    for _ in range(k - 1):
        total.mul_(r).add_(1.0)
    q = torch.where(two.abs() <= 1e-8, 1.0, total / two)
    return q.clamp_(1.0, k / 2 + 1)


class Extrapolation:
    """Observes two passes, and moves the weights from where they led to where K passes are predicted to lead:
    theta_0 + q (theta_2 - theta_0), with a factor q for each coordinate, from its retention r: the second pass's step
    as a multiple of the first's.

    | retention      | r                                                                                   | kept   |
    | `displacement` | d_1 / d_0, where d_t is how far pass t moved the weight, without weight decay       | P      |
    | `gradient`     | g_1 / g_0, where g_t is the sum of the gradients of pass t's steps, clipped         | 2 P    |
    | `tensor`       | <d_1, d_0> / <d_0, d_0> over all of a tensor, which fits d_1 = r d_0 best           | P      |

    P is the size of the shard in bytes; theta_0 is kept as well. Coordinates with |d_0| (or |g_0|) up to 1e-3 of the
    root mean square over their tensor have q = 1. All sums are over all ranks that hold a part of the tensor, so that
    every layout has the same.

    Args:
        weights: the weights.
        copy: holds theta_0.
        k: number of passes to predict, at least 2.
        retention: one of the above.

    Raises:
        ValueError: k < 2.
    """

    def __init__(self, weights: OwnedWeights, copy: SlowCopy, k: int, retention: Retention) -> None:
        if k < 2:
            raise ValueError(f"prepo predicts from two passes, so k must be at least 2, got {k}")
        self._weights = weights
        self._copy = copy
        self._k = k
        self._retention = retention
        self._first: list[torch.Tensor] = []  # theta_0 - theta_1, or g_0
        self._second: list[torch.Tensor] = []  # g_1
        self._decays: list[list[float]] = []

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Observe a pass. The first must begin at theta_0."""
        shards = list(self._weights.shards())
        decays = [1.0] * len(shards)
        sums: list[torch.Tensor | None] = [None] * len(shards)

        def see(number: int, optimizer: torch.optim.Optimizer, group: dict[str, Any], grad: torch.Tensor) -> None:
            decays[number] *= decay_of(optimizer, group)
            if self._retention == "gradient":
                so_far = sums[number]
                sums[number] = grad.clone() if so_far is None else so_far.add_(grad)

        with watching_steps(self._weights, see):
            yield
        self._decays.append(decays)
        if self._retention == "gradient":
            observed = [
                torch.zeros_like(shard.weight).view(-1) if total is None else total
                for total, shard in zip(sums, shards, strict=True)
            ]
            self._first, self._second = (self._first, observed) if self._first else (observed, [])
        elif not self._first:
            self._first = [self._moved(number, shard.weight.detach().view(-1)) for number, shard in enumerate(shards)]

    @property
    def bytes(self) -> int:
        """The size of what is kept, on this rank."""
        return sum(kept.numel() * kept.element_size() for kept in (*self._first, *self._second))

    @torch.no_grad()
    def extrapolate(self) -> float:
        """After two probes: move the weights. The caller must refresh what the forward pass reads.

        Returns:
            ||theta_2 - theta_0||_2, over all ranks.
        """
        assert len(self._decays) == 2, "two passes must have been observed"
        tensors = self._weights.tensors()
        places = {name: place for place, name in enumerate(tensors)}
        # ||theta_2 - theta_0||^2; by tensor ||first||^2; by tensor <first, second>. Read once at the end: on a GPU,
        # reading waits for the computation.
        device = self._first[0].device if self._first else None
        totals = torch.zeros(1 + 2 * len(places), dtype=torch.float64, device=device)
        squares, products = totals[1 : 1 + len(places)], totals[1 + len(places) :]
        for name, shard, steps in self._parts():
            if shard.counted:
                step = steps.weight - steps.slow
                totals[0] += torch.dot(step, step)
                squares[places[name]] += torch.dot(steps.first, steps.first)
                if self._retention == "tensor":
                    products[places[name]] += torch.dot(steps.first, steps.second)
        moved_sq, *sums = self._weights.reduce(totals.tolist(), "sum")
        square = dict(zip(tensors, sums[: len(tensors)], strict=True))
        product = dict(zip(tensors, sums[len(tensors) :], strict=True))
        for name, _, steps in self._parts():
            threshold = _ACTIVE * (square[name] / tensors[name]) ** 0.5
            if self._retention == "tensor":
                r = product[name] / square[name] if square[name] > 0 else 1.0
                retention = torch.full_like(steps.first, r)
            else:
                retention = steps.second / steps.first
            q = extrapolation_factor(retention, self._k)
            q.masked_fill_(steps.first.abs() <= threshold, 1.0)
            steps.weight.copy_(torch.lerp(steps.slow, steps.weight, q))  # exactly the weight where q is 1
        return float(moved_sq**0.5)

    def release(self) -> None:
        """Free what is kept."""
        self._first, self._second, self._decays = [], [], []

    def _moved(self, number: int, weight: torch.Tensor) -> torch.Tensor:
        """theta_0 - weight, of a flat shard."""
        moved = torch.empty_like(weight)
        for start, stop in ranges(0, len(weight), weight.device):
            torch.sub(self._copy.part(number, start, stop, weight.device), weight[start:stop], out=moved[start:stop])
        return moved

    def _parts(self) -> "Iterator[tuple[str, Shard, _Steps]]":
        """The parts of tensors that this rank holds, in chunks, with the steps there."""
        for number, (shard, parts) in enumerate(zip(self._weights.shards(), self._weights.parts(), strict=True)):
            flat = shard.weight.detach().view(-1)
            for part in parts:
                for start, stop in ranges(part.start, part.start + part.length, flat.device):
                    yield part.name, shard, self._steps(number, flat, start, stop)

    def _steps(self, number: int, flat: torch.Tensor, start: int, stop: int) -> "_Steps":
        weight = flat[start:stop]
        slow = self._copy.part(number, start, stop, flat.device)
        kept = self._first[number][start:stop]
        if self._retention == "gradient":
            return _Steps(weight, slow, kept, self._second[number][start:stop])
        before, after = (1.0 - decays[number] for decays in self._decays)
        middle = slow - kept  # theta_1, exact
        first = kept - before * slow if before else kept
        second = middle - weight
        return _Steps(weight, slow, first, second - after * middle if after else second)


@dataclass(frozen=True)
class _Steps:
    """A part of a shard, flat: the weights after the second pass and theta_0, and what is compared."""

    weight: torch.Tensor
    slow: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
