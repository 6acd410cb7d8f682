"""Host memory of the actor's nodes: processes, and data that is moved or copied there."""

from dataclasses import dataclass

from openrlhf_sfpo.plan.allowances import PROCESS_BYTES
from openrlhf_sfpo.plan.setup import Setup
from openrlhf_sfpo.plan.state import State, reference_parameters


@dataclass(frozen=True)
class HostItem:
    """Bytes on each of the actor's nodes.

    Attributes:
        what: description.
        bytes: on the node with the most.
    """

    what: str
    bytes: int


def host_items(setup: Setup, states: list[State]) -> list[HostItem]:
    """The contents of host memory on a node with GPUs of the actor, without zeros. torch rounds each pinned tensor up
    to a power of two."""
    ranks = min(setup.gpus, setup.gpus_per_node)
    shard = max(state.shard for state in states) * ranks
    parameters = max(state.parameters for state in states) * ranks
    here = ranks if setup.colocated else 0
    sleeping = setup.engines.sleep and setup.engines.sleep_level == 1
    weights = setup.count * setup.engines.element // setup.engines.tp
    items = [
        HostItem("processes", PROCESS_BYTES * (ranks + here + 2)),
        HostItem(
            "theta_slow (--sfpo.snapshot_device cpu), pinned: up to twice that",
            setup.snapshot * shard * setup.snapshot_on_host,
        ),
        HostItem(
            "weights and moments before the update (--train.on_nonfinite skip), pinned: up to twice that",
            3 * shard * setup.skip_nonfinite,
        ),
        HostItem(
            "copies for a checkpoint (--ckpt.async_save)", (3 + setup.outer_momentum) * shard * setup.async_checkpoint
        ),
        HostItem(
            "main parameters and moments while the actor does not train (--ds.enable_sleep)",
            (3 + setup.outer_momentum) * shard * setup.actor_sleeps,
        ),
        HostItem(
            "parameters while the engines generate (--megatron.offload_parameters)", parameters * setup.parameters_sleep
        ),
        HostItem(
            "the reference model while it has nothing to do (--ref.offload)",
            reference_parameters(setup, states) * ranks * (setup.reference_here and setup.reference_offloaded),
        ),
        HostItem("sleeping engines' weights (--vllm.sleep_level 1)", weights * here * sleeping),
    ]
    return [item for item in items if item.bytes]
