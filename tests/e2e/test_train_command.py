"""The whole system as a user starts it: `openrlhf-sfpo train` with Ray, vLLM, OpenRLHF's trainers and Megatron-Core."""

import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from cli import make_traps
from listening import Socket, watch
from pretrained_runs import PROBLEMS, flags, logs_of, train

from openrlhf_sfpo.report.reading import read_metrics

SFPO_METRICS = {
    "backward_tokens_total",
    "active",
    "alpha",
    "entropy",
    "entropy_start",
    "entropy_z",
    "displacement",
    "displacement_rel",
    "fast_kl",
    "fast_passes",
    "fast_clip_ratio",
    "momentum_grad_cosine",
    "backward_passes_total",
    "snapshot_bytes",
    "reposition_seconds",
}
KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class WatchedRun:
    """What was observed of a run from outside, from start to end."""

    place: Path
    output: str
    sockets: set[Socket]
    modes: dict[str, int]
    left_in_tmp: list[Path]


@pytest.fixture(scope="module")
def watched_run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> WatchedRun:
    """A run of the pretrained model with evaluation and recording. It starts in a directory with traps, with GPUs
    hidden, with variables of other frameworks' launchers, and with a W&B key."""
    place = tmp_path_factory.mktemp("runs")
    temporary = Path(tempfile.mkdtemp(prefix="t"))  # short: Ray's sockets are in there
    arguments = flags(
        place / "sfpo",
        smollm2,
        rollout__record_dir=place / "rollouts",
        eval__dataset=f"{PROBLEMS}&size=12&seed=5000",
        eval__n_samples_per_prompt=2,
        eval__temperature=1.0,
        megatron__param_dtype="fp32",
        logger__wandb__key="env",
    )
    environment = {**os.environ, "TMPDIR": str(temporary), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"GLOO_SOCKET_IFNAME": "", "MASTER_ADDR": ""}
    environment |= {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline", "WANDB_DIR": str(place)}
    environment["VLLM_CACHE_ROOT"] = str(place / "vllm")  # so that vLLM inspects the model in a separate process
    run = subprocess.Popen(
        [Path(sys.executable).parent / "openrlhf-sfpo", "train", *arguments],
        cwd=make_traps(place / "here"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    modes: dict[str, int] = {}

    def look_at_directories() -> None:
        for path in temporary.glob("sfpo-*"):
            with suppress(FileNotFoundError):
                modes[path.name] = path.stat().st_mode & 0o777

    sockets = watch(psutil.Process(run.pid), seconds=800, also=look_at_directories)
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 0, f"{output}\n{logs_of(place / 'sfpo')}"
    left = [*temporary.iterdir(), *(path for name in modes for path in Path("/dev/shm").glob(f"*{name}*"))]
    return WatchedRun(place, output, sockets, modes, left)


@pytest.fixture(scope="module")
def finished_run(watched_run: WatchedRun) -> tuple[Path, str]:
    """(run directory, what was printed)."""
    return watched_run.place / "sfpo", watched_run.output


def test_a_run_listens_on_the_loopback_interface_only(watched_run: WatchedRun) -> None:
    """Checks every socket of every process of a real run."""
    processes = {one.process for one in watched_run.sockets}
    assert len(processes) >= 4, f"Ray, its workers and torch were not all seen: {watched_run.sockets}"
    assert {one for one in watched_run.sockets if not one.on_loopback} == set()


def test_a_run_keeps_its_secrets_and_leaves_nothing_behind(watched_run: WatchedRun) -> None:
    assert set(watched_run.modes.values()) == {0o700}, "nobody else gets at Ray's sockets and its token"
    assert watched_run.left_in_tmp == []
    assert list(watched_run.place.glob("wandb/offline-run-*")), "W&B was on"
    everything = [path for path in watched_run.place.rglob("*") if path.is_file()]
    assert [path for path in everything if KEY.encode() in path.read_bytes()] == []
    assert KEY not in watched_run.output


def test_the_console_shows_progress_and_no_noise(finished_run: tuple[Path, str]) -> None:
    run_dir, shown = finished_run
    lines = shown.strip().splitlines()
    assert all(re.match(r"\[ *\d+:\d\d\] ", line) for line in lines), shown
    assert any("step 1/2: SFPO  reward" in line for line in lines)
    assert sum("held-out accuracy chain_sum" in line and "±" in line for line in lines) >= 2
    assert any(re.search(r"held-out accuracy chain_sum: .* before, .* after step 2", line) for line in lines)
    assert str(run_dir / "curves.png") in shown


def test_the_run_directory_is_complete(finished_run: tuple[Path, str]) -> None:
    run_dir, _ = finished_run
    settings = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (settings["sfpo.k"], settings["sfpo.alpha"]) == (2, 0.8)
    assert settings["megatron.device"] == "cpu", "what `auto` became is written down"
    lines = read_metrics(run_dir)
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert [line["rollouts_total"] for line in lines] == [0, 16, 32]
    for line in (lines[0], lines[2]):
        assert 0 <= line["eval/chain_sum_pass1"] <= 1
        assert line["eval/chain_sum_pass1_stderr"] >= 0
    for line in lines[1:]:
        assert {f"sfpo/{name}" for name in SFPO_METRICS} <= set(line)
        assert line["sfpo/active"] == 1.0
        assert line["sfpo/displacement"] > 0
        assert line["time/step_total"] > 0
        assert line["train/optimizer_steps"] == 1.0
    assert lines[2]["sfpo/backward_passes_total"] == 6.0
    assert lines[1]["wall_seconds"] < lines[2]["wall_seconds"]
    samples = [json.loads(text) for text in (run_dir / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {1, 2}
    assert set(samples[0]) == {"step", "prompt", "response", "label", "reward", "truncated"}
    assert "arithmetic problem" in samples[0]["prompt"]
    assert (run_dir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (run_dir / "checkpoints").is_dir()


def test_vllm_and_the_actor_agree_before_and_after_a_weight_transfer(finished_run: tuple[Path, str]) -> None:
    _, first, second = read_metrics(finished_run[0])
    # Both sides compute in fp32 here. Weights that did not arrive, or a stale copy of one layer, show as 0.01 or more.
    assert first["train/rollout_log_prob_abs_diff"] < 1e-3
    assert second["train/rollout_log_prob_abs_diff"] < 1e-3
    for line in (first, second):
        assert line["weight_sync/bytes"] > 2e8
        assert line["weight_sync/updates"] <= 2, "buckets, not tensors"


def test_the_trained_model_loads_in_transformers(finished_run: tuple[Path, str], smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = AutoModelForCausalLM.from_pretrained(finished_run[0] / "hf").state_dict()
    original = AutoModelForCausalLM.from_pretrained(smollm2).state_dict()
    assert {name: tensor.shape for name, tensor in trained.items()} == {n: t.shape for n, t in original.items()}
    assert any(not trained[name].equal(original[name]) for name in original)
    assert len(AutoTokenizer.from_pretrained(finished_run[0] / "hf")) == 49152


@pytest.mark.slow
def test_recorded_rollouts_train_again_to_the_same_numbers(
    finished_run: tuple[Path, str], smollm2: Path, tmp_path: Path
) -> None:
    run_dir, _ = finished_run
    arguments = flags(
        tmp_path / "again",
        smollm2,
        rollout__replay_dir=run_dir.parent / "rollouts",
        vllm__num_engines=None,
        reward__remote_url=None,
        megatron__param_dtype="fp32",
        megatron__old_log_probs="separate",  # the first run had them from the update
    )
    done = train(*arguments)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs_of(tmp_path / 'again')}"
    again, before = read_metrics(tmp_path / "again"), read_metrics(run_dir)[1:]
    assert len(again) == len(before) == 2
    for new, old in zip(again, before, strict=True):
        for name in ("reward_mean", "train/policy_loss", "train/actor_grad_norm", "sfpo/entropy", "sfpo/entropy_start"):
            assert new[name] == pytest.approx(old[name], rel=1e-4, abs=1e-6), name


@pytest.mark.slow
def test_a_kl_term_adds_a_reference_model_and_stop_step_ends_sfpo(
    finished_run: tuple[Path, str], small_model: Path, tmp_path: Path
) -> None:
    arguments = flags(
        tmp_path / "kl",
        small_model,
        rollout__replay_dir=finished_run[0].parent / "rollouts",
        vllm__num_engines=None,
        reward__remote_url=None,
        actor__num_gpus_per_node=1,
        megatron__pipeline_model_parallel_size=1,
        algo__kl__init_coef=0.05,
        algo__kl__use_loss=True,
        algo__kl__estimator="k3",
        ref__num_gpus_per_node=1,
        sfpo__optimizer_state="interpolate",
        sfpo__gate_entropy="start",
        sfpo__gate="two_sided",
        sfpo__gate_window=2,
        sfpo__gate_threshold=9,
        sfpo__stop_step=1,
    )
    done = train(*arguments)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs_of(tmp_path / 'kl')}"
    first, second = read_metrics(tmp_path / "kl")
    # In the slow pass the policy is no longer at theta_0, which is the reference model: the fast passes moved it.
    assert 0 < first["train/kl"] < 1
    assert second["train/kl"] > 0
    assert first["reward_mean"] == read_metrics(finished_run[0])[1]["reward_mean"]
    assert [line["sfpo/active"] for line in (first, second)] == [1.0, 0.0]
    assert [line["sfpo/backward_passes_total"] for line in (first, second)] == [3.0, 4.0]
    assert first["sfpo/entropy_start"] > 0
    assert first["sfpo/entropy_z"] is None
    # Slightly less, because of the term that keeps the deviation from being zero.
    assert abs(second["sfpo/entropy_z"]) == pytest.approx(1.0, rel=1e-3), "as of any two different values"


@pytest.mark.slow
def test_the_asynchronous_trainer_with_bf16_parameters(testbed: Path, tmp_path: Path) -> None:
    # A tiny model, because processors without bf16 instructions take ten times as long.
    arguments = flags(
        tmp_path / "run",
        testbed / "model",
        train__async_enable=True,
        megatron__param_dtype="bf16",
        sfpo__k=1,
        data__prompt_dataset=testbed / "train.jsonl",
        data__input_key="prompt",
        data__label_key="label",
        data__max_len=24,
        data__max_samples=4,
        reward__remote_url="exact",
        rollout__batch_size=2,
        rollout__max_new_tokens=6,
        train__batch_size=8,
    )
    done = train(*arguments)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs_of(tmp_path / 'run')}"
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["sfpo/active"] == 1.0 for line in lines)
    assert lines[0]["train/rollout_log_prob_abs_diff"] < 0.03
    assert (tmp_path / "run" / "hf" / "config.json").is_file()
    assert (tmp_path / "run" / "samples.jsonl").is_file()


@pytest.mark.parametrize(
    ("body", "message", "evidence"),
    [
        # Works for the made-up response of the trial call, and for no other.
        pytest.param(
            "if '42' in queries[0]:\n        return [1.0]\n    raise KeyError('no such problem')",
            "no such problem",
            "Traceback",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "return {'rewards': [float('nan')]}",
            "must be finite",
            "nonfinite/rollouts_000001.safetensors",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["raises", "NaN"],
)
def test_a_reward_function_that_fails_stops_the_run(
    small_model: Path, tmp_path: Path, body: str, message: str, evidence: str
) -> None:
    reward = tmp_path / "my_reward.py"
    reward.write_text(f"def reward_func(queries, prompts, labels):\n    {body}\n")
    one_rank = {"actor__num_gpus_per_node": 1, "megatron__pipeline_model_parallel_size": 1}
    done = train(*flags(tmp_path / "run", small_model, reward__remote_url=reward, **one_rank))
    assert done.returncode == 1
    assert message in done.stdout
    assert "my_reward.py" in done.stdout
    assert evidence in done.stdout, "the reward function's own traceback, or the batch with the reward"
    assert str(tmp_path / "run" / "logs") in done.stdout
