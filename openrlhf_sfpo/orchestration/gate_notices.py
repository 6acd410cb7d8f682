"""Reports, with the reason, that the gate has closed: from then on the step lines show GRPO instead of SFPO."""

from typing import Any

from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.sfpo import GATE_METRICS, SlowFastUpdate

NOTICE = "gate_notice"  # key in the result of an actor's `fit`: text for the console, not a metric
_NAMES = {"sfpo": "SFPO", "prepo": "PrePO"}
_SCORED = {
    "entropy": "z-score of the policy's entropy",
    "grad_norm": "z-score of the slow pass's gradient norm",
    "cosine": "cosine of the gradients before the fast passes and after the reposition",
}


class GateNotices:
    """Watches the gate of one update.

    Args:
        update: the update, with a checkpoint's state already loaded, if any.
    """

    def __init__(self, update: SlowFastUpdate) -> None:
        self._update = update
        self._closed = self._is_closed()
        self._stopped = self._is_stopped()

    def as_status(self, status: dict[str, Any], events: Events) -> dict[str, str]:
        """The entry with the notice to add to the result of `fit`, for our trainers, which know the step. OpenRLHF's
        own trainer would take it for a metric.

        Args:
            status: the batch's metrics.
            events: tells whether our driver listens.
        """
        text = self.look(status.get(GATE_METRICS[self._update.gate.reads]))
        if text is None:
            return {}
        if events.are_heard:
            return {NOTICE: text}
        print(text)
        return {}

    def look(self, z: float | None) -> str | None:
        """The notice after a batch, if any.

        Args:
            z: the score that the gate compares, or its cosine.
        """
        gate, update = self._update.gate, self._update
        was_closed, self._closed = self._closed, self._is_closed()
        was_stopped, self._stopped = self._stopped, self._is_stopped()
        plain = update.preset == "grpo" or (update.k == 0 and update.preset != "grpo_scaled_lr")
        if (plain and not update.has_outer_momentum) or was_stopped:
            return None
        name = "GRPO with an outer momentum" if plain else _NAMES.get(update.preset, update.preset)
        if self._stopped:
            return f"{name} ends here (--sfpo.stop_step {gate.stop_step}); the remaining updates are GRPO"
        if self._closed == was_closed:
            return None
        if not self._closed:
            return f"the gate is open again ({_SCORED[gate.reads]} {_number(z)}): updates are {name}"
        again = f" in {gate.patience} batches in a row" if gate.patience > 1 else ""
        what_follows = {
            "latch": "the remaining updates are GRPO",
            "decay": f"alpha falls to zero over the next {gate.decay_steps} batches, then updates are GRPO",
            "reopen": "updates are GRPO until it is below that again",
        }[gate.after]
        condition = {"two_sided": "|z| >= ", "cosine": "1 - |cosine| >= "}.get(gate.kind, "z >= ")
        window = "" if gate.kind == "cosine" else f", window {gate.window}"
        return (
            f"the gate closes: the {_SCORED[gate.reads]} is {_number(z)}, at or beyond the threshold {condition}"
            f"{gate.threshold:g}{again} (--sfpo.gate_threshold{window}); {what_follows}"
        )

    def _is_closed(self) -> bool:
        gate = self._update.gate
        return gate.closed_at is not None and gate.kind != "off"

    def _is_stopped(self) -> bool:
        gate = self._update.gate
        return gate.stop_step is not None and gate.batches >= gate.stop_step


def _number(z: float | None) -> str:
    return "unknown" if z is None else f"{z:.2f}"
