"""The phases of a step, and the memory of the actor's GPUs in each."""

import math
from dataclasses import dataclass

from openrlhf_sfpo.plan import activations, allowances, head, sync
from openrlhf_sfpo.plan.engine import engine
from openrlhf_sfpo.plan.setup import Setup
from openrlhf_sfpo.plan.state import State

ITEMS = (
    "parameters",
    "gradients, fp32",
    "main parameters, fp32",
    "Adam's moments, fp32",
    "reference model",
    "SFPO snapshot",
    "steps and gradients compared",
    "packed samples",
    "activations",
    "temporaries",
    "vLLM engine",
    "CUDA, NCCL (allowance)",
    "fragmentation (allowance)",
)
PHASES = ("rollout", "old log-probs", "fast pass", "reposition", "slow pass", "weight sync")
# Two chunks of a shard, their difference and the staged chunk of a snapshot in host memory (slow_copy._CHUNK).
_REPOSITION = 4 * 16 * 2**20
# Bytes of a packed token (megatron.data.batching.MicroBatch): its number and position, where it is scored, four floats.
_PACKED = 60


@dataclass(frozen=True)
class Phase:
    """The memory of each GPU of a stage in one phase.

    Attributes:
        name: one of `PHASES`.
        items: bytes by purpose, in the order of `ITEMS`, without zeros.
    """

    name: str
    items: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.items.values())


def phases(setup: Setup, state: State, reference: int, gpu_bytes: int) -> list[Phase]:
    """All phases on one pipeline stage, in the order of a step.

    With GRPO, fast pass and reposition are left out; with replayed rollouts, the first and the last phase.

    Args:
        setup: the plan's input.
        state: the stage's state.
        reference: bytes of a reference model while it is on the actor's GPUs.
        gpu_bytes: memory of a GPU.
    """
    left_out = set() if setup.snapshot or setup.observed else {"fast pass", "reposition"}
    if not setup.engines.count:
        left_out |= {"rollout", "weight sync"}
    return [_phase(setup, state, reference, gpu_bytes, name) for name in PHASES if name not in left_out]


def _phase(setup: Setup, state: State, reference: int, gpu_bytes: int, name: str) -> Phase:
    generates, trains = name == "rollout", name in ("fast pass", "slow pass")
    # OpenRLHF reloads the actor's state only for its update; parameters are reloaded when they are read.
    asleep = setup.actor_sleeps and not trains and name != "reposition"
    refers = setup.reference_here and (name == "old log-probs" or not setup.reference_offloaded)
    worst = max(activations.moments(setup, state.stage), key=lambda moment: moment.total)
    saved = worst.saved + worst.held if trains else 0
    passing = worst.passing if trains else _passing(setup, state, name)
    before = name in ("fast pass", "reposition")
    snapshot = (setup.snapshot if before else setup.outer_copy and name == "slow pass") * state.shard
    observed = (setup.observed if before else setup.compared and name == "slow pass") * state.shard
    counts = (
        0 if generates and setup.parameters_sleep else state.parameters,
        0 if asleep else state.gradients,
        0 if asleep else state.main_parameters,
        0 if asleep else state.moments,
        reference if refers else 0,
        0 if setup.snapshot_on_host else snapshot,
        observed,
        0 if name in ("rollout", "weight sync") else _packed(setup),
        saved,
        passing,
        _engine(setup, gpu_bytes, name),
        allowances.context(setup),
        allowances.fragmentation(setup, saved + passing),
    )
    return Phase(name, {what: count for what, count in zip(ITEMS, counts, strict=True) if count})


def _packed(setup: Setup) -> int:
    """A rollout batch's micro-batches, which stay packed on the GPU for all passes, with samples of the full length;
    and those of the fast passes, where they have their own."""
    tokens = math.ceil(setup.rollout_samples / setup.dp) * setup.max_len
    return sum(min(setup.batch_cache_bytes, int(_PACKED * tokens * part)) for part in (1.0, setup.fast_part))


def _passing(setup: Setup, state: State, name: str) -> int:
    """Temporary tensors in a phase that does not train."""
    if name == "old log-probs":
        last = state.stage == setup.layout.pp - 1
        passed_on = 0 if last else activations.layer_input(setup)
        return passed_on + max(activations.forward_of_layer(setup), head.forward(setup) if last else 0)
    if name == "weight sync":
        return sync.buffers(setup)
    return _REPOSITION if name == "reposition" else 0


def _engine(setup: Setup, gpu_bytes: int, name: str) -> int:
    """Memory of an engine on the actor's GPUs: its full share while it generates, its weights while they are sent,
    otherwise what sleep leaves."""
    if not setup.colocated:
        return 0
    whole = engine(setup, gpu_bytes)
    if name == "rollout" or not setup.engines.sleep:
        return whole.taken
    return whole.weights + allowances.SLEEPING_ENGINE if name == "weight sync" else allowances.SLEEPING_ENGINE
