"""The pipeline schedules: how many micro-batches a train batch has, how many are in flight, and the bubble."""

from openrlhf_sfpo.plan.setup import Setup


def micro_batches(setup: Setup, length: int | None = None) -> int:
    """Micro-batches of one optimizer step on each model copy, from `batching.plan_micro_batches` with samples of equal
    length.

    Args:
        setup: the plan's input.
        length: tokens of each sample; the default, --data.max_len, gives the most micro-batches.
    """
    samples = -(-setup.samples // setup.dp)
    together = max(1, setup.budget // (length or setup.max_len))
    count = max(1, -(-samples // together))
    multiple = setup.layout.pp if setup.layout.vpp > 1 else 1
    return -(-count // multiple) * multiple


def in_flight(setup: Setup, stage: int) -> int:
    """The maximum number of forward passes (of a micro-batch through one model chunk) on a stage whose backward passes
    are still to come.

    1F1B: stage i of p begins backward passes after p - i forward passes. Interleaved with v chunks: it runs
    2 (p - i - 1) + (v - 1) p passes first, and one more before each backward pass.
    Source: `get_pp_rank_microbatches` in megatron.core.pipeline_parallel.schedules; Narayanan et al. 2021,
    arXiv 2104.04473, section 2.2.
    """
    p, v = setup.layout.pp, setup.layout.vpp
    count = micro_batches(setup)
    if v == 1:
        return min(count, p - stage)
    return min(count * v, 2 * (p - stage - 1) + (v - 1) * p + 1)


def bubble(setup: Setup, count: int) -> float:
    """The part of a pass in which a GPU waits for the pipeline to fill and to drain, (p - 1) / (v m + p - 1).

    With p stages, v chunks on each and m micro-batches a GPU works for m units of time and waits for (p - 1) / v of
    them. Source: Narayanan et al. 2021, arXiv 2104.04473, section 2.2, whose fraction is of the working time.
    """
    p, v = setup.layout.pp, setup.layout.vpp
    return (p - 1) / (v * count + p - 1)
