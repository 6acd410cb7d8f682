"""The gate that ends SFPO once the policy's entropy starts to misbehave.

Paper: Algorithm 1 fires on |z| >= tau. Released code: fires on z >= tau (rising entropy only). The two are not
interchangeable: a steadily falling entropy has a strongly negative z and would fire the two-sided gate at once.
"""

import math
from collections import deque
from typing import Any, Literal

Side = Literal["upper", "two_sided", "off"]
AfterFiring = Literal["latch", "decay", "reopen"]


class EntropyGate:
    """Decides before each rollout batch which fraction of alpha applies; with 0 the batch is plain GRPO.

    `observe` takes the policy's entropy. Once there are `window` values, the z-score of the newest one is z = (H -
    mean) / (std + 1e-9) with the population standard deviation, the newest value included, as in the released code. A
    value fires when z >= threshold (`upper`) or |z| >= threshold (`two_sided`); after `patience` such values in a row
    the gate closes.

    Args:
        side: which deviations fire; `off` never closes the gate.
        window: how many entropies are kept; nothing fires before that many have been observed.
        threshold: tau, in standard deviations.
        stop_step: close after this many batches regardless of the entropy; None for never.
        warmup: entropies at the start that enter the window but do not fire.
        patience: how many values in a row must fire.
        after: the effect of closing. `latch`: no more SFPO. `decay`: alpha falls linearly to zero over the next
            `decay_steps` batches, then no more SFPO. `reopen`: no SFPO until a value does not fire.
        decay_steps: batches with a reduced alpha, for `decay`: the i-th has alpha (1 - i / (decay_steps + 1)).

    Raises:
        ValueError: window < 2, threshold <= 0, patience < 1, a negative stop_step or warmup, or decay_steps < 1 with
            `decay`.
    """

    def __init__(
        self,
        side: Side = "upper",
        window: int = 30,
        threshold: float = 1.0,
        stop_step: int | None = None,
        warmup: int = 0,
        patience: int = 1,
        after: AfterFiring = "latch",
        decay_steps: int = 10,
    ) -> None:
        if window < 2:
            raise ValueError(f"window must be at least 2, got {window}")
        if threshold <= 0:
            raise ValueError(f"threshold must be positive, got {threshold}")
        if stop_step is not None and stop_step < 0:
            raise ValueError(f"stop_step must not be negative, got {stop_step}")
        if warmup < 0:
            raise ValueError(f"warmup must not be negative, got {warmup}")
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        if after == "decay" and decay_steps < 1:
            raise ValueError(f"decay_steps must be at least 1, got {decay_steps}")
        self.side = side
        self.threshold = threshold
        self.stop_step = stop_step
        self.warmup = warmup
        self.patience = patience
        self.after = after
        self.decay_steps = decay_steps
        self.batches = 0
        self.closed_at: int | None = None
        self._observed = 0
        self._fired_in_a_row = 0
        self._entropies: deque[float] = deque(maxlen=window)

    @property
    def window(self) -> int:
        """The number of entropies in the z-score."""
        return self._entropies.maxlen or 0

    @property
    def alpha_scale(self) -> float:
        """The fraction of alpha for the next batch: 1 while the gate is open, 0 for plain GRPO."""
        if self.stop_step is not None and self.batches >= self.stop_step:
            return 0.0
        if self.closed_at is None or self.side == "off":
            return 1.0
        if self.after == "decay":
            return max(0.0, 1.0 - (self.batches - self.closed_at + 1) / (self.decay_steps + 1))
        return 0.0

    def observe(self, entropy: float) -> float | None:
        """Record an entropy (nats per token); return its z-score, or None while the window is not full. A non-finite
        value is ignored: it would keep all later ones from firing."""
        if not math.isfinite(entropy):
            return None
        self._entropies.append(entropy)
        self._observed += 1
        if len(self._entropies) < (self._entropies.maxlen or 0):
            return None
        mean = math.fsum(self._entropies) / len(self._entropies)
        variance = math.fsum((h - mean) ** 2 for h in self._entropies) / len(self._entropies)
        z = (entropy - mean) / (math.sqrt(variance) + 1e-9)
        fires = {"upper": z >= self.threshold, "two_sided": abs(z) >= self.threshold, "off": False}[self.side]
        self._fired_in_a_row = self._fired_in_a_row + 1 if fires and self._observed > self.warmup else 0
        if self._fired_in_a_row >= self.patience and self.closed_at is None:
            self.closed_at = self.batches
        elif self._fired_in_a_row == 0 and self.after == "reopen":
            self.closed_at = None
        return z

    def finish_batch(self) -> None:
        """Count a rollout batch, with or without SFPO."""
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        """The state that must survive a restart, as plain Python values."""
        return {
            "batches": self.batches,
            "closed_at": self.closed_at,
            "observed": self._observed,
            "fired_in_a_row": self._fired_in_a_row,
            "entropies": list(self._entropies),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state under this gate's options: a smaller window keeps the newest entropies, and a gate that is
        `off` is open regardless of the saved state."""
        self.batches = state["batches"]
        self.closed_at = state["closed_at"]
        self._observed = state["observed"]
        self._fired_in_a_row = state["fired_in_a_row"]
        self._entropies = deque(state["entropies"], maxlen=self._entropies.maxlen)
