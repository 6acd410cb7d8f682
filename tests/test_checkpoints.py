"""Checkpoints: what is saved comes back, in every layout, and what is not whole is refused by name."""

from pathlib import Path
from typing import Any

import checkpoint_jobs
import pytest
import torch
from ranks import RankPool
from reference import flat
from tiny_models import make_model, make_samples

from openrlhf_sfpo.checkpoints.directory import newest_whole, open_checkpoint, verify

LAYOUTS = {
    "TP2PP1DP1": ((2, 1, 1), 1),
    "TP1PP2DP1": ((1, 2, 1), 1),
    "TP1PP1DP2": ((1, 1, 1), 2),
    "TP1PP1DP1": ((1, 1, 1), 1),
    "TP2PP2DP1": ((2, 2, 1), 1),
    "TP1PP2DP2": ((1, 2, 1), 2),
    "VPP2": ((1, 2, 2), 1),
}


def run(ranks: RankPool, name: str, job: Any, *args: Any, **settings: Any) -> dict[str, Any]:
    path, *rest = args
    layout, dp = LAYOUTS[name]
    return ranks.run(layout[0] * layout[1] * dp, call, job, path, layout, rest, settings)[0]


def call(job: Any, path: str, layout: tuple[int, int, int], rest: list[Any], settings: dict[str, Any]) -> Any:
    return job(path, layout, *rest, **settings)


@pytest.mark.parametrize(
    ("saved_at", "resumed_at", "family", "tied", "dtype"),
    [
        ("TP2PP1DP1", "TP1PP2DP1", "qwen2", True, torch.float32),
        ("TP2PP1DP1", "TP1PP1DP2", "qwen3", False, torch.float32),
        ("TP2PP1DP1", "TP1PP1DP1", "llama", True, torch.float32),
        ("TP1PP2DP2", "TP2PP1DP1", "mistral", False, torch.float32),
        ("VPP2", "TP2PP2DP1", "qwen2", True, torch.float32),
        ("TP1PP1DP2", "VPP2", "qwen3", True, torch.float32),
        ("TP1PP1DP2", "TP2PP1DP1", "llama", True, torch.bfloat16),
    ],
)
def test_another_layout_continues(
    ranks: RankPool, tmp_path: Path, saved_at: str, resumed_at: str, family: str, tied: bool, dtype: torch.dtype
) -> None:
    path = str(make_model(tmp_path / "model", family, tied))
    samples, target = make_samples(12), str(tmp_path / "global_step2")
    # One optimizer step takes all samples: which ones share a step depends on the number of replicas.
    settings: dict[str, Any] = {"param_dtype": dtype, "train_batch_size": 12}
    before = run(ranks, saved_at, checkpoint_jobs.train_and_save, path, samples, target, **settings)
    (saved,) = before["saved"]
    assert saved.error is None
    verify(open_checkpoint(Path(target)))
    after = run(ranks, resumed_at, checkpoint_jobs.resume, path, samples, target, **settings)
    assert before["held"].keys() == after["held"].keys()
    assert any(key.startswith("exp_avg_sq/") for key in before["held"])
    for key, tensor in before["held"].items():
        assert torch.equal(tensor, after["held"][key]), key
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    (expected,), (found,) = before["metrics"], after["metrics"]
    assert found["actor_grad_norm"] == pytest.approx(expected["actor_grad_norm"], rel=tolerance)
    moved = flat(before["end"]) - flat({name: before["held"][f"model/{name}"] for name in before["end"]})
    assert (flat(after["end"]) - flat(before["end"])).norm() <= (1e-3 if dtype == torch.float32 else 0.2) * moved.norm()
    for name in ("sfpo/backward_passes_total", "actor_lr", "sfpo/active"):
        assert found[name] == expected[name], name


def test_the_same_layout_continues_to_the_bit(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "qwen2", True))
    samples, target = make_samples(12), str(tmp_path / "global_step2")
    schedule = {"optimizer": {"schedule": "cosine_with_min_lr", "warmup_ratio": 0.25, "total_steps": 12}}
    before = run(ranks, "TP1PP1DP2", checkpoint_jobs.train_and_save, path, samples, target, 3, **schedule)
    after = run(ranks, "TP1PP1DP2", checkpoint_jobs.resume, path, samples, target, 3, **schedule)
    assert [without_times(m) for m in before["metrics"]] == [without_times(m) for m in after["metrics"]]
    assert len({m["actor_lr"] for m in after["metrics"]}) == 3, "the schedule goes on"
    assert before["end"].keys() == after["end"].keys()
    for name, tensor in before["end"].items():
        assert torch.equal(tensor, after["end"][name]), name
    assert torch.equal(before["rng"], after["rng"]), "random numbers go on where they were"
    assert newest_whole(tmp_path).path == Path(target)


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if "seconds" not in name}
