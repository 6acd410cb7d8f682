"""Engines and actor that take turns on the same devices, and responses that continue across a weight update."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import SUPPORT
from tiny_models import make_model
from tiny_runs import assert_the_same, flags, train

from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.config.namespaces import nested
from openrlhf_sfpo.config.placement import crowded, engines_share_gpus, gpus_needed
from openrlhf_sfpo.orchestration.worker_reuse import can_follow
from openrlhf_sfpo.report.reading import read_metrics

STEPS = 3
COLOCATED: dict[str, Any] = {
    "train__colocate_all": True,
    "vllm__enable_sleep": True,
    "ds__enable_sleep": True,
}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `sleep_probe` measured of a real engine, by the state the engine was in."""
    directory = tmp_path_factory.mktemp("engines")
    shape = {
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 2048,
        "vocab_size": 2048,
        "initializer_range": 0.03,
    }
    models = [make_model(directory / f"{seed}", "qwen2", tied=True, seed=seed, **shape) for seed in (1, 2)]
    command = [sys.executable, str(SUPPORT / "sleep_probe.py"), *map(str, models)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    weights = (models[0] / "model.safetensors").stat().st_size
    return {**{state.pop("what"): state for state in result.pop("seen")}, **result, "weight_bytes": weights}


def test_a_sleeping_engine_gives_its_memory_back(probed: dict[str, Any]) -> None:
    cache = 256 * 2**20
    used, one, two = probed["used"], probed["asleep at 1"], probed["asleep at 2"]
    assert used["kv_cache"] == cache
    assert (one["kv_cache"], one["weights"]) == (0, used["weights"])
    assert (two["kv_cache"], two["weights"]) == (0, 0)
    assert used["memory"] - one["memory"] > 0.95 * cache
    # The weights, including the packed copies that kernels keep.
    assert one["memory"] - two["memory"] > 0.8 * probed["weight_bytes"]
    for name in ("awake", "without weights", "weights sent"):
        assert (probed[name]["kv_cache"], probed[name]["weights"]) == (cache, used["weights"]), name
    assert probed["weights awake"]["kv_cache"] == 0


def test_an_engine_answers_after_sleep_as_before(probed: dict[str, Any]) -> None:
    answer = probed["used"]["answer"]
    assert len(answer) == 4
    assert probed["awake"]["answer"] == answer, "level 1 keeps the weights"
    assert probed["weights sent"]["answer"] == answer, "level 2 needs them again"
    assert [probed[name]["lacks"] for name in ("awake", "without weights", "weights sent")] == [False, True, False]
    assert "slept at level 2" in probed["refusal"]
    assert probed["sent again after half of others"]["answer"] == answer


def test_prompts_that_do_not_fit_one_step_have_seeds_of_their_own(probed: dict[str, Any]) -> None:
    assert [len(tokens) for tokens in probed["many"]] == [2] * 160


def test_a_response_continues_with_weights_that_arrive_midway(probed: dict[str, Any]) -> None:
    """Its beginning must be recomputed with the new weights: nothing of the old ones may remain in the cache."""
    partial = probed["partial"]
    before, answer = partial["before"], partial["answer"]
    assert 8 <= before < len(answer) == 40
    assert answer[:before] == pytest.approx(partial["model"][:before], abs=1e-4)
    assert answer[before:] == pytest.approx(partial["other"][before:], abs=1e-4)
    differences = [abs(a - b) for a, b in zip(partial["model"], partial["other"], strict=True)]
    assert max(differences) > 0.1


def with_reference(run_dir: Path, problems: Path, **changes: Any) -> list[str]:
    """Three steps with a KL loss, evaluated at both ends and after the second step."""
    chosen: dict[str, Any] = {
        "data__max_samples": 4 * STEPS,
        "algo__kl__init_coef": 0.05,
        "algo__kl__use_loss": True,
        "algo__kl__estimator": "k3",
        "ref__num_gpus_per_node": 1,
        "reward__remote_url": f"{SUPPORT / 'rewards_and_scores.py'}:reward",
        "eval__steps": 2,
        "ckpt__save_steps": 2,
        **changes,
    }
    return flags(run_dir, problems, **chosen)


def assert_rewards_scores_and_divergence(lines: list[dict[str, Any]]) -> None:
    """Check a run `with_reference`."""
    assert lines[-1]["train/kl"] > 0
    assert all(line["reward_mean"] <= 1 for line in lines if line["step"])
    accuracies = [value for line in lines for name, value in line.items() if name.endswith("_pass1")]
    assert accuracies
    assert all(2 <= value <= 3 for value in accuracies), "what the scores are"


@pytest.fixture(scope="module")
def disaggregated(problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with engine, actor and reference model on separate devices."""
    run_dir = tmp_path_factory.mktemp("disaggregated") / "run"
    done = train(with_reference(run_dir, problems), [], run_dir.parent / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read_metrics(run_dir)
    assert [line["train/staleness"] for line in lines if line["step"]] == [0.0] * STEPS
    assert_rewards_scores_and_divergence(lines)
    return run_dir


OFFLOADED: dict[str, Any] = {**COLOCATED, "megatron__offload_parameters": True}


def test_a_fully_offloaded_run_is_the_disaggregated_run_to_the_bit(
    problems: Path, undisturbed: Path, tmp_path: Path
) -> None:
    done = train(flags(tmp_path / "run", problems, **OFFLOADED, vllm__sleep_level=2), [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_the_same(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("level", [2, 1])
def test_with_a_reference_model_as_well(problems: Path, disaggregated: Path, tmp_path: Path, level: int) -> None:
    changes = {**OFFLOADED, "ref__offload": True, "vllm__sleep_level": level}
    done = train(with_reference(tmp_path / "run", problems, **changes), [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_the_same(tmp_path / "run", disaggregated)


@pytest.mark.slow
def test_level_2_is_the_same_with_engines_that_die_asleep_and_hang_in_the_weight_transfer(
    problems: Path, disaggregated: Path, tmp_path: Path
) -> None:
    faults = [
        {"at": "slow", "nth": 1, "do": "kill ray::RolloutEngine"},
        {"at": "weights to vLLM", "nth": 2, "do": "stop EngineCore"},
    ]
    changes = {**COLOCATED, "vllm__sleep_level": 2, "rollout__engine_timeout": 6}
    done = train(with_reference(tmp_path / "run", problems, **changes), faults, tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "engine 0 died (its process is gone); restarting it" in done.stdout
    assert "the weight transfer hangs: engine 0 has not carried out start_weight_update for 6 s" in done.stdout
    assert "NCCL_SOCKET_IFNAME" in done.stdout
    assert "engine 0 has not answered for 6 s (--rollout.engine_timeout)" in done.stdout
    assert done.stdout.count("engine 0 is up again with the current weights") == 2
    assert_the_same(tmp_path / "run", disaggregated)


def test_asynchronous_training_with_partial_rollouts_and_a_reference_model(problems: Path, tmp_path: Path) -> None:
    changes = {
        "train__async_enable": True,
        "train__partial_rollout_enable": True,
        "rollout__deterministic": None,
        "algo__advantage__is_correction_level": "token",
        "algo__advantage__is_correction_mode": "clip",
        "vllm__enable_prefix_caching": True,
        "ref__offload": True,
        "ckpt__save_steps": -1,
    }
    done = train(with_reference(tmp_path / "run", problems, **changes), [], tmp_path / "faults")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read_metrics(tmp_path / "run")
    assert_rewards_scores_and_divergence(lines)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["sfpo/active"] == 1.0
        assert line["train/rollout_log_prob_abs_diff"] < 1.0, "what the updates in between have changed"
        assert line["weight_sync/updates"] == 1.0
        assert "train/is_filter_ratio" in line
    assert lines[0]["train/rollout_log_prob_abs_diff"] < 0.02
    assert lines[0]["train/staleness"] == 0
    for line in lines[1:]:
        assert 0 < line["train/staleness"] <= 1, "rollouts do not wait for the update"


def settings(**changes: Any) -> dict[str, Any]:
    words = flags(Path("run"), Path("problems"), **changes)
    return vars(parse(words)[0])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 3),
        ({"train__colocate_actor_ref": True}, 2),
        ({"train__colocate_all": True}, 1),
        ({"train__colocate_all": True, "train__async_enable": True, "rollout__deterministic": None}, 2),
        ({"train__colocate_all": True, "actor__num_gpus_per_node": 4, "vllm__num_engines": 2, "ref__num_nodes": 2}, 4),
    ],
)
def test_shared_gpus_are_counted_once(changes: dict[str, Any], expected: int) -> None:
    from argparse import Namespace

    reference = {"algo__kl__init_coef": 0.05, "ref__num_gpus_per_node": 1}
    args = nested(Namespace(**settings(**{**reference, **changes})))
    assert gpus_needed(args) == expected
    shares = "train__colocate_all" in changes and "train__async_enable" not in changes
    assert engines_share_gpus(args) == shares


def test_tight_placements_lead_to_a_warning() -> None:
    from argparse import Namespace

    def said(**changes: Any) -> str | None:
        return crowded(nested(Namespace(**settings(**changes))))

    assert said() is None
    assert said(**COLOCATED) is None
    assert "--vllm.enable_sleep and --ds.enable_sleep" in said(train__colocate_all=True)
    assert "without --ds.enable_sleep" in said(**{**COLOCATED, "ds__enable_sleep": None})
    assert said(train__colocate_all=True, vllm__gpu_memory_utilization=0.4) is None


def test_colocated_runs_of_a_comparison_start_their_own_workers() -> None:
    assert can_follow(settings(), settings(sfpo__k=1))
    assert not can_follow(settings(**COLOCATED), settings(**COLOCATED, sfpo__k=1))
