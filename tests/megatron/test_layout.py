"""Which ranks Megatron's process groups contain, on up to a few nodes."""

from typing import Any

import pytest
from ranks import RankPool

from openrlhf_sfpo.megatron.layout import Layout

NODE = 8
# Ranks, layout (TP, PP, VPP, CP)
SIZES = [
    (8, (1, 1, 1, 1)),
    (8, (4, 2, 1, 1)),
    (8, (2, 2, 2, 2)),
    (16, (4, 2, 1, 1)),
    (16, (2, 2, 1, 2)),
    (16, (8, 1, 1, 2)),
    (64, (8, 4, 2, 1)),
    (64, (4, 2, 1, 4)),
]


@pytest.mark.parametrize(("world_size", "sizes"), SIZES, ids=str)
def test_ranks_are_where_the_layout_says(ranks: RankPool, world_size: int, sizes: tuple[int, ...]) -> None:
    layout = Layout(*sizes)
    groups = ranks.run(1, groups_of_all_ranks, world_size, layout, timeout=120)[0]
    assert len(groups) == world_size
    for rank, found in enumerate(groups):
        place = layout.place(rank)
        assert found["place"] == place
        for position, name in enumerate(("tp", "cp", "pp", "dp")):
            assert found[name] == differing_in(position, layout, rank, world_size), name
        assert len({other // NODE for other in found["tp"]}) == 1, "tensor parallelism stays in a node"
        together = {*found["tp"], *found["cp"], *found["pp"]}
        chunk = range(
            rank // layout.model_parallel_size * layout.model_parallel_size,
            (rank // layout.model_parallel_size + 1) * layout.model_parallel_size,
        )
        assert together <= set(chunk), "OpenRLHF sends a chunk of data to neighboring ranks"
        # The distributed optimizer divides its state over all ranks that have the same parameters.
        peers = [layout.place(other) for other in range(world_size)]
        assert sorted(found["dp_cp"]) == [
            other for other, at in enumerate(peers) if (at[0], at[2]) == (place[0], place[2])
        ]


def differing_in(position: int, layout: Layout, rank: int, world_size: int) -> list[int]:
    """The ranks whose place differs from a rank's in one dimension only, in that dimension's order."""

    def rest(of: int) -> tuple[int, ...]:
        place = layout.place(of)
        return place[:position] + place[position + 1 :]

    return [other for other in range(world_size) if rest(other) == rest(rank)]


def groups_of_all_ranks(world_size: int, layout: Layout) -> list[dict[str, Any]]:
    """Megatron's groups as each rank creates them, one rank after the other, with a backend that transfers nothing."""
    import torch.distributed as dist
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    found = []
    for rank in range(world_size):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
        layout.start_groups(minutes=1, gloo=False)
        tp, pp = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_pipeline_model_parallel_rank()
        cp, dp = parallel_state.get_context_parallel_rank(), parallel_state.get_data_parallel_rank()
        groups = {
            "tp": parallel_state.get_tensor_model_parallel_group(),
            "cp": parallel_state.get_context_parallel_group(),
            "pp": parallel_state.get_pipeline_model_parallel_group(),
            "dp": parallel_state.get_data_parallel_group(),
            "dp_cp": parallel_state.get_data_parallel_group(with_context_parallel=True),
        }
        members = {name: dist.get_process_group_ranks(group) for name, group in groups.items()}
        found.append({"place": (tp, cp, pp, dp), **members})
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
    return found


def test_groups_carry_data_between_the_ranks_of_two_nodes(ranks: RankPool) -> None:
    """The same with real processes: sums of rank numbers over each dimension."""
    layout = Layout(2, 2, 1, 2)
    for rank, sums in enumerate(ranks.run(16, sums_over_groups, layout, timeout=120)):
        for position, total in enumerate(sums):
            assert total == sum(differing_in(position, layout, rank, 16))


def sums_over_groups(layout: Layout) -> list[int]:
    from datetime import timedelta

    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    from openrlhf_sfpo.megatron import cpu
    from openrlhf_sfpo.megatron.layout import start_distributed

    cpu.install()
    with cpu.device_scope():
        start_distributed(layout, use_cuda=False, timeout=timedelta(seconds=60))
    sums = []
    for group in (
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_context_parallel_group(),
        parallel_state.get_pipeline_model_parallel_group(),
        parallel_state.get_data_parallel_group(),
    ):
        number = torch.tensor(dist.get_rank())
        dist.all_reduce(number, group=group)
        sums.append(number.item())
    return sums
