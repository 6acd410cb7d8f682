"""SFPO in verl's own TrainingWorker with its FSDP engines, on a CPU, against a plain PyTorch loop."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import verl_jobs as jobs
from ranks import RankPool
from reference import PlainSFPO, assert_same, flat, old_log_probs
from tiny_models import make_model, with_tokenizer


@pytest.fixture(scope="module")
def verl_ranks() -> Iterator[RankPool]:
    pool = RankPool(prepare=jobs.prepare, checked=False)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return with_tokenizer(make_model(tmp_path_factory.mktemp("model"), "qwen2"))


@pytest.fixture(scope="module")
def samples(model: str) -> list[Any]:
    """Eight samples of different lengths: two mini-batches."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for number in range(8):
        prompt, response = 4 + number % 3, 3 + number % 4
        mask = torch.zeros(prompt + response - 1, dtype=torch.bool)
        mask[-response:] = True
        tokens = torch.randint(5, 120, (prompt + response,), generator=generator)
        advantage = torch.randn(1, generator=generator).item()
        found.append(SimpleNamespace(tokens=tokens, action_mask=mask, advantages=advantage * mask.float()))
    for sample, values in zip(found, old_log_probs(model, found), strict=True):
        sample.old_log_probs = values
    return found


def mini_batches(samples: list[Any]) -> list[list[Any]]:
    return [samples[:4], samples[4:]]


def plain_loop(model: str, samples: list[Any], batches: int = 2, **how: Any) -> tuple[PlainSFPO, torch.Tensor]:
    plain = PlainSFPO(model, lr=jobs.LR, weight_decay=0.0)
    start = flat(plain.weights())
    for _ in range(batches):
        plain.update(
            mini_batches(samples), how.get("k", 2), 0.8, how.get("state", "maintain"), how.get("preset", "sfpo")
        )
    return plain, start


@pytest.mark.parametrize(("kind", "world"), [("fsdp2", 1), ("fsdp2", 2), ("fsdp", 1), ("fsdp", 2)])
def test_updates_equal_a_plain_loop(
    verl_ranks: RankPool, model: str, samples: list[Any], kind: str, world: int
) -> None:
    plain, start = plain_loop(model, samples)
    settings = {"k": 2, "alpha": 0.8, "gate": "off"}
    for found in verl_ranks.run(world, jobs.updated, model, samples, settings, kind):
        assert_same(found["weights"], plain, start)
        last = found["metrics"][-1]
        assert last["sfpo/active"] == [1.0]
        assert last["sfpo/backward_passes_total"] == [6.0]
        assert last["grad_norm"][-1] == pytest.approx(plain.grad_norms[-1], rel=1e-3)


@pytest.mark.parametrize(
    "how",
    [
        {"preset": "grpo"},
        {"preset": "grpo_k_passes"},
        {"preset": "grpo_scaled_lr"},
        {"preset": "lookahead"},
        {"preset": "extragradient"},
        {"state": "restore"},
        {"state": "interpolate"},
        {"state": "reset"},
    ],
    ids=str,
)
def test_presets_and_adams_state(verl_ranks: RankPool, model: str, samples: list[Any], how: dict[str, str]) -> None:
    plain, start = plain_loop(model, samples, **how)
    settings = {"k": 2, "alpha": 0.8, "gate": "off", "preset": how.get("preset", "sfpo")}
    settings["optimizer_state"] = how.get("state", "maintain")
    (found,) = verl_ranks.run(1, jobs.updated, model, samples, settings, "fsdp2")
    assert_same(found["weights"], plain, start)


def test_predictions(verl_ranks: RankPool, model: str, samples: list[Any]) -> None:
    plain = PlainSFPO(model, lr=jobs.LR, weight_decay=0.0)
    start = flat(plain.weights())
    for _ in range(2):
        plain.predict(mini_batches(samples), 5, 0.5, "displacement", "pass", True)
    settings = {"preset": "prepo", "k": 5, "alpha": 0.5, "gate": "off"}
    for found in verl_ranks.run(2, jobs.updated, model, samples, settings, "fsdp2"):
        moved = (flat(plain.weights()) - start).norm()
        assert (flat(found["weights"]) - flat(plain.weights())).norm() <= 3e-3 * moved


def test_the_schedule_advances_as_with_grpo(verl_ranks: RankPool, model: str, samples: list[Any]) -> None:
    rates = []
    for settings in (None, {"k": 2, "gate": "off"}, {"preset": "lookahead", "k": 2, "gate": "off"}):
        (found,) = verl_ranks.run(1, jobs.updated, model, samples, settings, "fsdp2", 3, "cosine")
        rates.append([metrics["lr"][-1] for metrics in found["metrics"]])
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0] == pytest.approx(rates[2])
    assert rates[0][0] > rates[0][-1]


def test_the_gate_and_everything_else_continue_from_a_checkpoint(
    verl_ranks: RankPool, model: str, samples: list[Any], tmp_path: Path
) -> None:
    settings = {"k": 2, "gate": "two_sided", "gate_window": 2, "gate_threshold": 0.9}
    found = verl_ranks.run(1, jobs.saved_and_continued, model, samples, settings, str(tmp_path / "checkpoint"))[0]
    assert "sfpo.json" in found["files"]
    assert found["same"]
    for ours, theirs in zip(found["continued"], found["undisturbed"], strict=True):
        for name in ("sfpo/active", "sfpo/entropy_z", "sfpo/backward_passes_total", "sfpo/displacement", "grad_norm"):
            assert ours.get(name) == theirs.get(name), name
    assert found["continued"][-1]["sfpo/active"] == [0.0], "the gate has closed"
