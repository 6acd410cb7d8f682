"""An entropy bonus that is on only while the policy's entropy is below a target (Skywork-OR1, arXiv 2505.22312)."""

from dataclasses import dataclass
from typing import Any


@dataclass
class AdaptiveEntropy:
    """The weight of the entropy bonus, one for each rollout batch.

    With the entropy e at theta_0 and the target e*, a batch's bonus has the weight c where e < e*, and 0 elsewhere.
    Afterwards c rises by `delta` where e < e*, and falls by it elsewhere, within 0 and `most`.

    Attributes:
        enable: without it the weight is always 0.
        target: e*, in nats per token.
        delta: the step of c.
        most: the largest c.
        coefficient: c.
    """

    enable: bool = False
    target: float = 0.2
    delta: float = 1e-4
    most: float = 5e-3
    coefficient: float = 0.0

    def weight(self, entropy: float) -> float:
        """The weight for a batch, whose entropy is given; adjusts c for the next one. A batch without tokens (NaN)
        changes nothing."""
        if not self.enable or entropy != entropy:
            return 0.0
        low = entropy < self.target
        used = self.coefficient if low else 0.0
        self.coefficient = min(max(self.coefficient + (self.delta if low else -self.delta), 0.0), self.most)
        return used

    def state_dict(self) -> dict[str, Any]:
        """What a run continues with."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.coefficient = state["coefficient"]
