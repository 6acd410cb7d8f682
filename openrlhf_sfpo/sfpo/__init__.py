"""The SFPO algorithm (arXiv 2510.04072): three stages around any optimizer, and the gate that ends it.

This package needs torch and nothing else.
"""

from openrlhf_sfpo.sfpo.gate import EntropyGate
from openrlhf_sfpo.sfpo.update import Displacement, PassRunner, SlowFastUpdate, reposition_

__all__ = ["Displacement", "EntropyGate", "PassRunner", "SlowFastUpdate", "reposition_"]
