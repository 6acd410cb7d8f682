"""One SFPO update over a rollout batch: fast passes, reposition, slow pass (arXiv 2510.04072, Algorithm 1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from openrlhf_sfpo.sfpo.gate import EntropyGate
from openrlhf_sfpo.sfpo.part import FastPart
from openrlhf_sfpo.sfpo.slow_copy import SlowCopy
from openrlhf_sfpo.sfpo.weights import OwnedWeights

Stage = Literal["fast", "slow"]
Preset = Literal["sfpo", "grpo", "grpo_k_passes", "grpo_scaled_lr", "lookahead", "extragradient"]
EntropySource = Literal["slow_pass", "start"]


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
        repositioned_next: the weights are repositioned right after this pass, so the result of the last optimizer step
            is never read: gathering the parameters may be skipped.
    """

    stage: Stage
    advances_schedule: bool = False
    learning_rate_factor: float = 1.0
    before_first_step: Callable[[], None] = _nothing
    choose: Choice | None = None
    whole_divisors: bool = False
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
        and `clip_ratio` (NaN, 0 and 0 if no token is trained on), and `ess` where `FastLimits` need it. A slow pass may
        add `momentum_grad_cosine`. `backward_tokens`, the tokens that went through a backward pass on all ranks
        together, are counted and not returned by `SlowFastUpdate.step`.
        """

    def start_entropy(self) -> float | None:
        """Mean entropy of the policy at theta_0 over the batch's response tokens, NaN if there are none, None if it is
        unknown. Called after the passes."""


class SlowFastUpdate:
    """Runs the stages over a `PassRunner` and holds the state that survives between rollout batches.

    With k = 0, or once the gate has closed, an update is exactly one slow pass: GRPO. The presets are SFPO and the
    controls that it is compared with; K, alpha, gate and optimizer state mean the same in all of them:

    | preset           | what a batch runs                                                                     |
    | `sfpo`           | K fast passes, reposition, slow pass                                                  |
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
        k: number of fast passes over the rollout batch.
        alpha: step size of the reposition, in [0, 1].
        gate: decides before each batch whether stages 1 and 2 run.
        slow_copy: keeps theta_slow; by default a copy on the same device, with the optimizer's state maintained.
        preset: one of the above.
        limits: end the fast passes of a batch before the K-th.
        part: the samples that the fast passes train on; all of them by default.
        entropy_source: the entropy that the gate reads after each batch: the mean over the slow pass (`slow_pass`, the
            authors' code), or the entropy at theta_0 (`start`, the paper). Both affect only later batches.
        on_stage: called with a stage's name when it begins ("fast 1/3", "reposition", "slow"), for the progress
            display.

    Raises:
        ValueError: k < 0, alpha outside [0, 1], an unknown preset, or limits with `lookahead`, whose last fast pass
            advances the schedule and must be known beforehand.
    """

    def __init__(
        self,
        weights: OwnedWeights,
        k: int,
        alpha: float,
        gate: EntropyGate,
        *,
        slow_copy: SlowCopy | None = None,
        preset: Preset = "sfpo",
        limits: FastLimits = FastLimits(),
        part: FastPart | None = None,
        entropy_source: EntropySource = "slow_pass",
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> None:
        if k < 0:
            raise ValueError(f"k must not be negative, got {k}")
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if preset not in ("sfpo", "grpo", "grpo_k_passes", "grpo_scaled_lr", "lookahead", "extragradient"):
            raise ValueError(f"unknown preset {preset!r}")
        if preset == "lookahead" and limits.are_set:
            raise ValueError("lookahead has no limits for its fast passes: the last one must be known beforehand")
        self.k = 0 if preset in ("grpo", "grpo_scaled_lr") else k
        self.alpha = {"grpo_k_passes": 1.0, "extragradient": 0.0}.get(preset, alpha)
        self._scale = k * alpha if preset == "grpo_scaled_lr" else 0.0
        self.preset = preset
        self.gate = gate
        self.backward_passes_total = 0
        self.backward_tokens_total: float | None = None
        self._copy = slow_copy or SlowCopy(weights)
        self._limits = limits
        self._part = part or FastPart()
        self._entropy_source = entropy_source
        self._on_stage = on_stage

    def step(self, runner: PassRunner) -> tuple[dict[str, float], dict[str, float | None]]:
        """Update on one rollout batch.

        Returns:
            The metrics that `run_pass` returned for the last pass, and the `sfpo/*` metrics.

        Raises:
            RuntimeError: the gate reads the entropy at theta_0 and the trainer does not know it; a limit needs `ess`,
                which `run_pass` does not report; or it did not call `Pass.before_first_step` or `Pass.choose`.
        """
        alpha_scale = self.gate.alpha_scale
        alpha = self.alpha * alpha_scale
        active = self.k > 0 and alpha_scale > 0
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
        try:
            if active:
                last = self._passes(runner, alpha, metrics)
            else:
                self._copy.free_host_memory()
                last = self._slow_pass(runner, learning_rate_factor=self._scale * alpha_scale + 1.0)
        finally:
            self._copy.release()
        # Some trainers know it only after the first forward pass.
        start_entropy = runner.start_entropy()
        if self._entropy_source == "start" and start_entropy is None:
            raise RuntimeError("the gate reads the entropy at theta_0, and the trainer does not know it")
        self.gate.finish_batch()
        read = start_entropy if self._entropy_source == "start" else last["entropy"]
        assert read is not None, "checked above"
        z = self.gate.observe(read)
        metrics["sfpo/momentum_grad_cosine"] = last.get("momentum_grad_cosine")
        metrics["sfpo/backward_passes_total"] = float(self.backward_passes_total)
        metrics["sfpo/backward_tokens_total"] = self.backward_tokens_total
        metrics["sfpo/entropy"] = _known(last["entropy"])
        metrics["sfpo/entropy_start"] = _known(start_entropy)
        metrics["sfpo/entropy_z"] = z
        return last, metrics

    def _passes(self, runner: PassRunner, alpha: float, metrics: dict[str, float | None]) -> dict[str, float]:
        """Run an active batch; return the last pass's metrics."""
        copies = self.preset != "grpo_k_passes"
        has_slow_pass = self.preset != "lookahead"
        chosen: set[int] = set()

        def choose(advantages: Sequence[float], train_batch: int) -> dict[int, float]:
            chosen.add(train_batch)
            return self._part.choose(advantages, f"{self.gate.batches} {train_batch}")

        if copies:
            metrics["sfpo/snapshot_bytes"] = float(self._copy.take(overlap=True))
        for index in range(self.k):
            final = index == self.k - 1
            self._on_stage(f"fast {index + 1}/{self.k}")
            fast = self._run(
                runner,
                Pass(
                    "fast",
                    advances_schedule=final and not has_slow_pass,
                    before_first_step=self._copy.wait if index == 0 else _nothing,
                    choose=None if self._part.is_whole else choose,
                    whole_divisors=self._part.rescale,
                    repositioned_next=final and self.preset in ("sfpo", "lookahead"),
                ),
            )
            if not (chosen or self._part.is_whole):
                raise RuntimeError("the trainer's run_pass must call Pass.choose, and it did not")
            metrics["sfpo/fast_passes"] = index + 1.0
            if self._limits.exceeded(fast):
                break
        # How far the fast trajectory moved from theta_0: the last pass sees the movement of those before it.
        metrics.update({"sfpo/fast_kl": fast["ppo_kl"], "sfpo/fast_clip_ratio": fast["clip_ratio"]})

        def reposition() -> None:
            self._on_stage("reposition")
            moved = self._copy.reposition(alpha, refresh=self.preset != "extragradient")
            metrics["sfpo/displacement"] = moved.norm
            metrics["sfpo/displacement_rel"] = moved.relative
            metrics["sfpo/reposition_seconds"] = moved.seconds
            self._copy.release()

        if self.preset == "extragradient":
            return self._slow_pass(runner, before_first_step=reposition)
        if copies:
            reposition()
        return self._slow_pass(runner) if has_slow_pass else fast

    def _slow_pass(self, runner: PassRunner, **options: Any) -> dict[str, float]:
        self._on_stage("slow")
        return self._run(runner, Pass("slow", advances_schedule=True, **options))

    def _run(self, runner: PassRunner, pass_: Pass) -> dict[str, float]:
        called: list[bool] = []

        def before_first_step() -> None:
            pass_.before_first_step()
            called.append(True)

        self.backward_passes_total += 1
        metrics = runner.run_pass(replace(pass_, before_first_step=before_first_step))
        if not called:
            raise RuntimeError("the trainer's run_pass must call Pass.before_first_step, and it did not")
        tokens = metrics.pop("backward_tokens", None)
        if tokens is not None:
            self.backward_tokens_total = (self.backward_tokens_total or 0.0) + tokens
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Gate and counters, as plain Python values."""
        return {
            "gate": self.gate.state_dict(),
            "backward_passes_total": self.backward_passes_total,
            "backward_tokens_total": self.backward_tokens_total,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gate.load_state_dict(state["gate"])
        self.backward_passes_total = state["backward_passes_total"]
        self.backward_tokens_total = state.get("backward_tokens_total")  # older checkpoints lack it


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
