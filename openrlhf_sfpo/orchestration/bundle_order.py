"""Assigns the bundles of a placement group to OpenRLHF's ranks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup


def node_by_node(placement_group: "PlacementGroup", placement_group_bundle_index: int, **options: Any) -> Any:
    """Replaces Ray's `PlacementGroupSchedulingStrategy` where OpenRLHF gives rank r bundle r. Assigns bundles in node
    order, as vLLM does.

    Ray packs bundles onto nodes, but with 17 or more their numbers are not in node order (ray-project/ray#51117): with
    four nodes of eight ranks, every tensor-parallel group would span two nodes.
    """
    from openrlhf.trainer.ray.utils import get_bundle_indices
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    (bundle,) = get_bundle_indices(placement_group, placement_group_bundle_index, 1)
    return PlacementGroupSchedulingStrategy(
        placement_group=placement_group, placement_group_bundle_index=bundle, **options
    )
