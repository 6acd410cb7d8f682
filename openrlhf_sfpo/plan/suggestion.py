"""Layouts that fit a number of GPUs, best first by a stated rule.

The criteria, in order: no context parallelism if possible; as little recomputation as possible (nothing, MLPs, whole
layers, which take a third longer), if needed with half or a quarter of --train.max_tokens_per_gpu; pipeline bubbles of
up to a tenth of the time before larger ones; few GPUs per copy of the model; few pipeline stages; stages in few chunks;
large micro-batches. TP stays within a node. Stages are interleaved (VPP) only if the bubble would otherwise exceed a
tenth. Each layout leaves a twentieth of the memory free.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from openrlhf_sfpo.plan.planner import Plan, make_plan
from openrlhf_sfpo.plan.schedule import bubble, micro_batches
from openrlhf_sfpo.plan.setup import GPUS_PER_NODE, Engines, Setup
from openrlhf_sfpo.system.errors import UsageError

_SPARE = 0.95
_SMALL_BUBBLE = 0.1
_SIZES = (1, 2, 4, 8)
_CHUNKS = (2, 4)  # chunks of a stage's layers, interleaved with other stages'
_MOST_STAGES = 16
_LEAST_TOKENS = 4096
_RECOMPUTED: tuple[Literal["none", "mlp", "full"], ...] = ("none", "mlp", "full")  # cheapest first


def suggestions(setup: Setup, gpus: int, gpu_memory_gb: float, count: int = 5) -> list[Plan]:
    """Plans that fit, best first.

    Args:
        setup: the plan's input; its layout, recomputation, GPUs and number of engines are replaced, and its token
            budget may be lowered.
        gpus: the total number of GPUs, for actor, engines and reference model.
        gpu_memory_gb: memory of each GPU in GiB.
        count: the maximum number of plans.

    Raises:
        UsageError: there are too few GPUs.
    """
    found = [make_plan(candidate, gpu_memory_gb) for candidate in _layouts(_shared(setup, gpus))]
    fitting = [plan for plan in found if plan.fits and plan.worst.worst.total <= _SPARE * plan.gpu_bytes]
    best = {(plan.setup.layout, plan.setup.recompute): plan for plan in sorted(fitting, key=_rank)[::-1]}
    return sorted(best.values(), key=_rank)[:count]


def _shared(setup: Setup, gpus: int) -> Setup:
    """Divide the GPUs: with --train.colocate_all all models share all of them. Otherwise engines and actor get half
    each, or a third each with a reference model on its own GPUs; the engines at least those of one. With replayed
    rollouts the actor gets all.

    Raises:
        UsageError: there are too few.
    """
    engine = setup.engines.tp if setup.engines.count else 0
    others = 2 if setup.reference_gpus else 1  # actor and reference model
    alone = setup.colocated or not engine
    actor = gpus if alone else _whole_nodes(min(gpus // (others + 1), (gpus - engine) // others))
    reference = actor if setup.reference_gpus and not alone else 0
    engine_gpus = gpus if setup.colocated else gpus - actor - reference
    engines = replace(setup.engines, count=engine_gpus // engine) if engine else Engines()
    if actor < 1 or (engine and engines.count < 1):
        if setup.colocated:
            raise UsageError(
                "--gpus", f"is {gpus}, and an engine takes {engine}.", "Lower --vllm.tensor_parallel_size."
            )
        raise UsageError(
            "--gpus",
            f"is {gpus}, and engines and actor{' and reference model' * (others - 1)} need {engine + others} or more.",
            "Give more, or add --train.colocate_all: then they share them.",
        )
    return replace(
        setup, gpus=actor, gpus_per_node=min(actor, GPUS_PER_NODE), reference_gpus=reference, engines=engines
    )


def _whole_nodes(gpus: int) -> int:
    return gpus // GPUS_PER_NODE * GPUS_PER_NODE if gpus > GPUS_PER_NODE else gpus


def _layouts(setup: Setup) -> Iterator[Setup]:
    model = setup.model
    stages = [count for count in range(1, _MOST_STAGES + 1) if model.num_layers % count == 0]
    for cp, tp, pp in itertools.product(_SIZES, _SIZES, stages):
        layout = replace(setup.layout, tp=tp, pp=pp, vpp=1, cp=cp)
        laid_out = replace(setup, layout=layout, recompute_num_layers=None, sequence_parallel=tp > 1)
        if _is_possible(laid_out):
            for recompute, budget in itertools.product(_RECOMPUTED, _budgets(laid_out)):
                whole = replace(laid_out, recompute=recompute, max_tokens_per_gpu=budget)
                yield whole
                yield from _interleaved(whole)


def _interleaved(setup: Setup) -> Iterator[Setup]:
    if bubble(setup, micro_batches(setup)) > _SMALL_BUBBLE:
        for chunks in _CHUNKS:
            if setup.model.num_layers % (setup.layout.pp * chunks) == 0:
                yield replace(setup, layout=replace(setup.layout, vpp=chunks))


def _budgets(setup: Setup) -> list[int]:
    """The token budgets to try: too short micro-batches underuse a GPU, and a sample is not divided."""
    most, least = setup.max_tokens_per_gpu, max(-(-setup.max_len // setup.layout.cp), _LEAST_TOKENS)
    return [most, *sorted({part for part in (max(most // 2, least), max(most // 4, least)) if part < most})]


def _is_possible(setup: Setup) -> bool:
    if not setup.gpus or setup.gpus % setup.layout.model_parallel_size or setup.layout.tp > setup.gpus_per_node:
        return False
    if setup.layout.cp > 1 and setup.layers == "local":
        return False  # its attention over other ranks' keys is not designed to save memory
    try:
        setup.check()
    except UsageError:
        return False
    return True


def _rank(plan: Plan) -> tuple[float, ...]:
    setup = plan.setup
    return (
        setup.layout.cp,
        _RECOMPUTED.index(setup.recompute),
        plan.bubble if plan.bubble > _SMALL_BUBBLE else 0.0,
        setup.layout.model_parallel_size,
        setup.layout.pp,
        setup.layout.vpp,
        -setup.max_tokens_per_gpu,
    )


def flags_of(setup: Setup) -> list[str]:
    """The flags of `openrlhf-sfpo train` for a suggestion's layout."""
    layout, engines = setup.layout, setup.engines
    nodes = max(1, setup.gpus // setup.gpus_per_node)
    flags = [f"--actor.num_nodes {nodes}", f"--actor.num_gpus_per_node {setup.gpus_per_node}"]
    flags.append(f"--megatron.tensor_model_parallel_size {layout.tp}")
    flags.append(f"--megatron.pipeline_model_parallel_size {layout.pp}")
    if layout.vpp > 1:
        flags.append(f"--megatron.virtual_pipeline_model_parallel_size {layout.vpp}")
    if layout.cp > 1:
        flags.append(f"--megatron.context_parallel_size {layout.cp}")
    flags.append(f"--megatron.recompute {setup.recompute}")
    flags.append(f"--train.max_tokens_per_gpu {setup.max_tokens_per_gpu}")
    if engines.count:
        flags += [f"--vllm.num_engines {engines.count}", f"--vllm.tensor_parallel_size {engines.tp}"]
    if setup.reference_gpus:
        flags += [f"--ref.num_nodes {nodes}", f"--ref.num_gpus_per_node {setup.gpus_per_node}"]
    return flags
