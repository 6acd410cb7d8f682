"""The placement of ranks on GPUs that OpenRLHF requests from Ray: packed node by node."""

from dataclasses import dataclass

from openrlhf_sfpo.plan.setup import GPUS_PER_NODE, Setup

_LONGEST = 8  # rows of model copies that are listed; more are summarized


@dataclass(frozen=True)
class Held:
    """Consecutive GPUs with the same use.

    Attributes:
        gpus: the first and the last, numbered across all nodes of the owner.
        what: description of the use.
    """

    gpus: tuple[int, int]
    what: str


def actor_ranks(setup: Setup) -> list[Held]:
    """The actor's ranks: tensor-parallel ranks are consecutive, then context-parallel ones, then pipeline stages, then
    copies of the model. Many copies are summarized, because all are alike after the first."""
    layout, held = setup.layout, []
    width = layout.tp * setup.layout.cp
    written_out = setup.dp if setup.dp * layout.pp <= _LONGEST else 1
    for copy in range(written_out):
        for stage in range(layout.pp):
            first = copy * setup.layout.model_parallel_size + stage * width
            names = [f"DP {copy}", f"PP {stage}"]
            if setup.layout.cp > 1:
                names.append(f"CP 0-{setup.layout.cp - 1}")
            names.append("TP 0" if layout.tp == 1 else f"TP 0-{layout.tp - 1}")
            held.append(Held((first, first + width - 1), ", ".join(names)))
    if written_out < setup.dp:
        rest = f"DP {written_out}" + (f"-{setup.dp - 1}" if setup.dp > written_out + 1 else "")
        text = f"{rest}: every {setup.layout.model_parallel_size} GPUs one copy, as above"
        held.append(Held((written_out * setup.layout.model_parallel_size, setup.gpus - 1), text))
    return held


def reference_ranks(setup: Setup) -> list[Held]:
    """A reference model with its own GPUs; it has the actor's layout."""
    if not setup.reference_gpus:
        return []
    copies = setup.reference_gpus // setup.layout.model_parallel_size
    return [Held((0, setup.reference_gpus - 1), f"{copies} copies, TP, PP and CP as the actor's")]


def engine_ranks(setup: Setup) -> list[Held]:
    """The engines, one after another."""
    engines = setup.engines
    if not engines.count:
        return []
    if engines.count > _LONGEST:
        return [Held((0, engines.gpus - 1), f"engines 0-{engines.count - 1}, every {engines.tp} GPUs one engine")]
    return [
        Held((number * engines.tp, (number + 1) * engines.tp - 1), f"engine {number}")
        for number in range(engines.count)
    ]


def place(gpus: tuple[int, int], per_node: int) -> str:
    """The place of consecutive GPUs, as text."""
    (first_node, first), (last_node, last) = (divmod(gpu, per_node) for gpu in gpus)
    if first_node == last_node:
        return f"node {first_node}, GPU {first}" + (f"-{last}" if last > first else "")
    if (first, last) == (0, per_node - 1):
        return f"nodes {first_node}-{last_node}"
    return f"node {first_node}, GPU {first}, to node {last_node}, GPU {last}"


def remarks(setup: Setup) -> list[str]:
    """Warnings about slow placements."""
    found = []
    if setup.gpus > setup.gpus_per_node and setup.gpus_per_node % setup.layout.tp:
        found.append(
            f"TP {setup.layout.tp} does not divide a node's {setup.gpus_per_node} GPUs: some layers are split over "
            "nodes, whose network is many times slower than NVLink."
        )
    if setup.engines.tp > GPUS_PER_NODE:
        found.append(f"an engine of {setup.engines.tp} GPUs is split over nodes.")
    return found
