"""SFPO on OpenRLHF's own DeepSpeed actor."""
