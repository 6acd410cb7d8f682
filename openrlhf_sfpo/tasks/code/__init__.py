"""Rewards for programs: what a response's program is, what its tests are, and a sandbox to run it in."""
