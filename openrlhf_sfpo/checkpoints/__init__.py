"""Checkpoint directories: which are whole, which is the newest, which go. Knows the file system and nothing of training."""
