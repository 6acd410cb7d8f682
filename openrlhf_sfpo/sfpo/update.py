"""One SFPO update over a rollout batch: fast passes, reposition, slow pass (arXiv 2510.04072, Algorithm 1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from openrlhf_sfpo.sfpo.gate import EntropyGate

Stage = Literal["fast", "slow"]
# Elements handled at a time, so that the temporary difference stays small beside the shard it is taken of.
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Displacement:
    """What a reposition saw, over all ranks.

    Attributes:
        norm: ||theta_fast - theta_slow||_2, before the move.
        slow_norm: ||theta_slow||_2.
        seconds: wall-clock time of the reposition on the slowest rank.
    """

    norm: float
    slow_norm: float
    seconds: float

    @property
    def relative(self) -> float:
        return self.norm / self.slow_norm if self.slow_norm > 0 else math.nan


class PassRunner(Protocol):
    """What the algorithm asks of a trainer. Every rank calls every method in the same order."""

    def run_pass(self, stage: Stage) -> dict[str, float]:
        """Traverse the rollout batch once with ordinary optimizer steps; return metrics reduced over all ranks.

        Old log-probabilities and advantages are those of theta_0 in every pass. Only the slow pass advances the
        learning-rate schedule. Required keys: `entropy`, `ppo_kl`, `clip_ratio`; the slow pass may add
        `momentum_grad_cosine`.
        """

    def snapshot(self) -> int:
        """Keep a copy of the fp32 weights as theta_slow; return its bytes on the largest rank."""

    def reposition(self, alpha: float) -> Displacement:
        """theta <- theta_slow + alpha * (theta - theta_slow) in place on the fp32 weights, then refresh the copies
        that the next forward pass reads."""

    def release_snapshot(self) -> None:
        """Free theta_slow. Called also after a failure; must be harmless when there is no snapshot."""


def reposition_(fast: torch.Tensor, slow: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """fast <- slow + alpha * (fast - slow), in place.

    alpha = 1 leaves `fast` and alpha = 0 gives `slow` to the bit (a property of `lerp`).

    Args:
        fast: fp32 weights after the fast passes, any shape, contiguous; overwritten.
        slow: fp32 weights before them, same shape, on the same device or in host memory.
        alpha: step size in [0, 1].

    Returns:
        The squared L2 norms of (fast - slow), before the move, and of slow: fp64 scalars.
    """
    moved = torch.zeros((), dtype=torch.float64, device=fast.device)
    start = torch.zeros((), dtype=torch.float64, device=fast.device)
    for fast_part, slow_part in zip(fast.view(-1).split(_CHUNK), slow.view(-1).split(_CHUNK), strict=True):
        slow_part = slow_part.to(fast.device, non_blocking=True)
        moved += torch.linalg.vector_norm(fast_part - slow_part, dtype=torch.float64) ** 2
        start += torch.linalg.vector_norm(slow_part, dtype=torch.float64) ** 2
        fast_part.lerp_(slow_part, 1.0 - alpha)
    return moved, start


class SlowFastUpdate:
    """Drives the three stages over a `PassRunner` and keeps what must survive between rollout batches.

    With k = 0, or once the gate has closed, an update is exactly one slow pass: GRPO.

    Args:
        k: number of fast passes over the rollout batch.
        alpha: step size of the reposition, in [0, 1].
        gate: decides before each batch whether stages 1 and 2 run.
        on_stage: called with a stage's name as it begins ("fast 1/3", "reposition", "slow"), for progress display.

    Raises:
        ValueError: k < 0 or alpha outside [0, 1].
    """

    def __init__(
        self, k: int, alpha: float, gate: EntropyGate, on_stage: Callable[[str], None] = lambda stage: None
    ) -> None:
        if k < 0:
            raise ValueError(f"k must not be negative, got {k}")
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        self.k = k
        self.alpha = alpha
        self.gate = gate
        self.backward_passes_total = 0
        self._on_stage = on_stage

    def step(self, runner: PassRunner) -> tuple[dict[str, float], dict[str, float | None]]:
        """Update on one rollout batch.

        Returns:
            The slow pass's metrics as `run_pass` gave them, and the `sfpo/*` metrics.
        """
        active = self.k > 0 and self.gate.is_open
        metrics: dict[str, float | None] = {
            "sfpo/active": float(active),
            "sfpo/alpha": self.alpha if active else 0.0,
            "sfpo/displacement": 0.0,
            "sfpo/displacement_rel": 0.0,
            "sfpo/fast_kl": 0.0,
            "sfpo/fast_clip_ratio": 0.0,
            "sfpo/snapshot_bytes": 0.0,
            "sfpo/reposition_seconds": 0.0,
        }
        if active:
            metrics.update(self._fast_and_reposition(runner))
        self._on_stage("slow")
        slow = runner.run_pass("slow")
        self.backward_passes_total += 1 + (self.k if active else 0)
        metrics["sfpo/momentum_grad_cosine"] = slow.get("momentum_grad_cosine")
        metrics["sfpo/backward_passes_total"] = float(self.backward_passes_total)
        metrics["sfpo/entropy"] = slow["entropy"]
        metrics["sfpo/entropy_z"] = self.gate.observe(slow["entropy"])
        return slow, metrics

    def _fast_and_reposition(self, runner: PassRunner) -> dict[str, float]:
        try:
            snapshot_bytes = runner.snapshot()
            for index in range(self.k):
                self._on_stage(f"fast {index + 1}/{self.k}")
                last_fast = runner.run_pass("fast")
            self._on_stage("reposition")
            displacement = runner.reposition(self.alpha)
        finally:
            runner.release_snapshot()
        return {
            "sfpo/displacement": displacement.norm,
            "sfpo/displacement_rel": displacement.relative,
            # Where the fast trajectory ended up against theta_0: the K-th pass sees K-1 passes' worth of movement.
            "sfpo/fast_kl": last_fast["ppo_kl"],
            "sfpo/fast_clip_ratio": last_fast["clip_ratio"],
            "sfpo/snapshot_bytes": float(snapshot_bytes),
            "sfpo/reposition_seconds": displacement.seconds,
        }

    def state_dict(self) -> dict[str, Any]:
        """Gate and counters, as plain Python values."""
        return {"gate": self.gate.state_dict(), "backward_passes_total": self.backward_passes_total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gate.load_state_dict(state["gate"])
        self.backward_passes_total = state["backward_passes_total"]
