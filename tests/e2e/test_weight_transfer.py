"""Weight transfer to a real vLLM engine: it must then compute what an engine that loads the actor's export does."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jobs
import offload_jobs
import pytest
import torch
from places import SUPPORT
from ranks import RankPool
from tiny_models import make_model

# Sizes that vLLM's CPU kernels support.
SHAPE = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 192,
    "vocab_size": 160,
}


def probe(*arguments: Any) -> dict[str, Any]:
    script = SUPPORT / "engine_probe.py"
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("family", "tied"),
    [("qwen2", False), *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("llama", "qwen3"))],
)
def test_a_synced_engine_equals_one_that_loads_the_export_to_the_bit(
    ranks: RankPool, tmp_path: Path, family: str, tied: bool
) -> None:
    extra = {"head_dim": 32} if family == "qwen3" else {}
    before, after = [make_model(tmp_path / f"{seed}", family, tied, seed=seed, **SHAPE, **extra) for seed in (1, 2)]
    export = tmp_path / "export"
    ranks.run(2, jobs.round_trip, str(after), (1, 2, 1), str(export), torch.float32)
    size = (export / "model.safetensors").stat().st_size
    result = probe(before, export, 300_000)
    assert result["before"] != result["fresh"]
    assert result["after"] == result["fresh"]
    assert result["again"] == result["fresh"]
    start, *updates, finish = result["calls"]
    assert (start, finish) == ("start", "finish")
    assert set(updates) == {"update"}
    assert len(updates) <= size / 300_000 + 1, "buckets are filled before they are sent"
    assert result["left_behind"] == []


@pytest.mark.parametrize("bucket_bytes", [1_000, 10_000_000])
def test_every_rank_that_shares_a_gpu_packs_all_weights_and_the_largest_fits(
    ranks: RankPool, tmp_path: Path, bucket_bytes: int
) -> None:
    first, second = ranks.run(2, offload_jobs.memory_handles, str(make_model(tmp_path, "llama")), bucket_bytes)
    assert first == second
    buffer_bytes, packed, names, largest = first
    assert packed
    assert "lm_head.weight" in names
    assert largest > 1_000
    assert buffer_bytes == max(bucket_bytes, largest)


def test_each_engines_workers_have_ranks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NCCL: what would be sent to three engines of two workers each, for a group that includes the sender."""
    import ray

    from openrlhf_sfpo.rollout.weight_sync import EngineClient

    class Method:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def remote(self, request: Any) -> None:
            self.seen.append(request.init_info)

    class Engine:
        def __init__(self) -> None:
            self.init_weight_transfer_engine = Method()

    monkeypatch.setattr(ray, "get", lambda refs, timeout: None)
    engines = [Engine() for _ in range(3)]
    EngineClient(engines, 1.0, workers=2).init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    seen = [engine.init_weight_transfer_engine.seen for engine in engines]
    assert seen == [[{"rank_offset": first, "world_size": 7}] for first in (1, 3, 5)]
    EngineClient(engines[:1], 1.0, workers=2).init_weight_transfer_engine({})
    assert engines[0].init_weight_transfer_engine.seen[-1] == {}, "shared memory knows no ranks"


def test_shared_memory_of_a_killed_sender_is_removed() -> None:
    from openrlhf_sfpo.rollout.shared_memory import remove_leftovers

    left, held, new = [Path(f"/dev/shm/openrlhf_sfpo_weights_test_{name}") for name in ("left", "held", "new")]
    for path in (left, held, new):
        path.touch()
    for path in (left, held):
        os.utime(path, (time.time() - 60,) * 2)
    try:
        with held.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            remove_leftovers()
        assert [path.exists() for path in (left, held, new)] == [False, True, True]
    finally:
        for path in (left, held, new):
            path.unlink(missing_ok=True)
