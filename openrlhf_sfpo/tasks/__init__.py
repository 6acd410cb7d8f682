"""Prompts and rewards: loading them, and checking them before anything expensive starts."""
