"""Checkpoint directories: finding complete ones, rotating them, and exporting their models."""
