"""The actor's state in host memory: it leaves the device, returns bit for bit, and methods that need it reload it."""

from pathlib import Path
from typing import Any

import offload_jobs
import pytest
import torch
from checkpoint_jobs import without_times
from jobs import LAYOUTS
from ranks import RankPool
from reference import flat
from tiny_models import make_model, make_samples

FP32, BF16 = torch.float32, torch.bfloat16


def run(ranks: RankPool, name: str, job: Any, *args: Any, **settings: Any) -> list[Any]:
    path, *rest = args
    layout, dp = LAYOUTS[name]
    return ranks.run(layout[0] * layout[1] * dp, call, job, path, layout, rest, settings)


def call(job: Any, path: str, layout: tuple[int, int, int], rest: list[Any], settings: dict[str, Any]) -> Any:
    return job(path, layout, *rest, **settings)


@pytest.mark.parametrize(
    ("layout", "dtype", "parameters"),
    [
        ("TP1PP1DP1", FP32, True),
        ("TP1PP1DP2", BF16, True),
        ("TP2PP1DP1", BF16, False),
        ("TP1PP2DP1", FP32, False),
        ("VPP2", FP32, True),
    ],
)
def test_offloaded_bytes_come_back_unchanged(
    ranks: RankPool, tmp_path: Path, layout: str, dtype: torch.dtype, parameters: bool
) -> None:
    path = str(make_model(tmp_path, "qwen2", tied=True))
    settings = {"param_dtype": dtype, "offload_parameters": parameters}
    run(ranks, layout, offload_jobs.there_and_back, path, make_samples(12), **settings)


@pytest.mark.parametrize(
    ("layout", "dtype", "parameters", "more"),
    [
        ("TP1PP1DP2", FP32, True, {"overlap_param_gather": True, "overlap_grad_reduce": True}),
        ("TP2PP1DP1", BF16, True, {"skip_nonfinite": True}),
        ("TP1PP2DP1", BF16, False, {}),
    ],
)
def test_training_with_offload_in_between_is_the_same_to_the_bit(
    ranks: RankPool, tmp_path: Path, layout: str, dtype: torch.dtype, parameters: bool, more: dict[str, Any]
) -> None:
    path = str(make_model(tmp_path, "qwen3", tied=True))
    settings = {"param_dtype": dtype, "offload_parameters": parameters, **more}
    metrics, weights = run(ranks, layout, offload_jobs.train, path, make_samples(12), True, **settings)[0]
    expected, same = run(ranks, layout, offload_jobs.train, path, make_samples(12), False, **settings)[0]
    assert [without_times(one) for one in metrics] == [without_times(one) for one in expected]
    offload_jobs.assert_equal(weights, same)
    assert flat(weights).isfinite().all()


def test_a_checkpoint_from_host_memory_is_read_into_host_memory(ranks: RankPool, tmp_path: Path) -> None:
    path, target = str(make_model(tmp_path / "model", "llama", tied=True)), str(tmp_path / "global_step1")
    settings = {"param_dtype": BF16, "offload_parameters": True}
    save, resume = offload_jobs.save_from_host_memory, offload_jobs.resume_into_host_memory
    held = run(ranks, "TP1PP1DP2", save, path, make_samples(12), target, **settings)[0]
    found = run(ranks, "TP2PP1DP1", resume, path, target, **settings)[0]
    assert any(key.startswith("exp_avg/") for key in held)
    offload_jobs.assert_equal(found, held)


def test_nothing_is_moved_in_the_middle_of_an_update(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path, "llama"))
    (said,) = ranks.run(1, offload_jobs.in_the_middle, path, make_samples(6))
    assert "in the middle of an update" in said


def test_offloading_shrinks_the_process(ranks: RankPool, tmp_path: Path) -> None:
    shape = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 4096}
    path = str(make_model(tmp_path, "llama", **shape))
    ((before, after, gradients),) = ranks.run(1, offload_jobs.resident_memory, path, make_samples(12))
    assert gradients > 20e6
    # On a CPU host memory is the same memory, so only the gradients' memory is freed.
    assert before - after > 0.8 * gradients


@pytest.mark.parametrize("layout", ["TP1PP1DP1", "TP2PP2DP1"])
def test_a_reference_model_is_on_the_device_while_it_computes(ranks: RankPool, tmp_path: Path, layout: str) -> None:
    run(ranks, layout, offload_jobs.reference, str(make_model(tmp_path, "mistral")), make_samples(8))


@pytest.mark.parametrize(("layout", "dtype"), [("TP2PP2DP1", FP32), ("TP1PP2DP2", BF16), ("VPP2", FP32)])
def test_every_rank_gets_the_same_weights_on_request(
    ranks: RankPool, tmp_path: Path, layout: str, dtype: torch.dtype
) -> None:
    path = str(make_model(tmp_path, "qwen2", tied=layout == "VPP2"))
    job, settings = offload_jobs.everyone_gets_all, {"param_dtype": dtype, "offload_parameters": True}
    first, *others = run(ranks, layout, job, path, **settings)
    assert others
    for other in others:
        assert list(other) == list(first)
        offload_jobs.assert_equal(other, first)
