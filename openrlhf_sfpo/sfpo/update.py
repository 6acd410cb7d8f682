"""One SFPO update over a rollout batch: fast passes, reposition, slow pass (arXiv 2510.04072, Algorithm 1)."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

from openrlhf_sfpo.sfpo.extrapolation import Extrapolation, PredictiveSettings
from openrlhf_sfpo.sfpo.gate import Gate
from openrlhf_sfpo.sfpo.outer_momentum import OuterMomentum, forget_momentum
from openrlhf_sfpo.sfpo.part import FastPart
from openrlhf_sfpo.sfpo.slow_copy import SlowCopy
from openrlhf_sfpo.sfpo.steps import GradientCosine
from openrlhf_sfpo.sfpo.weights import OwnedWeights

Stage = Literal["fast", "slow"]
Preset = Literal["sfpo", "prepo", "grpo", "grpo_k_passes", "grpo_scaled_lr", "lookahead", "extragradient"]
EntropySource = Literal["slow_pass", "start"]
# The metric with what the gate compares, or its cosine, by what it reads.
GATE_METRICS = {"entropy": "sfpo/entropy_z", "grad_norm": "sfpo/grad_norm_z", "cosine": "sfpo/gradient_cosine"}
_LEAST_GRAD_NORM = 1e-8  # below it there is nothing to predict from


# choose(advantages of a train batch's samples, its index) -> the weights of the chosen samples, by index
Choice = Callable[[Sequence[float], int], dict[int, float]]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Pass:
    """One traversal of the rollout batch.

    Attributes:
        stage: which of the three stages it belongs to.
        advances_schedule: whether its optimizer steps advance the learning-rate schedule. One pass of every batch
            does, so that a run ends at the learning rate of the GRPO run that it is compared with.
        learning_rate_factor: factor on the schedule's learning rate in this pass.
        before_first_step: called once the first train batch's gradients exist (reduced, in the gradient buffers),
            before the optimizer's step. The runner must call it.
        choose: train only on the samples that this chooses of each train batch, with their advantages multiplied by its
            weights. It chooses the same in all passes over a batch, and must be called in the first. None for all
            samples.
        whole_divisors: divide the loss by the tokens and sequences of the whole train batch, instead of those chosen.
        train_batch: train on this train batch only, one optimizer step; None for all of them.
        repositioned_next: the weights are repositioned right after this pass, so the result of the last optimizer step
            is never read: gathering the parameters may be skipped.
    """

    stage: Stage
    advances_schedule: bool = False
    learning_rate_factor: float = 1.0
    before_first_step: Callable[[], None] = _nothing
    choose: Choice | None = None
    whole_divisors: bool = False
    train_batch: int | None = None
    repositioned_next: bool = False


@dataclass(frozen=True)
class FastLimits:
    """How far the fast passes of a batch may lead away from theta_0. After a pass beyond a limit no other fast pass
    follows. Its metrics are means over the pass, before each of its steps: with one step in a pass, a pass reports
    where the passes before it have led.

    Attributes:
        max_kl: the KL divergence from theta_0, `ppo_kl`, in nats per token.
        max_clip_ratio: the share of clipped tokens, `clip_ratio`.
        min_ess: the effective sample size over the number of tokens, `ess`: (sum w)^2 / (n sum w^2) with the weights w
            = pi / pi_0 of the n tokens (Kish). 1 at theta_0.

    Raises:
        ValueError: a limit is out of range.
    """

    max_kl: float | None = None
    max_clip_ratio: float | None = None
    min_ess: float | None = None

    def __post_init__(self) -> None:
        if self.max_kl is not None and not self.max_kl >= 0:
            raise ValueError(f"max_kl must not be negative, got {self.max_kl}")
        for name in ("max_clip_ratio", "min_ess"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")

    @property
    def are_set(self) -> bool:
        """Whether there is any limit."""
        return self != FastLimits()

    def exceeded(self, metrics: dict[str, float]) -> bool:
        """Whether a fast pass with these metrics is beyond a limit.

        Raises:
            RuntimeError: there is a limit for the effective sample size, and the trainer does not report it.
        """
        if self.min_ess is not None and "ess" not in metrics:
            raise RuntimeError("the fast passes have a limit for the effective sample size, which run_pass lacks")
        within = (  # false for NaN as well
            (self.max_kl is None or metrics["ppo_kl"] <= self.max_kl)
            and (self.max_clip_ratio is None or metrics["clip_ratio"] <= self.max_clip_ratio)
            and (self.min_ess is None or metrics["ess"] >= self.min_ess)
        )
        return not within


class PassRunner(Protocol):
    """The interface that the algorithm needs from a trainer, for one rollout batch. All ranks make the same calls in
    the same order."""

    def run_pass(self, pass_: Pass) -> dict[str, float]:
        """Traverse the rollout batch once with ordinary optimizer steps; return metrics reduced over all ranks.

        Old log-probabilities and advantages are those of theta_0 in every pass. Required keys are `entropy`, `ppo_kl`
        and `clip_ratio` (NaN, 0 and 0 if no token is trained on), `ess` where `FastLimits` need it, and
        `actor_grad_norm`, the gradient's norm before clipping in the last step, for `prepo` and where the gate reads
        it. A slow pass may add `momentum_grad_cosine`. `backward_tokens`, the tokens that went through a backward pass
        on all ranks together, are counted and not returned by `SlowFastUpdate.step`.

        Raises:
            ArithmeticError: a loss or a gradient is not finite. Raised on all ranks, before the optimizer step. `prepo`
                then makes a plain pass.
        """

    @property
    def train_batches(self) -> int:
        """The number of optimizer steps of a pass over all samples, those of further epochs included."""

    def zero_rewards(self) -> float | None:
        """The share of the batch's responses, over all ranks, that have reward 0; None if it is unknown."""

    def start_entropy(self) -> float | None:
        """Mean entropy of the policy at theta_0 over the batch's response tokens, NaN if there are none, None if it is
        unknown. Called after the passes."""


class SlowFastUpdate:
    """Runs the stages over a `PassRunner` and holds the state that survives between rollout batches.

    With k = 0 (and no outer momentum), or once the gate has closed, an update is exactly one slow pass: GRPO. The
    presets are SFPO, PrePO and the controls that they are compared with; K, alpha, gate and optimizer state mean the
    same in all of them:

    | preset           | what a batch runs                                                                     |
    | `sfpo`           | K fast passes, reposition, slow pass                                                  |
    | `prepo`          | two fast passes, extrapolation to where K of them are predicted to lead, reposition,  |
    |                  | slow pass (arXiv 2605.06755)                                                          |
    | `grpo`           | one slow pass                                                                         |
    | `grpo_k_passes`  | K + 1 passes, no reposition: alpha and the state modes have no effect                 |
    | `grpo_scaled_lr` | one slow pass at K alpha + 1 times the learning rate, the distance that K fast        |
    |                  | passes, a reposition and a slow pass would cover if all their steps were the same     |
    | `lookahead`      | K fast passes, reposition, no slow pass; the metrics are the last fast pass's.        |
    |                  | With `restore` Adam starts afresh in every batch, since no step follows the reposition |
    | `extragradient`  | K fast passes to look ahead; the slow pass's first gradient, taken there, is applied  |
    |                  | at theta_slow (alpha = 0), and the rest of the slow pass continues from there         |

    Args:
        weights: the weights that the optimizer owns.
        k: number of fast passes over the rollout batch; with `prepo`, of those predicted, at least 2.
        alpha: step size of the reposition, in [0, 1].
        gate: decides before each batch whether stages 1 and 2 run.
        slow_copy: keeps theta_slow; by default a copy on the same device, with the optimizer's state maintained.
        preset: one of the above.
        limits: end the fast passes of a batch before the K-th.
        part: the samples that the fast passes train on; all of them by default.
        predictive: how `prepo` predicts.
        outer: momentum over the displacements of whole batches, with any preset; none by default. It is part of the
            update while the gate is open.
        entropy_source: the entropy that the gate reads after each batch: the mean over the slow pass (`slow_pass`, the
            authors' code), or the entropy at theta_0 (`start`, the paper). Both affect only later batches.
        on_stage: called with a stage's name when it begins ("fast 1/3", "reposition", "slow"), for the progress
            display.

    Raises:
        ValueError: k < 0, alpha outside [0, 1], an unknown preset, or a combination of options that is refused, with
            the reason.
    """

    def __init__(
        self,
        weights: OwnedWeights,
        k: int,
        alpha: float,
        gate: Gate,
        *,
        slow_copy: SlowCopy | None = None,
        preset: Preset = "sfpo",
        limits: FastLimits = FastLimits(),
        part: FastPart | None = None,
        predictive: PredictiveSettings | None = None,
        outer: OuterMomentum | None = None,
        entropy_source: EntropySource = "slow_pass",
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> None:
        if k < 0:
            raise ValueError(f"k must not be negative, got {k}")
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        self.k = 0 if preset in ("grpo", "grpo_scaled_lr") else k
        self.alpha = {"grpo_k_passes": 1.0, "extragradient": 0.0}.get(preset, alpha)
        self._scale = k * alpha if preset == "grpo_scaled_lr" else 0.0
        self.preset = preset
        self.gate = gate
        self.backward_passes_total = 0.0
        self.backward_tokens_total: float | None = None
        self._weights = weights
        self._copy = slow_copy or SlowCopy(weights)
        self._limits = limits
        self._part = part or FastPart()
        self._predictive = predictive or PredictiveSettings()
        self._outer = outer or OuterMomentum()
        self._entropy_source = entropy_source
        self._on_stage = on_stage
        reason = self._refusal()
        if reason:
            raise ValueError(reason)

    def _refusal(self) -> str | None:
        """Why these options cannot be combined."""
        if self.preset not in get_args(Preset):
            return f"unknown preset {self.preset!r}"
        if self.preset == "lookahead" and self._limits.are_set:
            return "lookahead has no limits for its fast passes: the last one must be known beforehand"
        if self.preset == "prepo" and self._limits.are_set:
            return "prepo has no limits for its fast passes: it predicts from two, and always makes both"
        if self.preset == "prepo" and self.k == 1:
            return "prepo predicts from two passes, so k must be 0 or at least 2, got 1"
        by_train_batch = self.preset == "prepo" and self._predictive.per == "train_batch"
        if by_train_batch and self._outer.is_set:
            return "with an outer momentum, prepo must traverse whole rollout batches, not one train batch at a time"
        if self.gate.reads == "cosine" and self.k:
            if self.preset == "lookahead" or (self.preset == "prepo" and not self._predictive.corrective):
                return "the gate compares the slow pass's gradient, and there is no slow pass"
            if not self._part.is_whole:
                return "the gate compares gradients of the same samples, and the fast passes train on a part of them"
        return None

    @property
    def has_outer_momentum(self) -> bool:
        """Whether there is an outer momentum (or learning rate) while the gate is open."""
        return self._outer.is_set

    def step(self, runner: PassRunner) -> tuple[dict[str, float], dict[str, float | None]]:
        """Update on one rollout batch.

        Returns:
            The metrics that `run_pass` returned for the last pass (with `prepo` by train batch, their means over the
            train batches), and the `sfpo/*` metrics.

        Raises:
            RuntimeError: the gate reads the entropy at theta_0 and the trainer does not know it; a limit needs `ess`,
                which `run_pass` does not report; or it did not call `Pass.before_first_step` or `Pass.choose`.
        """
        alpha_scale = self.gate.alpha_scale
        alpha = self.alpha * alpha_scale
        spared = self._is_spared(runner)
        active = self.k > 0 and alpha_scale > 0 and not spared
        scaled = self._scale > 0 and alpha_scale > 0
        metrics: dict[str, float | None] = {
            "sfpo/active": float(active or scaled),
            "sfpo/alpha": alpha if active or scaled else 0.0,
            "sfpo/displacement": 0.0,
            "sfpo/displacement_rel": 0.0,
            "sfpo/fast_passes": 0.0,
            "sfpo/fast_kl": 0.0,
            "sfpo/fast_clip_ratio": 0.0,
            "sfpo/snapshot_bytes": 0.0,
            "sfpo/reposition_seconds": 0.0,
        }
        if self.preset == "prepo":
            metrics["sfpo/extrapolation"] = 0.0
        self._cosine = GradientCosine(self._weights) if active and self.gate.reads == "cosine" else None
        self._moves_outer = self._outer.is_set and alpha_scale > 0
        try:
            if not active:
                last = self._plain(runner, self._scale * alpha_scale + 1.0, metrics)
            elif self.preset == "prepo":
                last = self._predictive_batch(runner, alpha, metrics)
            else:
                last = self._passes(runner, alpha, metrics)
            if self._moves_outer:
                self._outer.apply(self._weights, self._copy)
            else:
                forget_momentum(self._weights)
        finally:
            self._copy.release()
        self.backward_passes_total = round(self.backward_passes_total, 6)  # of parts that add up to whole passes
        # Some trainers know it only after the first forward pass.
        start_entropy = runner.start_entropy()
        return last, {
            **metrics,
            "sfpo/momentum_grad_cosine": last.get("momentum_grad_cosine"),
            "sfpo/backward_passes_total": self.backward_passes_total,
            "sfpo/backward_tokens_total": self.backward_tokens_total,
            "sfpo/entropy": _known(last["entropy"]),
            "sfpo/entropy_start": _known(start_entropy),
            **self._observe(last, start_entropy, hidden=spared),
        }

    def _observe(self, last: dict[str, float], start_entropy: float | None, hidden: bool) -> dict[str, float | None]:
        """Count the batch, and show the gate what it reads, unless that is hidden; return the gate's metrics."""
        cosine = self._cosine.value() if self._cosine else None
        self._cosine = None
        self.gate.finish_batch()
        if self.gate.reads == "cosine":
            read = cosine
        elif self.gate.reads == "grad_norm":
            read = last["actor_grad_norm"]
        elif self._entropy_source == "start":
            if start_entropy is None:
                raise RuntimeError("the gate reads the entropy at theta_0, and the trainer does not know it")
            read = start_entropy
        else:
            read = last["entropy"]
        score = None if hidden or read is None else self.gate.observe(read)
        shown = cosine if self.gate.reads == "cosine" else score
        return {GATE_METRICS["entropy"]: None, GATE_METRICS[self.gate.reads]: shown}

    def _plain(
        self, runner: PassRunner, learning_rate_factor: float, metrics: dict[str, float | None]
    ) -> dict[str, float]:
        """Run a batch of a single pass."""
        if self._moves_outer:
            metrics["sfpo/snapshot_bytes"] = float(self._copy.take(overlap=True, with_state=False))
        else:
            self._copy.free_host_memory()
        return self._slow_pass(runner, learning_rate_factor=learning_rate_factor, before_first_step=self._copy.wait)

    def _is_spared(self, runner: PassRunner) -> bool:
        """Whether too many responses have no reward for a prediction."""
        limit = self._predictive.max_zero_rewards
        if self.preset != "prepo" or limit is None:
            return False
        zeros = runner.zero_rewards()
        if zeros is None:
            raise RuntimeError("prepo has a limit for rewards of 0, and the trainer does not know the rewards")
        return zeros > limit

    def _passes(self, runner: PassRunner, alpha: float, metrics: dict[str, float | None]) -> dict[str, float]:
        """Run an active batch; return the last pass's metrics."""
        copies = self.preset != "grpo_k_passes"
        has_slow_pass = self.preset != "lookahead"
        if copies or self._moves_outer:
            metrics["sfpo/snapshot_bytes"] = float(self._copy.take(overlap=True, with_state=copies))
        for index in range(self.k):
            final = index == self.k - 1
            self._on_stage(f"fast {index + 1}/{self.k}")
            fast = self._fast_pass(
                runner,
                first=index == 0,
                advances_schedule=final and not has_slow_pass,
                repositioned_next=final and self.preset in ("sfpo", "lookahead"),
            )
            metrics["sfpo/fast_passes"] = index + 1.0
            if self._limits.exceeded(fast):
                break
        # How far the fast trajectory moved from theta_0: the last pass sees the movement of those before it.
        metrics.update({"sfpo/fast_kl": fast["ppo_kl"], "sfpo/fast_clip_ratio": fast["clip_ratio"]})
        if self.preset == "extragradient":
            return self._slow_pass(runner, before_first_step=lambda: self._reposition(alpha, metrics, refresh=False))
        if copies:
            self._reposition(alpha, metrics)
        return self._slow_pass(runner) if has_slow_pass else fast

    def _predictive_batch(self, runner: PassRunner, alpha: float, metrics: dict[str, float | None]) -> dict[str, float]:
        """Run an active batch of `prepo`; return the last pass's metrics, or the train batches' means."""
        if self._predictive.per == "pass":
            return self._predict(runner, alpha, metrics)
        own: list[dict[str, float | None]] = []
        last: list[dict[str, float]] = []
        for train_batch in range(runner.train_batches):
            own.append(dict(metrics))
            last.append(self._predict(runner, alpha, own[-1], train_batch))
        metrics.update(_means(own))
        means = {name: value for name, value in _means(last).items() if value is not None}
        # As after a pass over all of them: the last step's.
        ends = {name: value for name, value in last[-1].items() if name in ("actor_grad_norm", "actor_lr")}
        return {**means, **ends, "optimizer_steps": math.fsum(one.get("optimizer_steps", 1.0) for one in last)}

    def _predict(
        self, runner: PassRunner, alpha: float, metrics: dict[str, float | None], train_batch: int | None = None
    ) -> dict[str, float]:
        """Two probes, extrapolation, reposition and slow pass, over the rollout batch or one of its train batches.

        Where the gradient of a probe vanishes or is not finite, nothing can be predicted: theta_0 is put back, and a
        plain pass made."""
        corrective = self._predictive.corrective
        extrapolation = Extrapolation(self._weights, self._copy, self.k, self._predictive.retention)
        self._copy.take(overlap=True)
        advanced = False
        for index in range(2):
            self._on_stage(f"fast {index + 1}/2")
            final = index == 1
            try:
                with extrapolation.probe():
                    probe = self._fast_pass(
                        runner,
                        first=index == 0,
                        train_batch=train_batch,
                        advances_schedule=final and not corrective,
                        repositioned_next=final,
                    )
                metrics["sfpo/fast_passes"] = index + 1.0
                advanced = final and not corrective
                vanishes = not _LEAST_GRAD_NORM < probe["actor_grad_norm"] < math.inf
            except ArithmeticError:
                vanishes = True
            if vanishes:
                self._copy.put_back()
                extrapolation.release()
                self._release()
                metrics["sfpo/active"] = 0.0
                return self._slow_pass(runner, train_batch=train_batch, advances_schedule=not advanced)
        metrics.update({"sfpo/fast_kl": probe["ppo_kl"], "sfpo/fast_clip_ratio": probe["clip_ratio"]})
        kept = self._copy.bytes + extrapolation.bytes
        (metrics["sfpo/snapshot_bytes"],) = self._weights.reduce([float(kept)], "max")
        observed = extrapolation.extrapolate()
        extrapolation.release()
        self._reposition(alpha, metrics)
        moved = metrics["sfpo/displacement"]
        metrics["sfpo/extrapolation"] = moved / observed if moved and observed else 0.0
        return self._slow_pass(runner, train_batch=train_batch) if corrective else probe

    def _reposition(self, alpha: float, metrics: dict[str, float | None], refresh: bool = True) -> None:
        self._on_stage("reposition")
        moved = self._copy.reposition(alpha, refresh=refresh)
        metrics["sfpo/displacement"] = moved.norm
        metrics["sfpo/displacement_rel"] = moved.relative
        metrics["sfpo/reposition_seconds"] = moved.seconds
        self._release()

    def _release(self) -> None:
        """Free what the rest of the batch does not need."""
        if self._moves_outer:
            self._copy.release_state()
        else:
            self._copy.release()

    def _fast_pass(self, runner: PassRunner, first: bool, **options: Any) -> dict[str, float]:
        """Run a fast pass, the first of the batch (or of the train batch) or a later one."""
        chosen: list[int] = []

        def choose(advantages: Sequence[float], train_batch: int) -> dict[int, float]:
            chosen.append(train_batch)
            return self._part.choose(advantages, f"{self.gate.batches} {train_batch}")

        part: Choice | None = None if self._part.is_whole else choose
        before = self._copy.wait if first else _nothing
        pass_ = Pass("fast", before_first_step=before, choose=part, whole_divisors=self._part.rescale, **options)
        watched = self._cosine.first() if self._cosine and first else nullcontext()
        with watched:
            metrics = self._run(runner, pass_)
        if part is not None and first and not chosen and not options.get("train_batch"):
            raise RuntimeError("the trainer's run_pass must call Pass.choose, and it did not")
        return metrics

    def _slow_pass(self, runner: PassRunner, **options: Any) -> dict[str, float]:
        self._on_stage("slow")
        watched = self._cosine.second() if self._cosine else nullcontext()
        with watched:
            pass_ = Pass("slow", **{"advances_schedule": True, "repositioned_next": self._moves_outer, **options})
            return self._run(runner, pass_)

    def _run(self, runner: PassRunner, pass_: Pass) -> dict[str, float]:
        called: list[bool] = []

        def before_first_step() -> None:
            pass_.before_first_step()
            called.append(True)

        self.backward_passes_total += 1.0 if pass_.train_batch is None else 1.0 / runner.train_batches
        metrics = runner.run_pass(replace(pass_, before_first_step=before_first_step))
        if not called:
            raise RuntimeError("the trainer's run_pass must call Pass.before_first_step, and it did not")
        tokens = metrics.pop("backward_tokens", None)
        if tokens is not None:
            self.backward_tokens_total = (self.backward_tokens_total or 0.0) + tokens
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Gate and counters, as plain Python values. The outer momentum is part of the optimizer's state."""
        return {
            "gate": self.gate.state_dict(),
            "backward_passes_total": self.backward_passes_total,
            "backward_tokens_total": self.backward_tokens_total,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gate.load_state_dict(state["gate"])
        self.backward_passes_total = state["backward_passes_total"]
        self.backward_tokens_total = state.get("backward_tokens_total")  # older checkpoints lack it


def _means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The means of the values that every row has."""
    means: dict[str, float | None] = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row.get(name)) is not None]
        means[name] = math.fsum(values) / len(values) if len(values) == len(rows) else None
    return means


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
