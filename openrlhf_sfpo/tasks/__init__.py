"""Prompts and rewards: where they come from, and checking them before anything expensive starts."""
