"""SFPO on parameters that FSDP divides over ranks, against the same updates in one process."""

from typing import Any

import pytest
import torch
from ranks import RankPool
from toy_training import Trainer

from openrlhf_sfpo.sfpo import (
    Gate,
    OuterMomentum,
    PredictiveSettings,
    ShardedTorchWeights,
    SlowCopy,
    SlowFastUpdate,
    TorchWeights,
)

UPDATES: dict[str, dict[str, Any]] = {
    "maintain": {},
    "restore": {"state": "restore"},
    "interpolate": {"state": "interpolate"},
    "reset": {"state": "reset"},
    "prepo": {"preset": "prepo", "k": 4},
    "prepo by tensor": {"preset": "prepo", "k": 4, "predictive": {"retention": "tensor"}},
    "prepo by gradient": {"preset": "prepo", "k": 4, "predictive": {"retention": "gradient"}},
    "outer momentum": {"outer": (0.6, 0.5)},
    "cosine": {"gate": "cosine"},
}


def updated(how: dict[str, Any], trainer: Trainer, weights: Any) -> list[dict[str, float | None]]:
    """Three rollout batches."""
    update = SlowFastUpdate(
        weights,
        how.get("k", 2),
        0.7,
        Gate(how.get("gate", "off"), threshold=2.0),
        slow_copy=SlowCopy(weights, how.get("state", "maintain")),
        preset=how.get("preset", "sfpo"),
        predictive=PredictiveSettings(**how.get("predictive", {})),
        outer=OuterMomentum(*how["outer"]) if "outer" in how else None,
    )
    return [update.step(trainer)[1] for _ in range(3)]


def in_one_process(how: dict[str, Any], optimizer: str) -> tuple[torch.Tensor, list[dict[str, float | None]]]:
    trainer = Trainer(optimizer, 2)
    metrics = updated(how, trainer, TorchWeights(trainer.optimizer))
    return trainer.weights(), metrics


def divided(
    how: dict[str, Any], optimizer: str, mesh: tuple[int, ...]
) -> tuple[torch.Tensor, list[dict[str, float | None]]]:
    """The same on every rank's part of the weights; the ranks have the same data."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor
    from toy_training import OPTIMIZERS

    trainer = Trainer(optimizer, 2)
    names = ("replicate", "shard")[-len(mesh) :]
    fully_shard(trainer.model, mesh=init_device_mesh("cpu", mesh, mesh_dim_names=names))
    trainer.optimizer = OPTIMIZERS[optimizer](trainer.model.parameters())
    trainer.schedule = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, 0.9)
    metrics = updated(how, trainer, ShardedTorchWeights(trainer.optimizer))
    parameters = [one.detach() for one in trainer.model.parameters()]
    whole = [one.full_tensor() if isinstance(one, DTensor) else one for one in parameters]
    return torch.cat([one.reshape(-1) for one in whole]), metrics


@pytest.mark.parametrize("name", UPDATES)
def test_updates_are_those_of_one_process(ranks: RankPool, name: str) -> None:
    expected, metrics = in_one_process(UPDATES[name], "adamw")
    for weights, found in ranks.run(2, divided, UPDATES[name], "adamw", (2,)):
        torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-12)
        for ours, theirs in zip(found, metrics, strict=True):
            for key in ("sfpo/displacement", "sfpo/displacement_rel", "sfpo/gradient_cosine", "sfpo/extrapolation"):
                expected_value = theirs.get(key)
                assert ours.get(key) == (expected_value and pytest.approx(expected_value, rel=1e-9)), key


def test_replicas_count_once_and_other_optimizers_work(ranks: RankPool) -> None:
    for optimizer, mesh in (("adamw", (2, 1)), ("momentum", (2,))):
        expected, metrics = in_one_process({}, optimizer)
        for weights, found in ranks.run(2, divided, {}, optimizer, mesh):
            torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-12)
            assert found[-1]["sfpo/displacement"] == pytest.approx(metrics[-1]["sfpo/displacement"], rel=1e-9)
