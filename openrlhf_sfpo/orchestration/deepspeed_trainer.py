"""OpenRLHF's actor trainer with SFPO around its passes over the replay buffer.

A pass is OpenRLHF's own `ppo_train`, so batches, losses and metrics are OpenRLHF's. Loaded only in the actors'
processes, because it imports OpenRLHF and DeepSpeed.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from openrlhf.trainer.ray import ppo_actor

from openrlhf_sfpo.config.flag_table import section
from openrlhf_sfpo.config.flags import SFPOConfig
from openrlhf_sfpo.deepspeed.zero import ZeroWeights
from openrlhf_sfpo.orchestration.algorithm import build_update, needs_every_sample
from openrlhf_sfpo.orchestration.deepspeed_selection import Selection, select
from openrlhf_sfpo.orchestration.engine_gap import EngineGap, GapWatch
from openrlhf_sfpo.sfpo import AdaptiveEntropy, Pass
from openrlhf_sfpo.sfpo.steps import scale_learning_rates
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS
from openrlhf_sfpo.system.replacements import replaced_on

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.openrlhf_types import Actor, ActorPPOTrainer, DeepspeedStrategy, Experience
else:
    ActorPPOTrainer = ppo_actor.ActorPPOTrainer

# OpenRLHF's names of the metrics that the algorithm reads.
_METRICS = {"ppo_kl": "ppo_kl", "clip_ratio": "ppo_clip_ratio", "actor_grad_norm": "actor_grad_norm"}


class SlowFastActorTrainer(ActorPPOTrainer):
    """Has the arguments of OpenRLHF's trainer. `strategy.args.sfpo` has the --sfpo.* flags.

    The learning-rate schedule and the moving average of the weights (--train.enable_ema) advance once per batch, in the
    slow pass.

    Attributes:
        on_stage: called when a stage of the update begins, for the progress display; to be assigned.
        on_notice: called on every rank with a message for the user; to be assigned.
        selection: what the replay buffer's samples were selected as, while these are not all.
    """

    def __init__(self, strategy: "DeepspeedStrategy", actor: "Actor", *args: Any, **kwargs: Any) -> None:
        sfpo = section(SFPOConfig, strategy.args.sfpo)
        if strategy.args.actor.entropy_coef is None:
            strategy.args.actor.entropy_coef = 0.0  # computed for the gate, without affecting the loss
        super().__init__(strategy, actor, *args, **kwargs)
        self.on_stage: Callable[[str], None] = lambda text: None
        self.on_notice: Callable[[str], None] = lambda text: None
        self._engine = actor.model
        self._weights = ZeroWeights(self._engine)
        self._entropies = TokenMean()
        self._start_entropies = TokenMean()
        self._gap_watch = GapWatch(strategy.args)
        self._backward_tokens = torch.zeros((), dtype=torch.long)
        self._old_log_probs: torch.Tensor | None = None
        self._ratios, self._square_ratios = TokenMean(), TokenMean()
        self.selection: Selection | None = None
        self.adaptive_entropy: AdaptiveEntropy = section(AdaptiveEntropy, strategy.args.algo.adaptive_entropy)
        self.sfpo = build_update(sfpo, self._weights, lambda text: self.on_stage(text))
        self._watch_entropy(at_start=sfpo.gate_entropy == "start")

    def ppo_train(self, kl_ctl: float) -> dict[str, Any]:
        """One update over the replay buffer.

        Returns:
            OpenRLHF's metrics of the last pass, the `sfpo/*` ones, and `rollout_log_prob_abs_diff`.

        Raises:
            EngineMismatch: in the first batch, the engines' log-probabilities are too far from the actor's.
        """
        gap = self._engine_gap()
        self._gap_watch.check(*gap)
        notice = self._gap_watch.notice(*gap)
        if notice:
            self.on_notice(notice)
        if self.adaptive_entropy.enable:
            self.args.actor.entropy_coef = self.adaptive_entropy.weight(self._sampled_entropy())
        runner = _PassRunner(self, lambda: ActorPPOTrainer.ppo_train(self, kl_ctl))
        last, metrics = self.sfpo.step(runner)
        metrics["rollout_log_prob_abs_diff"] = self._engine_difference()
        if self.adaptive_entropy.enable:
            metrics["adaptive_entropy_coef"] = self.args.actor.entropy_coef
        status = {name: last.get(name, value) for name, value in runner.status.items()}
        return {**status, **{name: value for name, value in metrics.items() if value is not None}}

    def _engine_gap(self) -> tuple[float, float]:
        """Sum and count of the distances between the engine's log-probabilities and the actor's at theta_0; zeros if
        the batch has stale samples."""
        gap = EngineGap()
        infos = []
        for item in self.replay_buffer.items:
            infos.append({name: float(value) for name, value in item.info.items() if name == "staleness"})
            own, engine = item.action_log_probs, item.rollout_log_probs
            if own is not None and engine is not None:
                gap.add(own[None], engine[None], item.action_mask[None])
        total, tokens = self._weights.reduce(gap.sums.tolist(), "sum")
        (stale,) = self._weights.reduce([float(not self._gap_watch.watches(infos))], "max")
        return (0.0, 0.0) if stale else (total, tokens)

    def _sampled_entropy(self) -> float:
        """Minus the mean log-probability of the samples' tokens at theta_0; NaN without tokens."""
        mean = TokenMean()
        for item in self.replay_buffer.items:
            if item.action_log_probs is not None:
                mean.add(-item.action_log_probs[None], item.action_mask[None])
        found = mean.take(self._weights)
        return math.nan if found is None else found

    def _engine_difference(self) -> float | None:
        """Mean of |log-probability of the engine - of the actor| at theta_0, if the engine returned its own."""
        difference = TokenMean()
        for item in self.replay_buffer.items:
            own, engine = item.action_log_probs, item.rollout_log_probs
            if own is not None and engine is not None:
                difference.add((own - engine).abs()[None], item.action_mask[None])
        return difference.take(self._weights)

    def training_step(
        self, experience: "Experience", kl_ctl: float, step: int, loss_batch_info: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Like OpenRLHF's, but tell DeepSpeed which micro-batch is the last before a step: with dynamic batches it is
        configured for a step after each, and would use the last one's gradients only; and where samples are left out,
        there are fewer before a step than it counts."""
        self._engine.set_gradient_accumulation_boundary(self._is_last_before_a_step(step))
        if self.selection is not None:
            loss_batch_info = self._divisors(self.selection)
        tokens = experience.attention_mask.sum()
        self._backward_tokens = self._backward_tokens.to(tokens.device) + tokens
        self._old_log_probs = experience.action_log_probs
        status = super().training_step(experience, kl_ctl, step, loss_batch_info)
        if status["num_action_tokens"] == 0:  # the means over no tokens are not numbers, and would make the sums so
            status["metrics"] = {
                name: torch.zeros_like(value) if isinstance(value, torch.Tensor) else value
                for name, value in status["metrics"].items()
            }
        return status

    def _is_last_before_a_step(self, step: int) -> bool:
        if self.args.train.dynamic_batch_enable:
            return bool(self.replay_buffer.dynamic_optimizer_step[step])
        if self.selection is not None:
            return (step + 1) * self.replay_buffer.sample_batch_size == len(self.selection.items)
        return (step + 1) % self.strategy.accumulated_gradient == 0

    def _divisors(self, selection: Selection) -> dict[str, Any]:
        """The divisors for OpenRLHF's losses. DeepSpeed divides gradients by the number of micro-batches before a step
        that it is configured for, and by that of the ranks."""
        counted = self._engine.gradient_accumulation_steps()
        return {
            "dp_size": dist.get_world_size(self.data_parallel_group),
            "batch_num_tokens": selection.tokens / counted,
            "global_batch_size": selection.sequences / counted,
        }

    @property
    def data_parallel_group(self) -> dist.ProcessGroup:
        """The ranks that do not share their samples."""
        return self.strategy.ds_device_mesh["dp"].get_group()

    def _watch_entropy(self, at_start: bool) -> None:
        """Accumulate the entropies that the model computes. OpenRLHF's own `entropy_loss` weights the tokens of a
        step's micro-batches differently, and with dynamic batches depends on their number."""

        def ask(model: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            # Forward passes without gradients only compute old log-probabilities.
            asked = at_start and not torch.is_grad_enabled()
            return args, {**kwargs, "return_output": True, "return_entropy": True} if asked else kwargs

        def add(model: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            training = torch.is_grad_enabled()
            if training or at_start:
                mask = args[1] if len(args) > 1 else kwargs["action_mask"]
                (self._entropies if training else self._start_entropies).add(output[1].entropy, mask)
                if training and self._old_log_probs is not None:
                    ratios = (output[0].detach().float() - self._old_log_probs).exp()
                    self._ratios.add(ratios, mask)
                    self._square_ratios.add(ratios.square(), mask)
            return output if training or not at_start else output[0]

        self.actor.register_forward_pre_hook(ask, with_kwargs=True)
        self.actor.register_forward_hook(add, with_kwargs=True)


class TokenMean:
    """A mean over the tokens of all micro-batches of all ranks."""

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)

    def add(self, values: torch.Tensor, mask: torch.Tensor) -> None:
        """Add the values where the mask, [B, A], is set; the last A columns of the values count."""
        mask = mask.to(values.device)
        kept = values.detach()[:, -mask.shape[1] :].float() * mask
        # Not read here: on a GPU that would wait for the forward pass.
        self._sums = self._sums.to(values.device) + torch.stack([kept.sum(), mask.sum().float()]).double()

    def take(self, weights: ZeroWeights) -> float | None:
        """The mean since the last call, the same on every rank; None without tokens. Collective: every rank must call
        it."""
        total, tokens = weights.reduce(self._sums.tolist(), "sum")
        self._sums = torch.zeros_like(self._sums)
        return total / tokens if tokens else None


class _PassRunner:
    """`sfpo.PassRunner` over a trainer and its replay buffer.

    Args:
        trainer: owns the weights, schedule and moving average.
        traverse: runs OpenRLHF's traversals of the replay buffer and returns its metrics.
    """

    def __init__(self, trainer: SlowFastActorTrainer, traverse: Callable[[], dict[str, Any]]) -> None:
        self._trainer = trainer
        self._traverse = traverse
        args = trainer.args
        # The moving average of the weights counts micro-batches, and must not miss any.
        self._skips = (
            args.train.skip_zero_advantage == "auto" and needs_every_sample(args) is None and trainer.ema_model is None
        )
        self._selections: dict[tuple[int, bool], Selection] = {}
        self.status: dict[str, Any] = {}

    def run_pass(self, pass_: Pass) -> dict[str, float]:
        trainer = self._trainer
        steps = 0

        def prepare() -> Callable[[], None]:
            nonlocal steps
            if steps == 0:
                pass_.before_first_step()
            steps += 1
            return scale_learning_rates(trainer._weights.optimizer, pass_.learning_rate_factor)

        with ExitStack() as stack:
            stack.enter_context(trainer._weights.before_steps(prepare))
            slow = pass_.stage == "slow"
            cosine = stack.enter_context(trainer._weights.momentum_grad_cosine()) if slow else None
            if not pass_.advances_schedule:
                stack.enter_context(_schedules_paused(trainer))
            self.status = self._train(pass_)
            metrics = {name: float(self.status[key]) for name, key in _METRICS.items()}
            if cosine is not None:
                metrics["momentum_grad_cosine"] = cosine()
        entropy = trainer._entropies.take(trainer._weights)
        counted = int(trainer._backward_tokens) / trainer.args.ds.ring_attn_size  # those ranks share their samples
        (tokens,) = trainer._weights.reduce([counted], "sum")
        trainer._backward_tokens = torch.zeros((), dtype=torch.long)
        self.status["optimizer_steps"] = float(steps)
        assert entropy is not None, "OpenRLHF's model computed no entropy"
        ratio = trainer._ratios.take(trainer._weights)
        square = trainer._square_ratios.take(trainer._weights)
        if ratio is not None and square:
            self.status["ratio"], metrics["ess"] = ratio, ratio**2 / square
        return {**self.status, **metrics, "entropy": entropy, "backward_tokens": tokens}

    @property
    def train_batches(self) -> int:
        return self._trainer.max_epochs * self._train_batches_of_an_epoch()

    def zero_rewards(self) -> float | None:
        rewards = [float(item.info["reward"]) for item in self._trainer.replay_buffer.items]
        zeros, count = self._trainer._weights.reduce([float(rewards.count(0.0)), float(len(rewards))], "sum")
        return zeros / count if count else None

    def _train_batches_of_an_epoch(self) -> int:
        return len(self._trainer.replay_buffer.items) // self._own_part_of_a_train_batch()

    def _train(self, pass_: Pass) -> dict[str, Any]:
        """Traverse what the pass trains on; return OpenRLHF's metrics."""
        one_by_one = pass_.choose is not None or pass_.train_batch is not None
        # OpenRLHF deals the samples anew to the train batches of every pass. Which of several a sample is left out of
        # would then be unknown.
        skips = self._skips and (one_by_one or self._train_batches_of_an_epoch() == 1)
        if not one_by_one and not skips:
            return self._traverse()
        numbers = range(self.train_batches) if pass_.train_batch is None else [pass_.train_batch]
        found = [self._train_on(number % self._train_batches_of_an_epoch(), pass_, skips) for number in numbers]
        status = _means([status for status, _ in found], [weight for _, weight in found])
        return status if pass_.stage == "fast" else {**status, **self._means_of_all(status)}

    def _train_on(self, number: int, pass_: Pass, skips: bool) -> tuple[dict[str, Any], float]:
        """Traverse one train batch, or what is selected of it; return OpenRLHF's metrics, and their weight in a mean
        over train batches."""
        trainer, size = self._trainer, self._own_part_of_a_train_batch()
        own = trainer.replay_buffer.items[number * size : (number + 1) * size]
        if pass_.choose is None and not skips:
            with self._only(own):
                return self._traverse(), 1.0
        key = (number, pass_.choose is not None)
        if key not in self._selections:
            self._selections[key] = select(
                own,
                number,
                pass_.choose,
                whole_divisors=pass_.whole_divisors,
                skips=skips,
                micro_batch=1 if trainer.args.train.dynamic_batch_enable else trainer.replay_buffer.sample_batch_size,
                group=trainer.data_parallel_group,
            )
        trainer.selection = selection = self._selections[key]
        batch_size, trainer.args.train.batch_size = (
            trainer.args.train.batch_size,
            len(selection.items) * trainer.data_parallel_group.size(),
        )
        try:
            with self._only(selection.items):
                status = self._traverse()
        finally:
            trainer.selection, trainer.args.train.batch_size = None, batch_size
        if not trainer.args.train.dynamic_batch_enable:
            # OpenRLHF's is a mean over micro-batches, each times the number of them that DeepSpeed divides by.
            micro_batches = len(selection.items) // trainer.replay_buffer.sample_batch_size
            status["policy_loss"] *= micro_batches / trainer._engine.gradient_accumulation_steps()
        return status, selection.weight

    def _means_of_all(self, status: dict[str, Any]) -> dict[str, float]:
        """Those of OpenRLHF's metrics that are means over samples, of all samples instead of those trained on."""
        items = self._trainer.replay_buffer.items
        values = {name: [_number_of(item, name) for item in items] for name in sorted(status)}
        known = {name: [value for value in found if value is not None] for name, found in values.items()}
        names = [name for name, found in known.items() if len(found) == len(items)]
        *sums, count = self._trainer._weights.reduce([*(math.fsum(known[name]) for name in names), len(items)], "sum")
        return {name: total / count for name, total in zip(names, sums, strict=True)}

    def _own_part_of_a_train_batch(self) -> int:
        """The number of samples that a rank contributes to a train batch."""
        strategy = self._trainer.strategy
        return int(strategy.accumulated_gradient * strategy.micro_train_batch_size)

    @contextmanager
    def _only(self, samples: "list[Experience]") -> Iterator[None]:
        """Traverse these samples, once."""
        trainer = self._trainer
        entry = ON_OBJECTS["openrlhf.trainer.ppo_utils.replay_buffer.NaiveReplayBuffer.items"]
        epochs, trainer.max_epochs = trainer.max_epochs, 1
        try:
            with replaced_on(entry, trainer.replay_buffer, samples):
                yield
        finally:
            trainer.max_epochs = epochs

    def start_entropy(self) -> float | None:
        return self._trainer._start_entropies.take(self._trainer._weights)


def _means(found: list[dict[str, Any]], weights: list[float]) -> dict[str, Any]:
    """Metrics of several traversals, weighted; those of the last step where OpenRLHF gives the last step's."""
    total = math.fsum(weights)
    if len(found) == 1 or not total:
        return found[-1]
    means = {
        name: math.fsum(weight * one.get(name, 0.0) for one, weight in zip(found, weights, strict=True)) / total
        for name in {name for one in found for name in one}
    }
    return {**means, **{name: found[-1][name] for name in ("actor_grad_norm", "actor_lr") if name in found[-1]}}


def _number_of(item: "Experience", name: str) -> float | None:
    """A sample's value that OpenRLHF averages to a metric, if it is a single number."""
    value = item.info.get(name, getattr(item, name, None))
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, int | float) else None


@contextmanager
def _schedules_paused(trainer: SlowFastActorTrainer) -> Iterator[None]:
    """Pause the learning-rate schedule and the moving average of the weights."""
    schedule = ON_OBJECTS["deepspeed.runtime.engine.DeepSpeedEngine.lr_scheduler"]
    average, trainer.ema_model = trainer.ema_model, None
    try:
        with replaced_on(schedule, trainer._engine, None):
            yield
    finally:
        trainer.ema_model = average
