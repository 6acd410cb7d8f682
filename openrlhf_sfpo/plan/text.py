"""A plan as text with tables, and as JSON."""

from typing import Any

from openrlhf_sfpo.plan import placement, schedule
from openrlhf_sfpo.plan.phases import ITEMS, Phase
from openrlhf_sfpo.plan.planner import Plan
from openrlhf_sfpo.plan.setup import Setup, gib
from openrlhf_sfpo.plan.suggestion import flags_of
from openrlhf_sfpo.report.tables import Table

_UNMEASURED = (
    "Parameters, optimizer, snapshot and the local layers' activations agree with real actors on CPUs to 5 %. What "
    "Transformer Engine and flash-attn save, the allowances and the engine's share are worked out and not yet "
    "measured on a GPU."
)


def as_text(plan: Plan) -> str:
    """A plan as text."""
    parts = [_heading(plan.setup), _memory(plan)]
    if len(plan.stages) > 1:
        parts.append(_stages(plan))
    if plan.engine is not None:
        parts.append(_engine(plan))
    parts.append(_rest(plan))
    parts += [_UNMEASURED, *filter(None, [_remark(plan.setup)]), _verdict(plan)]
    return "\n\n".join(parts)


def _heading(setup: Setup) -> str:
    model = setup.model
    dtype = {2: "bf16", 4: "fp32"}[setup.element]
    kernels = "Transformer Engine" if setup.layers == "te" else f"local layers, {setup.attention}"
    recompute: str = setup.recompute
    if recompute == "full" and setup.recompute_num_layers:
        recompute = f"full, {setup.recompute_num_layers} layers of each chunk"
    update = f"SFPO, which copies {setup.snapshot} fp32 shard{'s' * (setup.snapshot > 1)}" if setup.snapshot else "GRPO"
    ranks = f"{setup.gpus} {'GPUs' if setup.cuda else 'CPU ranks'}"
    lines = [
        f"Actor: {model.family}, {model.num_layers} layers, hidden size {model.hidden_size}, vocabulary "
        f"{model.vocab_size}; {ranks}, {setup.layout.describe(setup.gpus)}",
        f"{dtype} parameters, {kernels}, recompute {recompute}, micro-batches of up to {setup.tokens} tokens; {update}",
    ]
    if setup.engines.count:
        where = "on the same GPUs" if setup.colocated else f"on {setup.engines.gpus} GPUs of their own"
        lines.append(f"{setup.engines.count} vLLM engine(s) of {setup.engines.tp} GPU(s), {where}")
    if setup.reference_gpus or setup.reference_here:
        where = f"on {setup.reference_gpus} GPUs of its own" if setup.reference_gpus else "on the actor's GPUs"
        offloaded = ", in host memory while it has nothing to do" * setup.reference_offloaded
        lines.append(f"a reference model for the KL term, {where}{offloaded}")
    return "\n".join(lines)


def _memory(plan: Plan) -> str:
    """A table of the worst stage's items, with a column per phase."""
    stage = plan.worst
    names = [what for what in ITEMS if any(what in phase.items for phase in stage.phases)]
    rows = [
        [what, *(gib(phase.items[what]) if what in phase.items else "" for phase in stage.phases)] for what in names
    ]
    rows.append(["together", *(gib(phase.total) for phase in stage.phases)])
    which = f" of pipeline stage {stage.state.stage}, which needs most" if len(plan.stages) > 1 else ""
    return Table(
        f"GiB on each GPU{which}, of {gib(plan.gpu_bytes)}", ["", *(phase.name for phase in stage.phases)], rows
    ).text()


def _stages(plan: Plan) -> str:
    rows = [
        [
            str(stage.state.stage),
            f"{stage.state.count / 1e9:.2f}",
            gib(stage.state.total),
            str(schedule.in_flight(plan.setup, stage.state.stage)),
            gib(stage.worst.total),
            stage.worst.name,
        ]
        for stage in plan.stages
    ]
    head = ["stage", "parameters, B", "their state, GiB", "micro-batches in flight", "most, GiB", "in"]
    return Table("Pipeline stages, each GPU", head, rows).text()


def _engine(plan: Plan) -> str:
    engine, setup = plan.engine, plan.setup
    assert engine is not None
    rows = [
        ["--vllm.gpu_memory_utilization", gib(engine.taken)],
        ["weights", gib(engine.weights)],
        ["context, CUDA graphs, largest step (allowance)", gib(engine.taken - engine.weights - engine.cache)],
        ["keys and values", gib(engine.cache)],
    ]
    note = (
        f"Keys and values of {engine.tokens:,} tokens ({engine.token / 2**10:.0f} KiB each), that is "
        f"{engine.sequences} sequences of {setup.max_len} tokens, for each engine."
    )
    return Table("GiB on each GPU of a vLLM engine", ["", "GiB"], rows, note).text()


def _rest(plan: Plan) -> str:
    setup, lines = plan.setup, []
    if plan.reference:
        lines.append(f"Reference model: {gib(plan.reference)} GiB on each of its GPUs")
    count = schedule.micro_batches(setup)
    words = f"{count} micro-batches a step with samples of {setup.max_len} tokens"
    if setup.layout.pp > 1:
        quarter = schedule.micro_batches(setup, max(1, setup.max_len // 4))
        words += (
            f": {100 * plan.bubble:.0f} % of a pass is pipeline bubble; with samples a quarter as long {quarter} and "
            f"{100 * schedule.bubble(setup, quarter):.0f} %"
        )
    lines.append(words)
    if setup.engines.count:
        lines.append(
            f"Weight sync: {plan.sync.bytes / 1e9:.1f} GB in {plan.sync.buckets} bucket(s) of up to "
            f"{plan.sync.largest / 1e9:.2f} GB"
        )
    lines.append(f"Checkpoint: {plan.checkpoint_bytes / 1e9:.1f} GB on disk")
    total = sum(item.bytes for item in plan.host)
    lines.append(f"Host memory of a node with the actor: {gib(total)} GiB")
    lines += [f"  {gib(item.bytes):>7s}  {item.what}" for item in plan.host]
    return "\n".join(lines)


def _remark(setup: Setup) -> str:
    """A remark about what a plan leaves out."""
    if setup.layout.cp > 1 and setup.layers == "local":
        return "The local layers' attention saves more than planned with context parallelism; use Transformer Engine."
    return ""


def _verdict(plan: Plan) -> str:
    peak = plan.worst.worst
    if plan.fits:
        return f"It fits: at most {gib(peak.total)} of {gib(plan.gpu_bytes)} GiB, in the {peak.name}."
    return f"It does not fit: {'; '.join(plan.problems)}."


def suggestions_text(plans: list[Plan], gpus: int) -> str:
    """A table of suggestions, and the flags of the first."""
    if not plans:
        return (
            f"No layout for {gpus} GPU{'s' * (gpus > 1)} fits. Use more GPUs, a smaller --train.max_tokens_per_gpu or "
            "--data.max_len; with --train.colocate_all also --vllm.enable_sleep, --ds.enable_sleep and a lower "
            "--vllm.gpu_memory_utilization."
        )
    rows = [
        [
            plan.setup.layout.describe(plan.setup.gpus),
            plan.setup.recompute,
            str(plan.setup.max_tokens_per_gpu),
            f"{plan.setup.gpus} + {plan.setup.engines.gpus}" if not plan.setup.colocated else str(plan.setup.gpus),
            gib(plan.worst.worst.total),
            f"{100 * plan.bubble:.0f}",
        ]
        for plan in plans
    ]
    head = ["actor", "recompute", "tokens", "GPUs, actor + engines", "most, GiB", "bubble, %"]
    note = (
        "Best first: no context parallelism, little recomputation, bubble within 10 %, few GPUs for each copy of the "
        "model, few stages, many tokens in a micro-batch; TP within a node, VPP against large bubbles, 5 % of the "
        "memory left free."
    )
    table = Table(f"Layouts for {gpus} GPUs that fit", head, rows, note).text()
    return table + "\n\nThe first one's flags:\n  " + " \\\n  ".join(flags_of(plans[0].setup))


def placement_text(setup: Setup) -> str:
    """The placement as text."""
    groups = [
        ("actor", placement.actor_ranks(setup), setup.gpus_per_node),
        ("reference", placement.reference_ranks(setup), setup.gpus_per_node),
        ("engines", placement.engine_ranks(setup), min(placement.GPUS_PER_NODE, max(1, setup.engines.gpus))),
    ]
    rows = [
        [owner, placement.place(held.gpus, per_node), held.what] for owner, ranks, per_node in groups for held in ranks
    ]
    if setup.colocated:
        note = "Engines and actor are on the same GPUs."
    else:
        note = (
            "Nodes are numbered for each owner: they do not share GPUs, and Ray packs them in as few nodes as it can."
        )
    if setup.reference_here:
        note += " The reference model is on the actor's GPUs, in the same layout."
    table = Table("Placement", ["", "where", "what"], rows, " ".join([note, *placement.remarks(setup)]))
    return table.text()


def as_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain values; all sizes are in bytes."""
    engine, setup = plan.engine, plan.setup
    return {
        "fits": plan.fits,
        "problems": plan.problems,
        "gpu_bytes": plan.gpu_bytes,
        "layout": {
            "tp": setup.layout.tp,
            "pp": setup.layout.pp,
            "vpp": setup.layout.vpp,
            "cp": setup.layout.cp,
            "dp": setup.dp,
            "gpus": setup.gpus,
            "recompute": setup.recompute,
        },
        "worst_stage": plan.worst.state.stage,
        "stages": [
            {
                "stage": stage.state.stage,
                "parameters": stage.state.count,
                "peak": stage.worst.total,
                "phase": stage.worst.name,
                "phases": {phase.name: _phase_json(phase) for phase in stage.phases},
            }
            for stage in plan.stages
        ],
        "engine": None if engine is None else {**vars(engine), "count": setup.engines.count, "tp": setup.engines.tp},
        "reference": plan.reference,
        "micro_batches": schedule.micro_batches(setup),
        "bubble": plan.bubble,
        "weight_sync": vars(plan.sync),
        "checkpoint_bytes": plan.checkpoint_bytes,
        "host": {item.what: item.bytes for item in plan.host},
        "flags": " ".join(flags_of(setup)),
    }


def _phase_json(phase: Phase) -> dict[str, int]:
    return {**phase.items, "together": phase.total}
