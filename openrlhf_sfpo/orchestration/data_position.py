"""A run's position in its data, in the form that OpenRLHF saves and restores."""

from collections.abc import Sized
from typing import Any, Protocol


class HasPosition(Protocol):
    """A sample generator whose position in the data can be saved."""

    def state_dict(self) -> dict[str, Any]:
        """The position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position."""


class DataPosition:
    """Replaces the prompt loader where OpenRLHF saves its position, and delegates to the generator, which also holds
    the random state and leftover samples.

    Args:
        loader: OpenRLHF's.
        generator: a `SampleGenerator` or a `Replay`.
    """

    def __init__(self, loader: Sized, generator: HasPosition) -> None:
        self._loader = loader
        self.state_dict = generator.state_dict
        self.load_state_dict = generator.load_state_dict

    def __len__(self) -> int:
        return len(self._loader)
