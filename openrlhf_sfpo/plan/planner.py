"""A whole plan, and whether it fits."""

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
        state: what stays on its GPUs.
        phases: what is on them in each phase.
    """

    state: State
    phases: list[Phase]

    @property
    def worst(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        setup: what it was made for.
        gpu_bytes: memory of a GPU.
        stages: the actor's pipeline stages.
        engine: an engine's GPUs; None without engines.
        reference: bytes on each GPU of a reference model that has GPUs of its own; 0 without.
        sync: one transfer of weights.
        checkpoint_bytes: of a checkpoint.
        host: memory of the actor's nodes.
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
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.worst.total)

    @functools.cached_property
    def problems(self) -> list[str]:
        """What does not fit, as text; empty if everything does."""
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
        """With samples of full length, which make the most micro-batches."""
        return schedule.bubble(self.setup, schedule.micro_batches(self.setup))


def make_plan(setup: Setup, gpu_memory_gb: float) -> Plan:
    """Work out what a run takes.

    Args:
        setup: whose layout fits the model (`Setup.check`).
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
    """A reference model there only computes log-probabilities."""
    passing = max(forward_of_layer(setup), head.forward(setup))
    return parameters + passing + allowances.context(setup) + allowances.fragmentation(setup, passing)
