"""The SFPO algorithm (arXiv 2510.04072): three stages around any optimizer, and the gate that ends it.

This package imports only torch.
"""

from openrlhf_sfpo.sfpo.gate import EntropyGate
from openrlhf_sfpo.sfpo.part import FastPart
from openrlhf_sfpo.sfpo.slow_copy import Displacement, SlowCopy, reposition_
from openrlhf_sfpo.sfpo.update import Choice, FastLimits, Pass, PassRunner, SlowFastUpdate
from openrlhf_sfpo.sfpo.weights import OwnedWeights, Shard, TorchWeights

__all__ = [
    "Choice",
    "Displacement",
    "EntropyGate",
    "FastLimits",
    "FastPart",
    "OwnedWeights",
    "Pass",
    "PassRunner",
    "Shard",
    "SlowCopy",
    "SlowFastUpdate",
    "TorchWeights",
    "reposition_",
]
