"""What the ranks of the checkpoint tests run."""

from pathlib import Path
from typing import Any

import jobs
import torch


def train_and_save(
    path: str, layout: tuple[int, ...], samples: list[Any], target: str, more: int = 1, **settings: Any
) -> dict[str, Any]:
    """Two SFPO updates, a checkpoint, and `more` updates while it is written. Returns what the actor held at the
    checkpoint and at the end."""
    from openrlhf_sfpo.megatron.state.writer import CheckpointWriter

    actor, update = start(path, layout, **settings)
    for _ in range(2):
        jobs.on_policy_step(actor, samples, update)
    saved: list[Any] = []
    writer = CheckpointWriter(saved.append)
    common = {"sfpo": update.state_dict()}
    held = whole_state(actor)
    writer.save(Path(target), lambda: actor.contents(2, common, {"metric_value": None}))
    metrics = [jobs.on_policy_step(actor, samples, update) for _ in range(more)]
    writer.wait()
    return {"held": held, "metrics": metrics, "end": jobs.weights_of(actor), "saved": saved, "rng": torch.rand(3)}


def resume(
    path: str, layout: tuple[int, ...], samples: list[Any], checkpoint: str, more: int = 1, **settings: Any
) -> dict[str, Any]:
    """`more` updates from a checkpoint. Returns what the actor held after loading it and at the end."""
    actor, update = start(path, layout, **settings)
    common = actor.restore(Path(checkpoint))
    update.load_state_dict(common["sfpo"])
    jobs.assert_copies_agree(actor)
    held = whole_state(actor)
    metrics = [jobs.on_policy_step(actor, samples, update) for _ in range(more)]
    return {"held": held, "metrics": metrics, "end": jobs.weights_of(actor), "rng": torch.rand(3)}


def begin_from(path: str, layout: tuple[int, ...], checkpoint: str, **settings: Any) -> dict[str, Any]:
    """What another run begins with: the actor's tensors and learning rate."""
    actor, _ = start(path, layout, **settings)
    actor.start_from(Path(checkpoint))
    jobs.assert_copies_agree(actor)
    return {"held": whole_state(actor), "learning_rate": actor.learning_rate.value}


def start(path: str, layout: tuple[int, ...], **settings: Any) -> tuple[Any, Any]:
    from openrlhf_sfpo.sfpo import Gate, OuterMomentum, SlowFastUpdate

    outer, preset = OuterMomentum(*settings.pop("outer", ())), settings.pop("preset", "sfpo")
    actor = jobs.make_actor(path, layout, **settings)
    gate = Gate("upper", window=2)
    return actor, SlowFastUpdate(actor.shards, 2, 0.8, gate, outer=outer, preset=preset)


def whole_state(actor: Any) -> dict[str, torch.Tensor]:
    """Weights and moments as whole Hugging Face tensors, put together from all ranks' shards; and this rank's model
    parameters as they are exported."""
    import torch.distributed as dist

    from openrlhf_sfpo.megatron.state import training_state

    mine = [
        (kind, piece, piece.view(tensor.detach().view(-1)).clone())
        for shard, pieces in training_state._owned(actor, writes=True)
        for kind, tensor in training_state._tensors(shard).items()
        for piece in pieces
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    whole: dict[str, torch.Tensor] = {}
    for kind, piece, value in (part for rank in everyone for part in rank):
        tensor = whole.setdefault(f"{kind}/{piece.name}", torch.full(piece.shape, torch.nan))
        place = tuple(slice(start, start + size) for start, size in zip(piece.offset, piece.size, strict=True))
        assert tensor[place].isnan().all(), "two ranks store the same"
        tensor[place] = value
    assert not any(tensor.isnan().any() for tensor in whole.values()), "nobody stores some of it"
    whole.update({f"model/{name}": tensor for name, tensor in jobs.weights_of(actor).items()})
    return whole


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if "seconds" not in name}
