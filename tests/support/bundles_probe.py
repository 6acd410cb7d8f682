"""Run as a program: which machine OpenRLHF gives each rank, on three machines of six GPUs each. Prints JSON.

The machines are Ray nodes on this one; the ranks are requested but not started.
"""

import json
from typing import Any

import ray
from ray.cluster_utils import Cluster

MACHINES, GPUS = 3, 6


class Asked:
    """Stands in for the class of the ranks and for each rank; records their scheduling strategies."""

    def __init__(self) -> None:
        self.strategies: list[Any] = []

    def options(self, scheduling_strategy: Any, **resources: Any) -> "Asked":
        self.strategies.append(scheduling_strategy)
        return self

    def remote(self, *arguments: Any) -> Any:
        return self if arguments else ray.put(("address", 0))

    @property
    def get_master_addr_port(self) -> "Asked":
        return self


def machines_of_ranks(strategy: Any) -> list[str]:
    """The machine of each rank, with `strategy` in place of Ray's."""
    from openrlhf.trainer.ray import launcher

    from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
    from openrlhf_sfpo.system.replacements import replaced

    asked = Asked()
    with replaced(REPLACEMENTS["openrlhf.trainer.ray.launcher.PlacementGroupSchedulingStrategy"], strategy):
        launcher.RayActorGroup(MACHINES, GPUS, asked)
    group = asked.strategies[0].placement_group
    machines = ray.util.placement_group_table(group)["bundles_to_node_id"]
    ray.util.remove_placement_group(group)
    return [machines[strategy.placement_group_bundle_index] for strategy in asked.strategies]


def main() -> None:
    from openrlhf_sfpo.system import flash_attn_stub

    flash_attn_stub.install_if_missing()
    cluster = Cluster()
    for _ in range(MACHINES):
        cluster.add_node(num_cpus=GPUS, num_gpus=GPUS, object_store_memory=80 * 2**20, include_dashboard=False)
    ray.init(address=cluster.address, log_to_driver=False)
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from openrlhf_sfpo.orchestration.bundle_order import node_by_node

    found = {
        "ray": machines_of_ranks(PlacementGroupSchedulingStrategy),
        "ours": machines_of_ranks(node_by_node),
    }
    print(json.dumps(found))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
