"""Writes run directories during a run, and reports on them."""
