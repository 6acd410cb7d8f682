"""The order in which OpenRLHF's ranks get the bundles of a placement group."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup


def node_by_node(placement_group: "PlacementGroup", placement_group_bundle_index: int, **options: Any) -> Any:
    """Stands for Ray's `PlacementGroupSchedulingStrategy` where OpenRLHF gives rank r the r-th bundle: it gives it the
    r-th in an order in which the bundles of a machine are neighbors, the one that vLLM engines on these bundles have.

    Ray packs bundles onto machines, but from 17 on their numbers are mixed up (ray-project/ray#51117): of four times
    eight ranks, every tensor-parallel group would be on two machines.
    """
    from openrlhf.trainer.ray.utils import get_bundle_indices
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    (bundle,) = get_bundle_indices(placement_group, placement_group_bundle_index, 1)
    return PlacementGroupSchedulingStrategy(
        placement_group=placement_group, placement_group_bundle_index=bundle, **options
    )
