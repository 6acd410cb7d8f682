"""A toy model with its trainer, for tests of the algorithm without Megatron, and the same updates by their formulas."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from reference import textbook_batch, textbook_prediction

from openrlhf_sfpo.sfpo import Gate, Pass, SlowCopy, SlowFastUpdate, TorchWeights


class Toy(torch.nn.Module):
    """A small nonlinear regression with a frozen parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = torch.nn.Linear(3, 4)
        self.second = torch.nn.Linear(4, 1)
        self.second.bias.requires_grad_(False)
        self.register_buffer("scale", torch.ones(1))
        self.double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.scale * self.second(self.first(inputs).tanh())


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, betas=(0.9, 0.95), weight_decay=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, dampening=0.5),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
}


class Trainer:
    """A model, its optimizer and schedule, and M train batches for each rollout batch: a `PassRunner`."""

    def __init__(self, optimizer: str, steps: int, entropies: list[float] | None = None, device: str = "cpu") -> None:
        self.model = Toy().to(device)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        generator = torch.Generator().manual_seed(5)
        self.data = torch.randn(steps, 8, 4, generator=generator, dtype=torch.float64).to(device)
        self.stages: list[str] = []
        self.raises: int | None = None  # the number of the pass that does
        self.rewardless: float | None = None
        self._entropies = iter(entropies or [])
        self.entropy: float | None = None
        self.entropy_at_start: float | None = None
        self.tokens: float | None = 7.0
        self.distances: Iterator[dict[str, float]] = iter(())  # metrics of the next passes

    def gradients(self, step: int, weights: dict[int, float] | None = None, divisor: int = 8) -> None:
        """Of a train batch's mean squared error; with weights by row, of their weighted sum over the divisor."""
        self.optimizer.zero_grad()
        inputs, targets = self.data[step, :, :3], self.data[step, :, 3:]
        squares = (self.model(inputs) - targets).square().squeeze(1)
        if weights is not None:
            squares = squares[list(weights)] * torch.tensor(list(weights.values()), dtype=torch.float64)
        (squares.sum() / divisor).backward()

    def advantages(self, step: int) -> list[float]:
        return self.data[step, :, 3].tolist()

    def run_pass(self, pass_: Pass) -> dict[str, float]:
        self.stages.append(pass_.stage)
        (group,) = self.optimizer.param_groups
        group["lr"] *= pass_.learning_rate_factor
        for step in range(len(self.data)) if pass_.train_batch is None else [pass_.train_batch]:
            if self.raises == len(self.stages):
                raise ArithmeticError("the loss is not finite")
            chosen = pass_.choose(self.advantages(step), step) if pass_.choose else None
            whole = chosen is None or pass_.whole_divisors
            self.gradients(step, chosen, 8 if whole else len(chosen or ()))
            if step == (pass_.train_batch or 0):
                pass_.before_first_step()
            self.optimizer.step()
            if pass_.advances_schedule:
                self.schedule.step()
        group["lr"] /= pass_.learning_rate_factor
        entropy = self.entropy
        if entropy is None:
            entropy = next(self._entropies, 1.0) if pass_.stage == "slow" else 9.0
        metrics = {"entropy": entropy, "ppo_kl": 0.1, "clip_ratio": 0.2, "momentum_grad_cosine": 0.5}
        metrics["actor_grad_norm"] = self.grad_norm()
        metrics |= next(self.distances, {})
        return metrics if self.tokens is None else {**metrics, "backward_tokens": self.tokens}

    def grad_norm(self) -> float:
        grads = [value.grad for value in self.model.parameters() if value.grad is not None]
        return math.sqrt(sum(float(grad.square().sum()) for grad in grads))

    @property
    def train_batches(self) -> int:
        return len(self.data)

    def zero_rewards(self) -> float | None:
        return self.rewardless

    def start_entropy(self) -> float | None:
        return self.entropy_at_start

    def weights(self) -> torch.Tensor:
        return torch.cat([value.detach().view(-1).clone() for value in self.model.parameters()])


def sfpo(trainer: Trainer, k: int, alpha: float, state: Any = "maintain", **options: Any) -> SlowFastUpdate:
    weights = TorchWeights(trainer.optimizer)
    gate = options.pop("gate", None) or Gate("off")
    return SlowFastUpdate(weights, k, alpha, gate, slow_copy=SlowCopy(weights, state), **options)


class Textbook(Trainer):
    """The same updates from their formulas."""

    def batch(self, k: int, alpha: float, state: str, preset: str) -> None:
        textbook_batch(self.model, self.optimizer, len(self.data), self.gradients, self.step, k, alpha, state, preset)

    def predicted(self, k: int, alpha: float, state: str, retention: str, corrective: bool, per: str) -> None:
        """A batch of `prepo`."""
        groups = [[step] for step in range(len(self.data))] if per == "train_batch" else [list(range(len(self.data)))]
        for steps in groups:
            textbook_prediction(
                self.model, self.optimizer, steps, self.gradients, self.step, k, alpha, state, retention, corrective
            )

    def one_pass(self, advance: bool) -> None:
        for step in range(len(self.data)):
            self.gradients(step)
            self.step(advance)

    def step(self, advance: bool) -> None:
        self.optimizer.step()
        if advance:
            self.schedule.step()
