"""The random numbers of a process: read, set, and kept as they are."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch


def rng_state() -> dict[str, Any]:
    """The random numbers of this process."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """The reverse of `rng_state`."""
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Around evaluations: whether a run that is continued makes one more must not change what comes after."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
