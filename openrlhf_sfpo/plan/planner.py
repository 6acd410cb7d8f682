"""A whole plan, and whether it fits."""

import functools
from dataclasses import dataclass

from openrlhf_sfpo.plan import allowances, head, schedule, sync
from openrlhf_sfpo.plan.activations import forward_of_layer
from openrlhf_sfpo.plan.engine import EnginePlan, engine
from openrlhf_sfpo.plan.host import HostItem, host_items
from openrlhf_sfpo.plan.phases import Phase, phases
from openrlhf_sfpo.plan.setup import GIB, Setup
from openrlhf_sfpo.plan.state import State, reference_parameters, states
from openrlhf_sfpo.plan.sync import SyncPlan


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
        """What does not fit, in words; nothing if everything does."""
        found = []
        peak = self.worst.worst
        if peak.total > self.gpu_bytes:
            found.append(f"the actor needs {_gib(peak.total)} GiB in the {peak.name}, of {_gib(self.gpu_bytes)}")
        if self.reference > self.gpu_bytes:
            found.append(f"the reference model needs {_gib(self.reference)} GiB of {_gib(self.gpu_bytes)}")
        if self.engine is not None and not self.engine.fits:
            found.append(
                f"an engine has {_gib(self.engine.cache)} GiB for keys and values, and a sequence of "
                f"{self.setup.max_len} tokens takes {_gib(self.engine.token * self.setup.max_len)}"
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
    return Plan(
        setup=setup,
        gpu_bytes=gpu_bytes,
        stages=[StagePlan(state, phases(setup, state, gpu_bytes)) for state in found],
        engine=engine(setup, gpu_bytes) if setup.engines.count else None,
        reference=_reference(setup) if setup.reference_gpus else 0,
        sync=sync.sync(setup),
        checkpoint_bytes=sync.checkpoint_bytes(setup),
        host=host_items(setup, found),
    )


def _reference(setup: Setup) -> int:
    """A reference model on GPUs of its own only computes log-probabilities."""
    passing = max(forward_of_layer(setup), head.forward(setup))
    return reference_parameters(setup) + passing + allowances.context(setup) + allowances.fragmentation(setup, passing)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
