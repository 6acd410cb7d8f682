"""OpenRLHF with a Megatron-Core actor that trains with Slow-Fast Policy Optimization (SFPO)."""

__version__ = "0.2.0"
