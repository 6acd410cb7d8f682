"""A complete plan, and whether it fits."""

import functools
from dataclasses import dataclass

from openrlhf_sfpo.plan import allowances, head, schedule, sync
from openrlhf_sfpo.plan.activations import forward_of_layer
from openrlhf_sfpo.plan.engine import EnginePlan, engine
from openrlhf_sfpo.plan.host import HostItem, host_items
from openrlhf_sfpo.plan.phases import Phase, phases
from openrlhf_sfpo.plan.setup import Setup, gib
from openrlhf_sfpo.plan.state import State, reference_parameters, states
from openrlhf_sfpo.plan.sync import SyncPlan
from openrlhf_sfpo.system.units import GIB


@dataclass(frozen=True)
class StagePlan:
    """One pipeline stage of the actor.

    Attributes:
        state: the permanent memory of its GPUs.
        phases: the memory in each phase.
    """

    state: State
    phases: list[Phase]

    @property
    def worst(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)


@dataclass(frozen=True)
class Plan:
    """The memory that a run needs.

    Attributes:
        setup: the plan's input.
        gpu_bytes: memory of a GPU.
        stages: the actor's pipeline stages.
        engine: memory of an engine's GPUs; None without engines.
        reference: bytes on each GPU of a reference model with its own GPUs; 0 without one.
        sync: one transfer of weights.
        checkpoint_bytes: the size of a checkpoint.
        host: host memory of the actor's nodes.
    """

    setup: Setup
    gpu_bytes: int
    stages: list[StagePlan]
    engine: EnginePlan | None
    reference: int
    sync: SyncPlan
    checkpoint_bytes: int
    host: list[HostItem]

    @property
    def worst(self) -> StagePlan:
        """The stage that needs the most memory."""
        return max(self.stages, key=lambda stage: stage.worst.total)

    @functools.cached_property
    def problems(self) -> list[str]:
        """Descriptions of what does not fit; empty if everything does."""
        found = []
        peak = self.worst.worst
        if peak.total > self.gpu_bytes:
            found.append(f"the actor needs {gib(peak.total)} GiB in the {peak.name}, of {gib(self.gpu_bytes)}")
        if self.reference > self.gpu_bytes:
            found.append(f"the reference model needs {gib(self.reference)} GiB of {gib(self.gpu_bytes)}")
        if self.engine is not None and not self.engine.fits:
            found.append(
                f"an engine has {gib(self.engine.cache)} GiB for keys and values, and a sequence of "
                f"{self.setup.max_len} tokens takes {gib(self.engine.token * self.setup.max_len)}"
            )
        return found

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def bubble(self) -> float:
        """The pipeline bubble with samples of full length, which give the most micro-batches."""
        return schedule.bubble(self.setup, schedule.micro_batches(self.setup))


def make_plan(setup: Setup, gpu_memory_gb: float) -> Plan:
    """Calculate the memory that a run needs.

    Args:
        setup: its layout fits the model (`Setup.check`).
        gpu_memory_gb: memory of a GPU in GiB.
    """
    gpu_bytes = int(gpu_memory_gb * GIB)
    found = states(setup)
    reference = reference_parameters(setup, found)
    return Plan(
        setup=setup,
        gpu_bytes=gpu_bytes,
        stages=[StagePlan(state, phases(setup, state, reference, gpu_bytes)) for state in found],
        engine=engine(setup, gpu_bytes) if setup.engines.count else None,
        reference=_with_its_own_gpus(setup, reference) if setup.reference_gpus else 0,
        sync=sync.sync(setup),
        checkpoint_bytes=sync.checkpoint_bytes(setup),
        host=host_items(setup, found),
    )


def _with_its_own_gpus(setup: Setup, parameters: int) -> int:
    """Memory of a reference model on its own GPUs, which only computes log-probabilities."""
    passing = max(forward_of_layer(setup), head.forward(setup))
    return parameters + passing + allowances.context(setup) + allowances.fragmentation(setup, passing)
