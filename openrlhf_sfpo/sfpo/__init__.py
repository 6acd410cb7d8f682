"""The SFPO algorithm (arXiv 2510.04072): three stages around any optimizer, and the gate that ends it.

This package imports only torch.
"""

from openrlhf_sfpo.sfpo.adaptive_entropy import AdaptiveEntropy
from openrlhf_sfpo.sfpo.extrapolation import PredictiveSettings
from openrlhf_sfpo.sfpo.gate import Gate
from openrlhf_sfpo.sfpo.outer_momentum import OuterMomentum
from openrlhf_sfpo.sfpo.part import FastPart
from openrlhf_sfpo.sfpo.slow_copy import Displacement, SlowCopy, reposition_
from openrlhf_sfpo.sfpo.update import GATE_METRICS, Choice, FastLimits, Pass, PassRunner, SlowFastUpdate
from openrlhf_sfpo.sfpo.weights import OUTER_MOMENTUM, OwnedWeights, Part, Shard, ShardedTorchWeights, TorchWeights

__all__ = [
    "GATE_METRICS",
    "OUTER_MOMENTUM",
    "AdaptiveEntropy",
    "Choice",
    "Displacement",
    "FastLimits",
    "FastPart",
    "Gate",
    "OuterMomentum",
    "OwnedWeights",
    "Part",
    "Pass",
    "PassRunner",
    "PredictiveSettings",
    "Shard",
    "ShardedTorchWeights",
    "SlowCopy",
    "SlowFastUpdate",
    "TorchWeights",
    "reposition_",
]
