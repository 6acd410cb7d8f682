"""OpenRLHF with a Megatron-Core actor that trains with Slow-Fast Policy Optimization (SFPO)."""

__version__ = "0.1.0"
