"""The gate that turns SFPO off for good once the policy's entropy starts to misbehave.

Paper: Algorithm 1 fires on |z| >= tau. Released code: fires on z >= tau (rising entropy only). The two are not
interchangeable: a steadily falling entropy has a strongly negative z and would fire the two-sided gate at once.
"""

import math
from collections import deque
from typing import Any, Literal

Side = Literal["upper", "two_sided", "off"]


class EntropyGate:
    """Decides, before each rollout batch, whether the fast passes and the reposition run.

    After each batch `observe` takes the policy entropy. Once `window` values are there, the z-score of the newest one
    is z = (H - mean) / (std + 1e-9) with the population standard deviation, the newest value included, as in the
    released code. The gate closes when z >= threshold (`upper`) or |z| >= threshold (`two_sided`) and stays closed.

    Args:
        side: which deviations close the gate; `off` never closes it.
        window: how many entropies are kept; the gate cannot close before that many were seen.
        threshold: tau, in standard deviations.
        stop_step: close after this many batches whatever the entropy does; None for never.

    Raises:
        ValueError: window < 2, threshold <= 0 or stop_step < 0.
    """

    def __init__(
        self, side: Side = "upper", window: int = 30, threshold: float = 1.0, stop_step: int | None = None
    ) -> None:
        if window < 2:
            raise ValueError(f"window must be at least 2, got {window}")
        if threshold <= 0:
            raise ValueError(f"threshold must be positive, got {threshold}")
        if stop_step is not None and stop_step < 0:
            raise ValueError(f"stop_step must not be negative, got {stop_step}")
        self.side = side
        self.threshold = threshold
        self.stop_step = stop_step
        self.batches = 0
        self.closed_at: int | None = None
        self._entropies: deque[float] = deque(maxlen=window)

    @property
    def is_open(self) -> bool:
        """Whether the next batch runs SFPO rather than plain GRPO."""
        stopped = self.stop_step is not None and self.batches >= self.stop_step
        return self.closed_at is None and not stopped

    def observe(self, entropy: float) -> float | None:
        """Record the entropy (nats per token) of the batch just trained on; return its z-score.

        Returns None while the window is not full.
        """
        self.batches += 1
        self._entropies.append(entropy)
        if len(self._entropies) < self._entropies.maxlen:
            return None
        mean = math.fsum(self._entropies) / len(self._entropies)
        variance = math.fsum((h - mean) ** 2 for h in self._entropies) / len(self._entropies)
        z = (entropy - mean) / (math.sqrt(variance) + 1e-9)
        fires = {"upper": z >= self.threshold, "two_sided": abs(z) >= self.threshold, "off": False}[self.side]
        if fires and self.closed_at is None:
            self.closed_at = self.batches
        return z

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a restart, as plain Python values."""
        return {"batches": self.batches, "closed_at": self.closed_at, "entropies": list(self._entropies)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. A smaller window keeps the newest entropies."""
        self.batches = state["batches"]
        self.closed_at = state["closed_at"]
        self._entropies = deque(state["entropies"], maxlen=self._entropies.maxlen)
