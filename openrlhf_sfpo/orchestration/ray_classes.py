"""The classes behind OpenRLHF's Ray actor classes."""

from typing import Any


def unwrap_ray_class(actor_class: Any) -> type[Any]:
    """The class behind a Ray actor class, which cannot be subclassed itself."""
    return actor_class.__ray_metadata__.modified_class.__ray_actor_class__
