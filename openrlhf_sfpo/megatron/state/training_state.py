"""Stores the weights and moments of an actor as tensors of a checkpoint, and restores them.

A checkpoint stores the optimizer's fp32 main parameters and Adam's two moments, each under the name of its Hugging Face
tensor, in the rectangles that the ranks hold (see `shard_slices`). bf16 parameters are the rounded main parameters, and
are not stored. Nothing is gathered for saving or loading, and any layout can read what another wrote.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies.checkpointable import (
    CheckpointableShardedTensor,
    LocalShardsContainer,
)
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

from openrlhf_sfpo.checkpoints.export import WEIGHTS
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.settings import ActorSettings
from openrlhf_sfpo.megatron.train.main_parameters import MainShards
from openrlhf_sfpo.megatron.weights.export import WeightExchange
from openrlhf_sfpo.megatron.weights.shard_slices import ShardSlice
from openrlhf_sfpo.sfpo import OUTER_MOMENTUM, Shard

_MOMENTS = ("exp_avg", "exp_avg_sq")
_STATE = (*_MOMENTS, OUTER_MOMENTUM)


class Stored(Protocol):
    """The parts of a model in training that a checkpoint needs."""

    settings: ActorSettings
    layout: Layout
    shards: MainShards
    weights: WeightExchange


def staged(actor: Stored) -> dict[str, LocalShardsContainer]:
    """Copies, in host memory, of the tensors that this rank stores. Training may continue as soon as this returns."""
    found: dict[str, list[CheckpointableShardedTensor]] = {}
    for shard, parts in _owned(actor, writes=True):
        for kind, tensor in _tensors(shard).items():
            copy = _host_copy(tensor)
            for shard_slice in parts:
                key = f"{kind}/{shard_slice.name}"
                found.setdefault(key, []).append(_addressed(key, shard_slice, shard_slice.view(copy)))
    if actor.settings.device == "cuda":
        torch.cuda.synchronize()
    return {key: LocalShardsContainer(shards) for key, shards in found.items()}


@torch.no_grad()
def restore(actor: Stored, directory: Path, adam_step: int, outer_momentum: bool = False) -> None:
    """Read this rank's weights and moments from a checkpoint into the optimizer, and update the model's parameters.

    Args:
        actor: in any layout.
        directory: the checkpoint.
        adam_step: Adam's step count in it; 0 means that there are no moments.
        outer_momentum: whether it has the outer momentum.
    """
    wanted: dict[str, list[CheckpointableShardedTensor]] = {}
    for shard, parts in _owned(actor, writes=False):
        if adam_step:
            _make_moments(shard, adam_step)
        else:
            shard.optimizer.state.pop(shard.weight, None)
        if outer_momentum:
            shard.optimizer.state[shard.weight][OUTER_MOMENTUM] = torch.zeros_like(shard.weight, requires_grad=False)
        for kind, tensor in _tensors(shard).items():
            flat = tensor.detach().view(-1)
            for shard_slice in parts:
                key = f"{kind}/{shard_slice.name}"
                wanted.setdefault(key, []).append(_addressed(key, shard_slice, shard_slice.view(flat)))
    # Each rank reads its own rectangles, without communication.
    dcp.load(
        {key: LocalShardsContainer(shards) for key, shards in wanted.items()},
        storage_reader=dcp.FileSystemReader(directory),
        planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        no_dist=True,
    )
    actor.shards.refresh()


def has_outer_momentum(actor: Stored) -> bool:
    """Whether the update has an outer momentum, on this or another rank: one without weights has none."""
    own = any(OUTER_MOMENTUM in shard.state for shard in actor.shards.shards())
    return bool(actor.shards.reduce([float(own)], "max")[0])


def adam_step_of(actor: Stored) -> int:
    """Adam's step count, which is the same for all weights; 0 before the first step."""
    steps = set()
    for shard in actor.shards.shards():
        state = shard.inner_state
        if not state:
            steps.add(0)
        elif "step" in state:
            steps.add(int(state["step"]))
        else:  # Apex and Transformer Engine count steps in the parameter group
            steps.update(int(group.get("step", 0)) for group in _groups(shard))
    assert len(steps) <= 1, f"the weights have made different numbers of steps: {sorted(steps)}"
    return steps.pop() if steps else 0


def _owned(actor: Stored, writes: bool) -> Iterator[tuple[Shard, list[ShardSlice]]]:
    """This rank's shards with their rectangles. Of shards that several ranks hold (norms, and tied embeddings on the
    last stage) only one is written."""
    rank = parallel_state.get_tensor_model_parallel_rank()
    for child, parameter, weight in actor.shards.pairs():
        entry = actor.weights.entry_of(parameter)
        if writes and (entry.is_copy or (rank > 0 and entry.converter.is_replicated)):
            continue
        yield Shard(weight, child.optimizer), actor.shards.slices_of(child, parameter)


def _tensors(shard: Shard) -> dict[str, torch.Tensor]:
    return {WEIGHTS: shard.weight, **{name: shard.state[name] for name in _STATE if name in shard.state}}


def _make_moments(shard: Shard, step: int) -> None:
    """Create the moments as the optimizer itself would at its first step."""
    state: dict[str, Any] = {name: torch.zeros_like(shard.weight) for name in _MOMENTS}
    if isinstance(shard.optimizer, torch.optim.Adam | torch.optim.AdamW):
        fused = any(group.get("fused") for group in shard.optimizer.param_groups)
        device = shard.weight.device if fused else torch.device("cpu")
        state["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)
    else:
        for group in _groups(shard):
            group["step"] = step
    shard.optimizer.state[shard.weight] = state


def _groups(shard: Shard) -> list[dict[str, Any]]:
    """The optimizer's groups with parameters on this rank: Transformer Engine's Adam does not count steps of the
    others."""
    return [group for group in shard.optimizer.param_groups if group["params"]]


def _host_copy(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().view(-1)
    if flat.device.type == "cpu":
        return flat.clone()
    pinned = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
    return pinned.copy_(flat, non_blocking=True)


def _addressed(key: str, shard_slice: ShardSlice, data: torch.Tensor) -> CheckpointableShardedTensor:
    address = ShardedTensor(
        key,
        data,
        data.dtype,
        tuple(data.shape),
        shard_slice.shape,
        shard_slice.offset,
        axis_fragmentations=None,  # not a regular grid
    )
    return CheckpointableShardedTensor.from_sh_ten(address)
