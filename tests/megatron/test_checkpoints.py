"""Checkpoints: what is saved must come back in every layout; what is incomplete must be refused by name."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoint_jobs
import pytest
import torch
from checkpoint_jobs import without_times
from jobs import LAYOUTS, ranks_of
from ranks import RankPool
from reference import flat
from tiny_models import make_model, make_samples
from transformers import AutoModelForCausalLM

from openrlhf_sfpo.checkpoints.directory import (
    MANIFEST,
    newest_complete,
    open_checkpoint,
    part_of,
    rotate,
    rotate_models,
    seal,
    verify,
)
from openrlhf_sfpo.cli import export as export_command


def run(ranks: RankPool, name: str, job: Any, *args: Any, **settings: Any) -> dict[str, Any]:
    path, *rest = args
    layout, dp = LAYOUTS[name]
    return ranks.run(ranks_of(layout, dp), call, job, path, layout, rest, settings)[0]


def call(job: Any, path: str, layout: tuple[int, ...], rest: list[Any], settings: dict[str, Any]) -> Any:
    return job(path, layout, *rest, **settings)


@pytest.mark.parametrize(
    ("saved_at", "resumed_at", "family", "tied", "dtype"),
    [
        ("TP2PP1DP1", "TP1PP2DP1", "qwen2", True, torch.float32),
        ("TP1PP2DP2", "TP2PP1DP1", "mistral", False, torch.float32),
        ("VPP2", "TP2PP2DP1", "qwen2", True, torch.float32),
        ("TP1PP1DP2", "VPP2", "qwen3", True, torch.float32),
        ("TP1PP1DP2", "TP2PP1DP1", "llama", True, torch.bfloat16),
        ("TP2CP2", "PP2CP2", "qwen3", True, torch.float32),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("TP2PP1DP1", "TP1PP1DP2", "qwen3", False, torch.float32),
                ("TP2PP1DP1", "TP1PP1DP1", "llama", True, torch.float32),
            )
        ),
    ],
)
def test_another_layout_continues(
    ranks: RankPool, tmp_path: Path, saved_at: str, resumed_at: str, family: str, tied: bool, dtype: torch.dtype
) -> None:
    path = str(make_model(tmp_path / "model", family, tied))
    samples, target = make_samples(12), str(tmp_path / "global_step2")
    # One optimizer step takes all samples: which ones share a step depends on the number of replicas.
    settings: dict[str, Any] = {"param_dtype": dtype, "train_batch_size": 12}
    if family == "qwen2":
        settings["outer"] = (0.7, 0.5)
    before = run(ranks, saved_at, checkpoint_jobs.train_and_save, path, samples, target, **settings)
    (saved,) = before["saved"]
    assert saved.error is None
    verify(open_checkpoint(Path(target)))
    after = run(ranks, resumed_at, checkpoint_jobs.resume, path, samples, target, **settings)
    assert before["held"].keys() == after["held"].keys()
    assert any(key.startswith("exp_avg_sq/") for key in before["held"])
    assert any(key.startswith("outer_momentum/") for key in before["held"]) == (family == "qwen2")
    for key, tensor in before["held"].items():
        assert torch.equal(tensor, after["held"][key]), key
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    (expected,), (found,) = before["metrics"], after["metrics"]
    assert found["actor_grad_norm"] == pytest.approx(expected["actor_grad_norm"], rel=tolerance)
    moved = flat(before["end"]) - flat({name: before["held"][f"model/{name}"] for name in before["end"]})
    assert (flat(after["end"]) - flat(before["end"])).norm() <= (1e-3 if dtype == torch.float32 else 0.2) * moved.norm()
    for name in ("sfpo/backward_passes_total", "actor_lr", "sfpo/active"):
        assert found[name] == expected[name], name


def test_steps_are_read_where_transformer_engines_adam_counts_them() -> None:
    """It counts in the parameter groups; a group that is empty on a rank has no count."""
    from openrlhf_sfpo.megatron.state.training_state import _make_moments, adam_step_of
    from openrlhf_sfpo.sfpo import Shard

    weight = torch.nn.Parameter(torch.ones(3))
    groups = [{"params": [weight], "step": 20}, {"params": []}]
    optimizer = SimpleNamespace(param_groups=groups, state={weight: {"exp_avg": 0}})
    actor = SimpleNamespace(shards=SimpleNamespace(shards=lambda: [Shard(weight, optimizer)]))
    assert adam_step_of(actor) == 20
    _make_moments(Shard(weight, optimizer), 30)
    assert adam_step_of(actor) == 30
    assert "step" not in groups[1]


@pytest.mark.parametrize("update", [{}, {"preset": "prepo", "outer": (0.7, 0.5)}], ids=["sfpo", "prepo, momentum"])
def test_the_same_layout_continues_to_the_bit(ranks: RankPool, tmp_path: Path, update: dict[str, Any]) -> None:
    path = str(make_model(tmp_path / "model", "qwen2", True))
    samples, target = make_samples(12), str(tmp_path / "global_step2")
    schedule = {"optimizer": {"schedule": "cosine_with_min_lr", "warmup_ratio": 0.25, "total_steps": 12}, **update}
    before = run(ranks, "TP1PP1DP2", checkpoint_jobs.train_and_save, path, samples, target, 3, **schedule)
    after = run(ranks, "TP1PP1DP2", checkpoint_jobs.resume, path, samples, target, 3, **schedule)
    assert [without_times(m) for m in before["metrics"]] == [without_times(m) for m in after["metrics"]]
    assert len({m["actor_lr"] for m in after["metrics"]}) == 3, "the schedule goes on"
    assert before["end"].keys() == after["end"].keys()
    for name, tensor in before["end"].items():
        assert torch.equal(tensor, after["end"][name]), name
    assert torch.equal(before["rng"], after["rng"]), "random numbers go on where they were"
    assert newest_complete(tmp_path).path == Path(target)


@pytest.fixture(scope="module")
def checkpoint(ranks: RankPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of two ranks, and what they held."""
    directory = tmp_path_factory.mktemp("checkpoint")
    model = make_model(directory / "model", "qwen3", True)
    for name in ("additional_chat_templates/tools.jinja", "tokenizer.model.v3", "adapter_config.json", "README.md"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("{}")
    path = str(model)
    target = directory / "global_step2"
    before = run(ranks, "TP1PP2DP1", checkpoint_jobs.train_and_save, path, make_samples(12), str(target))
    return target, before["held"]


def test_another_run_begins_with_weights_and_moments_alone(
    ranks: RankPool, checkpoint: tuple[Path, dict[str, Any]]
) -> None:
    target, held = checkpoint
    model = str(target.parent / "model")
    warm_up = {"optimizer": {"schedule": "cosine_with_min_lr", "warmup_ratio": 0.25, "total_steps": 12}}
    found = run(ranks, "TP2PP1DP1", checkpoint_jobs.begin_from, model, str(target), **warm_up)
    assert found["held"].keys() == held.keys()
    for name, tensor in held.items():
        assert torch.equal(found["held"][name], tensor), name
    assert any(name.startswith("exp_avg/") for name in held)
    assert found["learning_rate"] == 0, "the schedule begins anew"


def two(checkpoint: Path, directory: Path) -> tuple[Path, Path]:
    """Two checkpoints, of steps 2 and 5."""
    for step in (2, 5):
        place = directory / f"global_step{step}"
        shutil.copytree(checkpoint, place)
        manifest = json.loads((place / MANIFEST).read_text()) | {"step": step}
        (place / MANIFEST).write_text(json.dumps(manifest))
    return directory / "global_step2", directory / "global_step5"


def flip_a_byte(place: Path) -> Path:
    file = next(place.glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def lose_a_shard(place: Path) -> Path:
    file = sorted(place.glob("*.distcp"))[-1]
    file.unlink()
    return file


def cut_a_file_short(place: Path) -> Path:
    file = place / "common.pt"
    file.write_bytes(file.read_bytes()[:-1])
    return file


def lose_the_manifest(place: Path) -> Path:
    (place / MANIFEST).unlink()
    return place


def tear_the_manifest(place: Path) -> Path:
    (place / MANIFEST).write_text((place / MANIFEST).read_text()[:-40])
    return place / MANIFEST


def come_from_the_future(place: Path) -> Path:
    (place / MANIFEST).write_text(json.dumps(json.loads((place / MANIFEST).read_text()) | {"format": 99}))
    return place


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "is damaged: its checksum is another one"),
        (lose_a_shard, "is missing"),
        (cut_a_file_short, "bytes instead of"),
        (lose_the_manifest, "has no manifest.json, so it was never finished"),
        (tear_the_manifest, "is damaged"),
        (come_from_the_future, "has format 99, and this openrlhf_sfpo reads up to 1"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    checkpoint: tuple[Path, Any], tmp_path: Path, damage: Callable[[Path], Path], reason: str
) -> None:
    older, newer = two(checkpoint[0], tmp_path)
    assert newest_complete(tmp_path).path == newer
    file = damage(newer)
    reasons: list[str] = []
    assert newest_complete(tmp_path, reasons.append).path == older
    (said,) = reasons
    assert str(file) in said
    assert reason in said


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "nowhere") is None
    assert newest_complete(tmp_path) is None


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    metrics = {10: 0.9, 20: 0.2, 30: None, 40: 0.5, 50: 0.1}
    for step, metric in metrics.items():
        an_empty_checkpoint(tmp_path / f"global_step{step}", step, metric)
    for step in (10, 40):
        an_empty_checkpoint(tmp_path / f"best_global_step{step}", step, None)
    (tmp_path / "global_step60").mkdir()  # not finished, so not counted and not touched
    gone = {path.name for path in rotate(tmp_path, 3, math.inf)}
    assert gone == {"best_global_step10", "global_step30", "global_step20"}
    # 100 bytes each, three regular ones and the best one
    assert {path.name for path in rotate(tmp_path, 3, 350)} == {"global_step40"}
    assert {path.name for path in rotate(tmp_path, 3, 0)} == {"global_step10"}
    assert {path.name for path in tmp_path.iterdir()} == {"best_global_step40", "global_step50", "global_step60"}


@pytest.mark.parametrize(
    ("tag", "max_num", "left"),
    [
        ("global_step9", 2, {"global_step9_hf", "global_step10_hf", "best_global_step8_hf", "best_global_step9_hf"}),
        ("global_step9", 0, {"best_global_step8_hf", "best_global_step9_hf"}),
        ("best_global_step9", 0, {"global_step8_hf", "global_step9_hf", "global_step10_hf", "best_global_step9_hf"}),
    ],
)
def test_rotation_of_models_keeps_those_written_last(tmp_path: Path, tag: str, max_num: int, left: set[str]) -> None:
    names = ("global_step8", "global_step10", "global_step9", "best_global_step8", "best_global_step9")
    for written, name in enumerate(names):
        model = tmp_path / f"{name}_hf"
        model.mkdir()
        os.utime(model, (written, written))
    (tmp_path / "_actor").mkdir()
    rotate_models(tmp_path, tag, max_num)
    assert {path.name for path in tmp_path.iterdir()} == left | {"_actor"}


def an_empty_checkpoint(place: Path, step: int, metric: float | None) -> None:
    part_of(place).mkdir()
    seal(place, {"step": step, "metric_value": metric, "files": {"nothing": {"bytes": 100, "sha256": ""}}})


def test_megatron_reads_it(ranks: RankPool, checkpoint: tuple[Path, dict[str, Any]]) -> None:
    place, held = checkpoint
    (found,) = ranks.run(1, read_with_megatron, str(place))
    assert {name for name in found if name.startswith("main/")} == {n for n in held if n.startswith("main/")}
    for name, tensor in found.items():
        assert torch.equal(tensor, held[name]), name


def read_with_megatron(place: str) -> dict[str, torch.Tensor]:
    import torch.distributed as dist
    from megatron.core import dist_checkpointing

    dist.init_process_group("gloo")
    loaded = dist_checkpointing.load_plain_tensors(place)
    assert loaded["actor"]["adam_step"] == 12, "two batches of two steps in three passes"
    return {name: value.clone() for name, value in loaded.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_export_without_anything_else(checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path, dtype: str) -> None:
    place, held = checkpoint
    command = [sys.executable, "-m", "openrlhf_sfpo.cli.main", "export", str(place.parent), str(tmp_path / "hf")]
    done = subprocess.run([*command, "--dtype", dtype], capture_output=True, text=True, umask=0o027)
    assert done.returncode == 0, done.stderr
    assert "the model of step 2" in done.stdout
    assert done.stderr == ""
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "hf").iterdir() if path.is_file()}
    assert set(modes.values()) == {"0o640"}, modes
    assert (tmp_path / "hf").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "hf" / "additional_chat_templates" / "tools.jinja").is_file()
    assert (tmp_path / "hf" / "tokenizer.model.v3").is_file()
    assert not (tmp_path / "hf" / "adapter_config.json").exists()
    assert not (tmp_path / "hf" / "README.md").exists()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert model.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, held[f"main/{name}"].to(model.dtype)), name
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "is not empty" in again.stderr


# What the given directory is, the files that make it so, words of the message.
NO_CHECKPOINTS: list[tuple[str, list[str], list[str]]] = [
    (
        "run/hf",
        ["run/hf/config.json", "run/hf/model.safetensors"],
        ["run/hf is a Hugging Face model directory already"],
    ),
    ("global_step2/model", ["global_step2/manifest.json", "global_step2/model/config.json"], ["Give", "global_step2."]),
    ("run", ["run/config.yaml", "run/hf/config.json"], ["holds no checkpoint", "its final model", "run/hf."]),
    ("run", ["run/config.yaml"], ["is a run directory without a checkpoint", "--ckpt.save_steps"]),
    ("run", ["run/checkpoints/_actor/global_step4/common.pt"], ["holds no complete checkpoint"]),
    (
        "run",
        ["run/checkpoints/_actor/global_step4/mp_rank_00_model_states.pt"],
        ["backend deepspeed", "--ckpt.save_hf"],
    ),
    ("global_step4", ["global_step4/common.pt"], ["has no manifest.json, so it was never finished"]),
    ("runs", ["runs/a/checkpoints/_actor/x", "runs/b/checkpoints/_actor/x"], ["2 directories", "such as", "runs/a."]),
    ("elsewhere", ["elsewhere/notes.txt"], ["is neither a checkpoint nor a run directory"]),
    ("file", ["file"], ["is not a directory"]),
]


@pytest.mark.parametrize(("given", "files", "expected"), NO_CHECKPOINTS)
def test_export_says_what_a_directory_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, files: list[str], expected: list[str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    assert export_command.main([str(tmp_path / given), str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("openrlhf-sfpo export: error: CHECKPOINT: ")
    assert not [part for part in expected if part not in line], line
    assert not (tmp_path / "out").exists()


def test_export_refuses_incomplete_checkpoints(checkpoint: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(checkpoint[0], tmp_path / "global_step2")
    file = flip_a_byte(tmp_path / "global_step2")
    command = [sys.executable, "-m", "openrlhf_sfpo.cli.main", "export", str(tmp_path / "global_step2"), "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{file} is damaged" in done.stderr
    assert not (tmp_path / "out").exists()
