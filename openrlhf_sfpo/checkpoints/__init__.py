"""Checkpoint directories: which are whole, which is the newest, which go; and the models in them."""
