"""Getting weights into vLLM, and rollouts onto disk and back.

vLLM is imported inside the functions and modules that need it; importing this package does not.
"""
