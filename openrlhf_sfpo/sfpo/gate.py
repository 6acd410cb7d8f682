"""The gate that ends SFPO once training starts to misbehave.

Paper: Algorithm 1 fires on |z| >= tau. Released code: fires on z >= tau (rising entropy only). The two are not
interchangeable: a steadily falling entropy has a strongly negative z and would fire the two-sided gate at once. The
other kinds are those of PrePO (arXiv 2605.06755).
"""

import math
from collections import deque
from typing import Any, Literal

GateKind = Literal["upper", "two_sided", "baseline", "grad_norm", "cosine", "off"]
GateReading = Literal["entropy", "grad_norm", "cosine"]
AfterFiring = Literal["latch", "decay", "reopen"]
_LEAST_DEVIATION = 0.01  # of `grad_norm`


class Gate:
    """Decides before each rollout batch which fraction of alpha applies; with 0 the batch is plain GRPO.

    `observe` takes a value of each batch, and the value fires if its score is at or above the threshold; after
    `patience` values in a row that fire, the gate closes. Values and scores:

    | kind        | value                        | score                                                              |
    | `upper`     | entropy, nats per token      | z = (H - mean) / (std + 1e-9) over the last `window` values, with  |
    |             |                              | the newest among them and the population's deviation (the authors' |
    |             |                              | code); none before there are as many                               |
    | `two_sided` | entropy                      | absolute value of the same (the paper)                             |
    | `baseline`  | entropy                      | z over the `window` values before the newest; values that fire do  |
    |             |                              | not become part of the window                                      |
    | `grad_norm` | norm of the slow pass's last | (H - m) / (s + 1e-8); then s^2 <- (1 - w) s^2 + w (H - m)^2, s at  |
    |             | gradient, before clipping    | least 0.01, and m <- (1 - w) m + w H, with w = 2 / (window + 1)    |
    |             |                              | and m = s = 1 at first                                             |
    | `cosine`    | cosine of the gradients of   | 1 - its absolute value                                             |
    |             | the first train batch at     |                                                                    |
    |             | theta_0 and after the        |                                                                    |
    |             | reposition                   |                                                                    |
    | `off`       | entropy                      | that of `upper`, and nothing fires                                 |

    Args:
        kind: one of the above.
        window: see above.
        threshold: tau.
        stop_step: close after this many batches regardless of the values; None for never.
        warmup: values at the start that enter the window but do not fire.
        patience: how many values in a row must fire.
        after: the effect of closing. `latch`: no more SFPO. `decay`: alpha falls linearly to zero over the next
            `decay_steps` batches, then no more SFPO. `reopen`: no SFPO until a value does not fire.
        decay_steps: batches with a reduced alpha, for `decay`: the i-th has alpha (1 - i / (decay_steps + 1)).

    Raises:
        ValueError: an unknown kind, window < 2, threshold <= 0, patience < 1, a negative stop_step or warmup,
            decay_steps < 1 with `decay`, or `cosine` with `reopen`, since GRPO has no such value.
    """

    def __init__(
        self,
        kind: GateKind = "upper",
        window: int = 30,
        threshold: float = 1.0,
        stop_step: int | None = None,
        warmup: int = 0,
        patience: int = 1,
        after: AfterFiring = "latch",
        decay_steps: int = 10,
    ) -> None:
        if kind not in ("upper", "two_sided", "baseline", "grad_norm", "cosine", "off"):
            raise ValueError(f"unknown kind {kind!r}")
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
        if kind == "cosine" and after == "reopen":
            raise ValueError("a cosine gate cannot reopen: without SFPO there is no cosine to observe")
        self.kind = kind
        self.window = window
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
        self._values: deque[float] = deque(maxlen=window)
        self._mean, self._variance = 1.0, 1.0

    @property
    def reads(self) -> GateReading:
        """What `observe` takes."""
        return self.kind if self.kind in ("grad_norm", "cosine") else "entropy"

    @property
    def alpha_scale(self) -> float:
        """The fraction of alpha for the next batch: 1 while the gate is open, 0 for plain GRPO."""
        if self.stop_step is not None and self.batches >= self.stop_step:
            return 0.0
        if self.closed_at is None or self.kind == "off":
            return 1.0
        if self.after == "decay":
            return max(0.0, 1.0 - (self.batches - self.closed_at + 1) / (self.decay_steps + 1))
        return 0.0

    def observe(self, value: float) -> float | None:
        """Record a batch's value; return its z-score (of `cosine`, its score), or None while there is none. A value
        that is not finite is ignored: it would keep all later ones from firing."""
        if not math.isfinite(value):
            return None
        self._observed += 1
        score = self._score(value)
        if score is None:
            return None
        fires = (abs(score) if self.kind == "two_sided" else score) >= self.threshold
        fires = fires and self._observed > self.warmup and self.kind != "off"
        if self.kind == "baseline" and not fires:
            self._values.append(value)
        self._fired_in_a_row = self._fired_in_a_row + 1 if fires else 0
        if self._fired_in_a_row >= self.patience and self.closed_at is None:
            self.closed_at = self.batches
        elif self._fired_in_a_row == 0 and self.after == "reopen":
            self.closed_at = None
        return score

    def _score(self, value: float) -> float | None:
        if self.kind == "cosine":
            return 1.0 - abs(value)
        if self.kind == "grad_norm":
            score = (value - self._mean) / (math.sqrt(self._variance) + 1e-8)
            weight = 2.0 / (self.window + 1)
            variance = (1.0 - weight) * self._variance + weight * (value - self._mean) ** 2
            self._variance = max(variance, _LEAST_DEVIATION**2)
            self._mean = (1.0 - weight) * self._mean + weight * value
            return score
        if self.kind != "baseline" or len(self._values) < self.window:
            self._values.append(value)
            if self.kind == "baseline":
                return None
        if len(self._values) < self.window:
            return None
        mean = math.fsum(self._values) / self.window
        variance = math.fsum((h - mean) ** 2 for h in self._values) / self.window
        return (value - mean) / (math.sqrt(variance) + 1e-9)

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
            "values": list(self._values),
            "reads": self.reads,
            "mean": self._mean,
            "variance": self._variance,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state under this gate's options: a smaller window keeps the newest values, a gate that reads
        something else begins to observe anew, and a gate that is `off` is open regardless of the saved state."""
        self.batches = state["batches"]
        self.closed_at = state["closed_at"]
        if state.get("reads", "entropy") != self.reads:
            return
        self._observed = state["observed"]
        self._fired_in_a_row = state["fired_in_a_row"]
        values = state["entropies"] if "entropies" in state else state["values"]  # the former in older checkpoints
        self._values = deque(values, maxlen=self.window)
        self._mean, self._variance = state.get("mean", 1.0), state.get("variance", 1.0)
