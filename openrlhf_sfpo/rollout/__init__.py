"""Sends weights to vLLM, samples with it, and records rollouts on disk.

vLLM is imported inside the functions and modules that need it; importing this package does not.
"""
