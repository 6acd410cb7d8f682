"""Momentum over the displacements of whole batches, around whatever moves the weights within them."""

from dataclasses import dataclass

import torch

from openrlhf_sfpo.sfpo.slow_copy import SlowCopy, ranges
from openrlhf_sfpo.sfpo.weights import OUTER_MOMENTUM, OwnedWeights


@dataclass(frozen=True)
class OuterMomentum:
    """Nesterov momentum (as SNOO, arXiv 2510.15830; outer-PPO, 2411.00666): from theta_0, the weights before a batch,
    and delta = theta - theta_0, the batch's displacement,

        m <- momentum * m + delta,  theta <- theta_0 + lr * (delta + momentum * m).

    Where delta is the same in every batch, the weights move lr / (1 - momentum) times as far as without. m takes one
    fp32 number for each weight, and is kept in the optimizer's state under `outer_momentum`.

    Raises:
        ValueError: momentum outside [0, 1), or lr not above 0.
    """

    momentum: float = 0.0
    lr: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"the outer momentum must be in [0, 1), got {self.momentum}")
        if not self.lr > 0:
            raise ValueError(f"the outer learning rate must be positive, got {self.lr}")

    @property
    def is_set(self) -> bool:
        """Whether it changes anything."""
        return self != OuterMomentum()

    @torch.no_grad()
    def apply(self, weights: OwnedWeights, copy: SlowCopy) -> None:
        """Move the weights at the end of a batch. `copy` holds theta_0."""
        for number, shard in enumerate(weights.shards()):
            state = shard.optimizer.state[shard.parameter]
            if self.momentum and OUTER_MOMENTUM not in state:
                state[OUTER_MOMENTUM] = torch.zeros_like(shard.weight, requires_grad=False)
            weight = shard.weight.detach().view(-1)
            for start, stop in ranges(0, len(weight), weight.device):
                slow = copy.part(number, start, stop, weight.device)
                step = weight[start:stop] - slow
                if self.momentum:
                    momentum = state[OUTER_MOMENTUM].view(-1)[start:stop]
                    momentum.mul_(self.momentum).add_(step)
                    step.add_(momentum, alpha=self.momentum)
                torch.add(slow, step, alpha=self.lr, out=weight[start:stop])
        weights.refresh()


def forget_momentum(weights: OwnedWeights) -> None:
    """Free the momentum, so that it begins at zero when it is used again."""
    for shard in weights.shards():
        shard.state.pop(OUTER_MOMENTUM, None)
