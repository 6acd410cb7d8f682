"""The state of a process's random number generators: read, set, and preserve it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch


def rng_state() -> dict[str, Any]:
    """The state of this process's random number generators."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore a state from `rng_state`."""
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Preserve the random state. Used around evaluations, so that an additional one, as after a resume, does not change
    the training that follows."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
