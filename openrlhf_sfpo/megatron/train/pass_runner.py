"""One pass of the SFPO update over a rollout batch: gradients, optimizer steps, metrics."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from openrlhf_sfpo.megatron.data.batching import MicroBatch
from openrlhf_sfpo.megatron.data.loss_types import LossFunction, LossNorm
from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch
from openrlhf_sfpo.megatron.settings import ActorSettings
from openrlhf_sfpo.megatron.train.main_parameters import MainShards
from openrlhf_sfpo.megatron.train.optimizer import LearningRate
from openrlhf_sfpo.sfpo import Choice, Pass
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS
from openrlhf_sfpo.system.replacements import install_on
from openrlhf_sfpo.system.run_errors import NonFiniteUpdate

if TYPE_CHECKING:
    from megatron.core.optimizer.optimizer import MegatronOptimizer


def check_norms(optimizer: "MegatronOptimizer") -> None:
    """Make the optimizer's step raise on a non-finite gradient norm; clipping by it would turn every weight into NaN.

    The norm is the same on all ranks, so all of them raise."""
    norm_of = optimizer.get_grad_norm

    def checked() -> float:
        norm = norm_of()
        if not math.isfinite(norm):
            raise NonFiniteUpdate(f"the gradient norm is {float(norm)}")
        return norm

    install_on(ON_OBJECTS["megatron.core.optimizer.optimizer.MegatronOptimizer.get_grad_norm"], optimizer, checked)


class Trained(Protocol):
    """The parts of a model in training that a pass needs."""

    settings: ActorSettings
    optimizer: "MegatronOptimizer"
    learning_rate: LearningRate
    shards: MainShards

    def compute_gradients(
        self, batches: list[MicroBatch], loss_function: LossFunction, norm: LossNorm
    ) -> list[dict[str, Any]]:
        """Compute the reduced gradients of a train batch for the optimizer; return the micro-batches' metrics."""

    def add_start_entropies(self, entropies: torch.Tensor) -> None:
        """Record entropies of the policy at theta_0, fp32 [n]."""

    def take_start_entropy(self) -> float | None:
        """Their mean since the last call, over all ranks; None if there were none."""


class PassRunner:
    """`sfpo.PassRunner` over the actor and one rollout batch.

    If the samples have no old log-probabilities, those of the first optimizer step are used: it is computed at theta_0,
    and with one step per traversal no other sample needs them earlier.

    Args:
        actor: the model.
        batch: the rollouts.
        part_of: builds the batch of a part of the samples, for a pass that trains on one.
        loss_function: loss of a micro-batch.
        before_first_step: called on every rank once the first optimizer step's losses are computed, before the step.
        zero_rewards: see `sfpo.PassRunner`.

    Raises:
        ValueError: samples have no old log-probabilities, and a traversal has several optimizer steps.
    """

    def __init__(
        self,
        actor: Trained,
        batch: RolloutBatch,
        loss_function: LossFunction,
        before_first_step: Callable[[], None] | None = None,
        part_of: Callable[[Choice, bool], RolloutBatch] | None = None,
        zero_rewards: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._actor = actor
        self._part_of = part_of
        self._zero_rewards = zero_rewards
        self._part: RolloutBatch | None = None
        self._before_first_step = before_first_step
        self._batch = batch
        self._loss_function = loss_function
        self._captures = batch.lacks_old_log_probs
        if self._captures and batch.num_steps > 1:
            raise ValueError(
                f"the samples have no old_log_probs, and a traversal has {batch.num_steps} optimizer steps: with more "
                "than one, they must be computed before."
            )

    def run_pass(self, pass_: Pass) -> dict[str, float]:
        actor, totals = self._actor, TokenMeans()
        batch = self._batch_of(pass_)
        metrics: dict[str, float] = {}
        tokens = 0
        actor.learning_rate.scale(pass_.learning_rate_factor)
        steps = [step for _ in range(actor.settings.epochs) for step in range(batch.num_steps)]
        if pass_.train_batch is not None:
            steps = [steps[pass_.train_batch]]
        for index, step in enumerate(steps):
            _, batches = batch.micro_batches(step)
            loss_function = self._loss_function
            if self._captures:
                loss_function = batch.capturing_old_log_probs(loss_function, batches, actor.add_start_entropies)
                self._captures = False
            outputs = actor.compute_gradients(batches, loss_function, batch.norm(step))
            self._check_losses(outputs)
            if self._before_first_step is not None:
                self._before_first_step()
                self._before_first_step = None
            totals.add(outputs)
            tokens += batch.tokens(step)
            if index == 0:
                if pass_.stage == "slow":
                    metrics["momentum_grad_cosine"] = actor.shards.momentum_grad_cosine()
                pass_.before_first_step()
            metrics["actor_lr"] = actor.learning_rate.value
            gather_unneeded = pass_.repositioned_next and index == len(steps) - 1
            with actor.shards.gather_skipped() if gather_unneeded else nullcontext():
                _, metrics["actor_grad_norm"], _ = actor.optimizer.step()
            if pass_.advances_schedule:
                actor.learning_rate.advance()
        counts = {"optimizer_steps": float(len(steps)), "backward_tokens": float(tokens)}
        nothing = {"policy_loss": 0.0, "entropy": math.nan, "ppo_kl": 0.0, "clip_ratio": 0.0}  # no sample is trained on
        return {**metrics, **counts, **nothing, **_with_sample_size(totals.reduce())}

    def _batch_of(self, pass_: Pass) -> RolloutBatch:
        """The samples of a pass. A batch has one part at most: it is moved, packed and uploaded once."""
        if pass_.choose is None:
            return self._batch
        if self._captures:
            raise ValueError("the samples have no old_log_probs, which the slow pass needs of all of them.")
        if self._part is None:
            assert self._part_of is not None, "the actor gives it"
            self._part = self._part_of(pass_.choose, pass_.whole_divisors)
        return self._part

    def _check_losses(self, outputs: list[dict[str, Any]]) -> None:
        """Raise on all ranks if a loss is not finite on any of them."""
        bad = any(not math.isfinite(output["loss"]) for output in outputs)
        if self._actor.shards.reduce([float(bad)], "max")[0]:
            raise NonFiniteUpdate("the loss is not finite")

    @property
    def train_batches(self) -> int:
        return self._actor.settings.epochs * self._batch.num_steps

    def zero_rewards(self) -> float | None:
        return self._zero_rewards()

    def start_entropy(self) -> float | None:
        found = self._actor.take_start_entropy()
        return math.nan if found is None and not self._batch.trains else found


def _with_sample_size(means: dict[str, float]) -> dict[str, float]:
    """The means with `ess`, the effective sample size over the number of tokens, in place of `ratio_square`."""
    if "ratio_square" not in means:
        return means
    square = means.pop("ratio_square")
    return {**means, "ess": means["ratio"] ** 2 / square if square else 0.0}


class TokenMeans:
    """Accumulates micro-batch metrics and averages them by token over a pass and all ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._tokens = 0.0
        self._steps = 0

    def add(self, outputs: list[dict[str, Any]]) -> None:
        """Add the metrics of one optimizer step's micro-batches; empty on stages before the last."""
        self._steps += 1
        for output in outputs:
            tokens = output["tokens"]
            self._tokens += tokens
            for name, value in output.items():
                if name == "loss":
                    self._sums["policy_loss"] = self._sums.get("policy_loss", 0.0) + float(value)
                elif name != "tokens":
                    self._sums[name] = self._sums.get(name, 0.0) + float(value) * tokens

    def reduce(self) -> dict[str, float]:
        """The means, the same on every rank."""
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, (self._sums, self._tokens) if is_metrics_rank() else ({}, 0.0))
        tokens = sum(part[1] for part in gathered)
        names = sorted({name for part in gathered for name in part[0]})
        sums = {name: sum(part[0].get(name, 0.0) for part in gathered) for name in names}
        return {
            name: total / self._steps if name == "policy_loss" else total / max(tokens, 1.0)
            for name, total in sums.items()
        }


def is_metrics_rank() -> bool:
    """Whether this rank's token means count in sums over all ranks: those of one tensor- and context-parallel rank of
    each last stage do; the other ranks have the same values or none."""
    return (
        parallel_state.get_tensor_model_parallel_rank() == 0
        and parallel_state.get_context_parallel_rank() == 0
        and parallel_state.is_pipeline_last_stage(ignore_virtual=True)
    )
