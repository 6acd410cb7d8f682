"""Updates of the actor against a plain PyTorch loop, and what must hold for every update."""

from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from jobs import LAYOUTS
from ranks import RankPool
from reference import (
    STATE_MODES,
    PlainSFPO,
    flat,
    load,
    log_probs_of,
    parts_of,
    recorded,
    with_old_log_probs,
    without_advantages,
)
from tiny_models import make_model, make_samples

from openrlhf_sfpo.megatron.data.batching import plan_micro_batches, plan_train_batches
from openrlhf_sfpo.sfpo import FastPart


def slow(*values: Any) -> Any:
    """A case that takes its time without showing much that others do not."""
    return pytest.param(*values, marks=pytest.mark.slow)


def lengths_by_rank(samples: list[Any], dp: int) -> list[list[int]]:
    """The samples' lengths, by the data-parallel rank that owns them: contiguous parts."""
    count = len(samples)
    shares = [samples[rank * count // dp : (rank + 1) * count // dp] for rank in range(dp)]
    return [[len(sample.tokens) for sample in share] for share in shares]


def train_batches(samples: list[Any], dp: int, batch_size: int = 6) -> list[list[Any]]:
    """The samples of each optimizer step, as the actor divides them."""
    lengths = lengths_by_rank(samples, dp)
    plan = plan_micro_batches(lengths, plan_train_batches(lengths, batch_size), max_tokens=64)
    return [[samples[n] for rank in step for members in rank for n in members] for step in plan]


@pytest.mark.parametrize(
    ("name", "k", "tied"),
    [
        # Tied and untied in turn; the other half is slow.
        *(
            pytest.param(name, 2, tied, marks=pytest.mark.slow if tied == bool(number % 2) else ())
            for number, name in enumerate(LAYOUTS)
            for tied in (True, False)
        ),
        ("TP2PP2DP1", 0, True),
        ("VPP2", 0, False),
    ],
)
def test_updates_equal_a_plain_pytorch_loop(ranks: RankPool, tmp_path: Path, tied: bool, k: int, name: str) -> None:
    """Two rollout batches of two optimizer steps each, from recorded rollouts. Adam's first steps are sign-like, so
    norms are compared."""
    layout, dp = LAYOUTS[name]
    family = ("llama", "mistral", "qwen2", "qwen3")[(list(LAYOUTS).index(name) + 2 * tied + k // 2) % 4]
    path = str(make_model(tmp_path / "model", family, tied))
    samples = recorded(tmp_path, with_old_log_probs(path, make_samples(12)))
    plain = PlainSFPO(path, lr=5e-5)
    start = flat(plain.weights())
    for _ in range(2):
        plain.update(train_batches(samples, dp), k, alpha=0.8)
    results = ranks.run(jobs.ranks_of(layout, dp), jobs.train, path, layout, samples, k, 0.8, 2)
    metrics, weights = results[0]
    moved = (flat(plain.weights()) - start).norm()
    difference = (flat(weights) - flat(plain.weights())).norm()
    assert difference <= 1e-3 * moved
    assert difference <= 1e-6 * flat(weights).norm()
    assert metrics[-1]["actor_grad_norm"] == pytest.approx(plain.grad_norms[-1], rel=1e-5)
    for other, _ in results[1:]:
        assert other == metrics, "every rank must report the same"


@pytest.mark.quick
@pytest.mark.parametrize("name", LAYOUTS)
def test_updates_with_sgd_are_equal_element_by_element(ranks: RankPool, tmp_path: Path, name: str) -> None:
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "qwen3", tied=dp == 2))
    samples = with_old_log_probs(path, make_samples(12))
    plain = PlainSFPO(path, lr=0.05, weight_decay=0.0, optimizer="sgd")
    start = flat(plain.weights())
    for _ in range(2):
        plain.update(train_batches(samples, dp), 2, alpha=0.8)
    _, weights = ranks.run(jobs.ranks_of(layout, dp), with_sgd, path, layout, samples)[0]
    assert (flat(plain.weights()) - start).abs().max() > 1e-3
    torch.testing.assert_close(flat(weights), flat(plain.weights()), rtol=0, atol=1e-5)


def with_sgd(path: str, layout: tuple[int, ...], samples: list[Any]) -> Any:
    return jobs.train(path, layout, samples, batches=2, sgd=True, optimizer={"lr": 0.05, "weight_decay": 0.0})


@pytest.mark.parametrize("name", [slow(name) if number % 3 else name for number, name in enumerate(LAYOUTS)])
def test_updates_in_bf16_are_as_good_as_a_plain_loops(ranks: RankPool, tmp_path: Path, name: str) -> None:
    """bf16 parameters, fp32 main parameters: the update must be as close to fp32's in direction as a plain loop's."""
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "llama", tied=dp == 1))
    samples = with_old_log_probs(path, make_samples(12))
    updates = {}
    for dtype in (torch.float32, torch.bfloat16):
        plain = PlainSFPO(path, lr=5e-5, dtype=dtype)
        start = flat(plain.weights())
        for _ in range(2):
            plain.update(train_batches(samples, dp), 2, alpha=0.8)
        updates[dtype] = flat(plain.weights()) - start
    _, weights = ranks.run(jobs.ranks_of(layout, dp), in_bf16, path, layout, samples)[0]
    ours = torch.cosine_similarity(flat(weights) - start, updates[torch.float32], dim=0)
    plains = torch.cosine_similarity(updates[torch.bfloat16], updates[torch.float32], dim=0)
    assert ours >= plains - 0.02
    assert ours > 0.8


def in_bf16(path: str, layout: tuple[int, ...], samples: list[Any]) -> Any:
    return jobs.train(path, layout, samples, batches=2, param_dtype=torch.bfloat16)


OPTIONS = [
    *((state, preset) for preset in ("sfpo", "lookahead", "extragradient") for state in STATE_MODES),
    ("maintain", "grpo"),
    ("maintain", "grpo_k_passes"),
    ("maintain", "grpo_scaled_lr"),
]


@pytest.mark.parametrize(
    ("state", "preset", "name"),
    [
        # Every second one by default.
        (slow if number % 2 else pytest.param)(*options, list(LAYOUTS)[number % len(LAYOUTS)])
        for number, options in enumerate(OPTIONS)
    ],
)
def test_state_modes_and_presets_equal_a_plain_pytorch_loop(
    ranks: RankPool, tmp_path: Path, state: str, preset: str, name: str
) -> None:
    """Every combination, cycling through the layouts; two rollout batches of two optimizer steps each."""
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "llama", tied=preset != "sfpo"))
    samples = with_old_log_probs(path, make_samples(12))
    plain = PlainSFPO(path, lr=5e-5)
    start = flat(plain.weights())
    for _ in range(2):
        plain.update(train_batches(samples, dp), 2, 0.8, state, preset)
    metrics, weights = ranks.run(jobs.ranks_of(layout, dp), optioned, path, layout, samples, state, preset)[0]
    difference = (flat(weights) - flat(plain.weights())).norm()
    assert difference <= 1e-3 * (flat(plain.weights()) - start).norm()
    assert difference <= 1e-6 * flat(weights).norm()
    passes = {"grpo": 2, "grpo_scaled_lr": 2, "lookahead": 4}.get(preset, 6)
    assert metrics[-1]["sfpo/backward_passes_total"] == passes
    assert metrics[-1]["sfpo/backward_tokens_total"] == passes * sum(len(sample.tokens) for sample in samples)
    assert metrics[-1]["actor_lr"] == pytest.approx(5e-5 * (2.6 if preset == "grpo_scaled_lr" else 1.0))


@pytest.mark.parametrize("name", ["TP2PP2DP1", "TP1PP2DP2", *map(slow, ("TP1PP1DP1", "VPP2", "CP2"))])
def test_samples_without_an_advantage_are_left_out_of_the_same_update(
    ranks: RankPool, tmp_path: Path, name: str
) -> None:
    """Two optimizer steps in a pass: the first train batch keeps one sample, the second five."""
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "llama"))
    samples = with_old_log_probs(path, make_samples(12))
    batches = train_batches(samples, dp)
    of_first = [number for number, sample in enumerate(samples) if any(sample is one for one in batches[0])]
    last = next(number for number, sample in enumerate(samples) if sample is batches[1][-1])
    samples = without_advantages(samples, [*of_first[1:], last])
    batches = train_batches(samples, dp)
    plain = PlainSFPO(path, lr=5e-5)
    start = flat(plain.weights())
    for _ in range(2):
        plain.update(batches, 2, alpha=0.8)
    metrics, weights = ranks.run(jobs.ranks_of(layout, dp), skipping, path, layout, samples, {})[0]
    assert (flat(weights) - flat(plain.weights())).norm() <= 1e-3 * (flat(plain.weights()) - start).norm()
    trained_on = sum(len(sample.tokens) for sample in samples if sample.advantages.any())
    assert metrics[-1]["sfpo/backward_tokens_total"] == 6 * trained_on < 6 * 12 * 20
    assert metrics[-1]["actor_grad_norm"] == pytest.approx(plain.grad_norms[-1], rel=1e-5)


def test_leaving_samples_out_changes_no_bit_where_packs_stay_the_same(ranks: RankPool, tmp_path: Path) -> None:
    """Each sample is a micro-batch of its own here."""
    path = str(make_model(tmp_path / "model", "qwen2"))
    samples = without_advantages(with_old_log_probs(path, make_samples(12)), range(0, 12, 2))
    one_each = {"max_tokens_per_gpu": 1}
    found = [ranks.run(1, job, path, (1, 1, 1), samples, one_each)[0] for job in (skipping, keeping)]
    (ours, weights), (theirs, expected) = found
    assert torch.equal(flat(weights), flat(expected))
    assert 1.5 < theirs[-1]["sfpo/backward_tokens_total"] / ours[-1]["sfpo/backward_tokens_total"] < 2.5


@pytest.mark.parametrize("name", ["TP2PP1DP1", "TP1PP2DP2"])
def test_a_batch_in_which_no_sample_has_an_advantage(ranks: RankPool, tmp_path: Path, name: str) -> None:
    """Adam still decays the weights and moves them by its moments, as in the plain loop; the gate sees nothing."""
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "qwen3"))
    samples = with_old_log_probs(path, make_samples(12))
    nothing = without_advantages(with_old_log_probs(path, make_samples(12)), range(12))
    plain = PlainSFPO(path, lr=5e-5)
    plain.update([samples], 2, alpha=0.8)
    between = flat(plain.weights())
    plain.update([nothing], 2, alpha=0.8)
    for sample in (*samples, *nothing):
        sample.old_log_probs = None  # those of the first pass are taken, where there is one
    jobs_of = jobs.ranks_of(layout, dp)
    metrics, weights, entropies = ranks.run(jobs_of, two_batches, path, layout, samples, nothing)[0]
    assert (flat(weights) - flat(plain.weights())).norm() <= 1e-3 * (flat(plain.weights()) - between).norm()
    assert metrics["sfpo/entropy"] is metrics["sfpo/entropy_start"] is metrics["sfpo/entropy_z"] is None
    assert metrics["sfpo/fast_kl"] == metrics["policy_loss"] == metrics["actor_grad_norm"] == 0.0
    assert entropies == 1


def skipping(path: str, layout: tuple[int, ...], samples: list[Any], settings: dict[str, Any]) -> Any:
    return jobs.train(path, layout, samples, batches=2, skip_zero_advantages=True, **settings)


def keeping(path: str, layout: tuple[int, ...], samples: list[Any], settings: dict[str, Any]) -> Any:
    return jobs.train(path, layout, samples, batches=2, **settings)


def two_batches(path: str, layout: tuple[int, ...], samples: list[Any], nothing: list[Any]) -> Any:
    """The second batch's metrics, the weights, and the number of entropies that the gate has seen."""
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    actor = jobs.make_actor(path, layout, train_batch_size=12, skip_zero_advantages=True)
    update = SlowFastUpdate(actor.shards, 2, 0.8, Gate(window=2), entropy_source="start")
    actor.update(jobs.my_share(samples), PPOClipLoss(0.2, 0.2), update)
    metrics = actor.update(jobs.my_share(nothing), PPOClipLoss(0.2, 0.2), update)
    return metrics, jobs.weights_of(actor), len(update.gate.state_dict()["values"])


PARTS: list[dict[str, Any]] = [
    {"by": "advantage"},
    {"by": "variance"},
    {"by": "random"},
    {"by": "random", "rescale": True},
    {"by": "advantage", "rescale": True},
]


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (PARTS[0], "TP2PP2DP1"),
        (PARTS[4], "TP1PP1DP2"),
        *(slow(*pair) for pair in ((PARTS[1], "TP1PP2DP2"), (PARTS[2], "VPP2"), (PARTS[3], "CP2"))),
    ],
    ids=str,
)
def test_fast_passes_on_a_part_of_the_batch(ranks: RankPool, tmp_path: Path, part: dict[str, Any], name: str) -> None:
    """Two rollout batches of two optimizer steps, each on the part that is chosen of the same six samples."""
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "llama"))
    samples = with_old_log_probs(path, make_samples(12))
    batches = [[samples[n] for n in batch] for batch in plan_train_batches(lengths_by_rank(samples, dp), 6)]
    plain = PlainSFPO(path, lr=5e-5)
    start, chooser = flat(plain.weights()), FastPart(0.5, **part)
    tokens = 0
    for number in range(2):
        parts = parts_of(batches, chooser, number)
        plain.update_with_parts(batches, parts, chooser.rescale, 2, 0.8)
        tokens += sum(len(one.tokens) for some in [*parts, *parts, *batches] for one in some)
    settings = {"part": {"fraction": 0.5, **part}}
    metrics, weights = ranks.run(jobs.ranks_of(layout, dp), keeping, path, layout, samples, settings)[0]
    assert (flat(weights) - flat(plain.weights())).norm() <= 1e-3 * (flat(plain.weights()) - start).norm()
    assert metrics[-1]["sfpo/backward_tokens_total"] == tokens
    assert metrics[-1]["sfpo/backward_passes_total"] == 6


PREDICTIONS = [
    ({"retention": "displacement"}, "TP2PP2DP1"),
    ({"retention": "tensor", "per": "train_batch"}, "TP1PP2DP2"),
    slow({"retention": "gradient"}, "TP1PP1DP2"),
    slow({"retention": "displacement", "corrective": False}, "TP1PP2DP2"),
    slow({"retention": "tensor"}, "VPP2"),
    slow({"retention": "displacement", "per": "train_batch"}, "CP2"),
    slow({"retention": "gradient", "corrective": False, "per": "train_batch"}, "TP2PP2DP1"),
]


@pytest.mark.parametrize(("predictive", "name"), PREDICTIONS, ids=str)
def test_predictions_equal_a_plain_pytorch_loop(
    ranks: RankPool, tmp_path: Path, predictive: dict[str, Any], name: str
) -> None:
    """Two rollout batches of two optimizer steps. Root mean squares are over whole Hugging Face tensors, whatever part
    of them a rank holds."""
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "qwen2", tied=True))
    samples = with_old_log_probs(path, make_samples(12))
    batches = train_batches(samples, dp)
    plain, passes = PlainSFPO(path, lr=5e-5), PlainSFPO(path, lr=5e-5)
    start = flat(plain.weights())
    for _ in range(2):
        plain.predict(batches, 5, 0.5, **{"per": "pass", "corrective": True, **predictive})
        passes.update(batches, 2, 0.5)
    metrics, weights = ranks.run(jobs.ranks_of(layout, dp), predicted, path, layout, samples, predictive)[0]
    moved = (flat(plain.weights()) - start).norm()
    assert (flat(weights) - flat(plain.weights())).norm() <= 1e-3 * moved
    assert (flat(passes.weights()) - flat(plain.weights())).norm() >= 0.05 * moved, "the prediction has an effect"
    corrective = predictive.get("corrective", True)
    assert metrics[-1]["sfpo/backward_passes_total"] == (6 if corrective else 4)
    assert metrics[-1]["optimizer_steps"] == 2
    if corrective:
        assert metrics[-1]["actor_grad_norm"] == pytest.approx(plain.grad_norms[-1], rel=1e-3)


def predicted(path: str, layout: tuple[int, ...], samples: list[Any], predictive: dict[str, Any]) -> Any:
    settings = {"preset": "prepo", "predictive": predictive, "optimizer": {"lr": 5e-5}}
    return jobs.train(path, layout, samples, 5, 0.5, batches=2, **settings)


@pytest.mark.parametrize(
    ("preset", "name"), [("sfpo", "TP2PP2DP1"), slow("grpo", "TP1PP2DP2"), slow("prepo", "CP2"), slow("sfpo", "VPP2")]
)
def test_an_outer_momentum_equals_a_plain_pytorch_loop(ranks: RankPool, tmp_path: Path, preset: str, name: str) -> None:
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "qwen2", tied=True))
    samples = with_old_log_probs(path, make_samples(12))
    batches = train_batches(samples, dp)
    plain = PlainSFPO(path, lr=5e-5)
    start = flat(plain.weights())
    memory: dict[str, torch.Tensor] = {}
    for _ in range(3):
        before = plain.weights()
        if preset == "prepo":
            plain.predict(batches, 2, 0.8, "displacement", "pass", True)
        else:
            plain.update(batches, 2, 0.8, preset=preset)
        plain.move_outer(before, memory, momentum=0.7, lr=0.5)
    _, weights = ranks.run(jobs.ranks_of(layout, dp), with_outer_momentum, path, layout, samples, preset)[0]
    moved = (flat(plain.weights()) - start).norm()
    assert (flat(weights) - flat(plain.weights())).norm() <= 1e-3 * moved


def with_outer_momentum(path: str, layout: tuple[int, ...], samples: list[Any], preset: str) -> Any:
    outer = {"momentum": 0.7, "lr": 0.5}
    return jobs.train(path, layout, samples, preset=preset, batches=3, outer=outer, optimizer={"lr": 5e-5})


@pytest.mark.parametrize("kind", ["cosine", "grad_norm"])
def test_gates_on_gradients_read_the_same_on_every_layout(ranks: RankPool, tmp_path: Path, kind: str) -> None:
    path = str(make_model(tmp_path / "model", "qwen2", tied=True))
    samples = with_old_log_probs(path, make_samples(12))
    read = []
    for name in ("TP1PP1DP1", "TP2PP2DP1", "TP1PP2DP2"):
        layout, dp = LAYOUTS[name]
        metrics, _ = ranks.run(jobs.ranks_of(layout, dp), gated, path, layout, samples, kind)[0]
        read.append([one["sfpo/gradient_cosine" if kind == "cosine" else "sfpo/grad_norm_z"] for one in metrics])
    assert read[1] == pytest.approx(read[0], rel=1e-3)
    assert read[2] == pytest.approx(read[0], rel=1e-3)
    assert kind == "grad_norm" or all(0 < abs(one) < 0.99999 for one in read[0])


def gated(path: str, layout: tuple[int, ...], samples: list[Any], kind: str) -> Any:
    gate = {"kind": kind, "threshold": 100.0}
    settings = {"gate": gate, "optimizer": {"lr": 5e-5}, "train_batch_size": 12}
    return jobs.train(path, layout, samples, batches=2, **settings)


# How each distance from theta_0 grows from pass to pass is the plain loop's; the limit is between two of them.
LIMITS = {"max_fast_kl": "max_kl", "max_fast_clip_ratio": "max_clip_ratio", "min_fast_ess": "min_ess"}


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("max_fast_kl", "TP1PP2DP2"),
        ("min_fast_ess", "TP1PP1DP2"),
        slow("max_fast_kl", "CP2"),
        slow("max_fast_clip_ratio", "VPP2"),
        slow("min_fast_ess", "TP2PP2DP1"),
    ],
)
def test_fast_passes_end_at_a_limit_on_every_layout(ranks: RankPool, tmp_path: Path, flag: str, name: str) -> None:
    layout, dp = LAYOUTS[name]
    path = str(make_model(tmp_path / "model", "llama"))
    samples = with_old_log_probs(path, make_samples(12))
    free, plain = PlainSFPO(path, lr=2e-3), PlainSFPO(path, lr=2e-3)
    free.update([samples], 5, 0.8)
    limit = (free.distances[2][flag] + free.distances[3][flag]) / 2
    plain.update([samples], 4, 0.8)  # the fourth pass is beyond it
    settings = {"train_batch_size": 12, "optimizer": {"lr": 2e-3}, "limits": {LIMITS[flag]: limit}}
    metrics, weights = ranks.run(jobs.ranks_of(layout, dp), limited, path, layout, samples, settings)[0]
    assert metrics[0]["sfpo/fast_passes"] == 4
    assert metrics[0]["sfpo/fast_kl"] == pytest.approx(free.distances[3]["max_fast_kl"], rel=1e-3)
    moved = (flat(plain.weights()) - flat(PlainSFPO(path).weights())).norm()
    assert (flat(weights) - flat(plain.weights())).norm() <= 1e-3 * moved


def limited(path: str, layout: tuple[int, ...], samples: list[Any], settings: dict[str, Any]) -> Any:
    return jobs.train(path, layout, samples, k=5, **settings)


def optioned(path: str, layout: tuple[int, ...], samples: list[Any], state: str, preset: str) -> Any:
    return jobs.train(path, layout, samples, batches=2, optimizer_state=state, preset=preset)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_alpha_zero_with_restored_state_is_grpo_to_the_bit(ranks: RankPool, tmp_path: Path, dtype: torch.dtype) -> None:
    path = str(make_model(tmp_path / "model", "qwen3"))
    samples = with_old_log_probs(path, make_samples(8))
    sfpo = ranks.run(4, restored_to_the_start, path, samples, dtype, 2)[0]
    grpo = ranks.run(4, restored_to_the_start, path, samples, dtype, 0)[0]
    assert all(torch.equal(sfpo[name], grpo[name]) for name in sfpo)


def restored_to_the_start(path: str, samples: list[Any], dtype: torch.dtype, k: int) -> dict[str, torch.Tensor]:
    settings: dict[str, Any] = {"batches": 2, "optimizer_state": "restore", "param_dtype": dtype}
    return jobs.train(path, (1, 2, 1), samples, k, 0.0, **settings)[1]


def test_frozen_parameters_stay_as_they_are(ranks: RankPool, tmp_path: Path) -> None:
    """With TP2 DP2 and a frozen layer, the rest must be trained as in a plain loop with the same frozen layer."""
    path = str(make_model(tmp_path / "model", "qwen2", tied=False))
    samples = with_old_log_probs(path, make_samples(12))
    plain = PlainSFPO(path, lr=5e-5, frozen=".layers.1.")
    start = plain.weights()
    for _ in range(2):
        plain.update(train_batches(samples, dp=2), 2, 0.8, "interpolate")
    weights = ranks.run(4, with_a_frozen_layer, path, samples)[0]
    for name in start:
        assert torch.equal(weights[name], start[name]) == (".layers.1." in name), name
    moved = (flat(plain.weights()) - flat(start)).norm()
    assert (flat(weights) - flat(plain.weights())).norm() <= 1e-3 * moved


def with_a_frozen_layer(path: str, samples: list[Any]) -> dict[str, torch.Tensor]:
    from openrlhf_sfpo.megatron.model import model
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowCopy, SlowFastUpdate

    build_chunk = model._build_chunk

    def frozen(*args: Any) -> torch.nn.Module:
        chunk = build_chunk(*args)
        chunk.decoder.layers[1].requires_grad_(False)
        return chunk

    model._build_chunk = frozen
    try:
        actor = jobs.make_actor(path, (2, 1, 1))
    finally:
        model._build_chunk = build_chunk
    slow_copy = SlowCopy(actor.shards, "interpolate")
    update = SlowFastUpdate(actor.shards, 2, 0.8, Gate("off"), slow_copy=slow_copy)
    for _ in range(2):
        actor.update(jobs.my_share(samples), PPOClipLoss(), update)
    return jobs.weights_of(actor)


def test_the_entropy_at_the_start_is_that_of_the_weights_before(ranks: RankPool, tmp_path: Path) -> None:
    """Read off the pass that computes the old log-probabilities; TP2 PP1 DP2, two rollout batches."""
    path = str(make_model(tmp_path / "model", "qwen2"))
    samples = make_samples(10)
    model = load(path)
    with torch.no_grad():
        entropies = [log_probs_of(model, sample)[1] for sample in samples]
    tokens = sum(float(sample.action_mask.sum()) for sample in samples)
    expected = sum(float(entropy.sum()) for entropy in entropies) / tokens
    results = ranks.run(4, two_on_policy_updates, path, samples)
    first, second = results[0]
    assert first["sfpo/entropy_start"] == pytest.approx(expected, rel=1e-5)
    assert second["sfpo/entropy_start"] != first["sfpo/entropy_start"]
    assert abs(second["sfpo/entropy_z"]) == pytest.approx(1.0, rel=1e-3)
    assert all(result == results[0] for result in results), "every rank must report the same"


def two_on_policy_updates(path: str, samples: list[Any]) -> list[dict[str, Any]]:
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    actor = jobs.make_actor(path, (2, 1, 1))
    gate = Gate("upper", window=2, threshold=9.0)
    update = SlowFastUpdate(actor.shards, 2, 0.8, gate, entropy_source="start")
    return [jobs.on_policy_step(actor, samples, update) for _ in range(2)]


@pytest.mark.parametrize("overlap", [False, True])
def test_the_gather_before_a_reposition_is_skipped(ranks: RankPool, tmp_path: Path, overlap: bool) -> None:
    """Of an update's (K + 1) M optimizer steps, all but the last of the K-th fast pass gather parameters; after that
    one the reposition gathers. With overlap only forward passes gather."""
    path = str(make_model(tmp_path / "model", "llama"))
    samples = with_old_log_probs(path, make_samples(12))
    for gathers in ranks.run(2, count_gathers, path, samples, overlap):
        assert gathers == (0 if overlap else 3 * 2 - 1 + 1)


def count_gathers(path: str, samples: list[Any], overlap: bool) -> int:
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    actor = jobs.make_actor(path, (1, 1, 1), overlap_param_gather=overlap, overlap_grad_reduce=overlap)
    calls: list[str] = []
    for chunk in actor._chunks:
        for group in chunk.bucket_groups:
            group.start_param_sync = _counting(group.start_param_sync, calls)
    groups = sum(len(chunk.bucket_groups) for chunk in actor._chunks)
    inside_passes: list[str] = []
    original = actor._pipeline.forward_backward

    def forward_backward(*args: Any) -> Any:
        before = len(calls)
        result = original(*args)
        inside_passes.extend(calls[before:])
        return result

    actor._pipeline.forward_backward = forward_backward
    actor.update(jobs.my_share(samples), PPOClipLoss(), SlowFastUpdate(actor.shards, 2, 0.8, Gate("off")))
    return (len(calls) - len(inside_passes)) // groups


def _counting(function: Any, calls: list[str]) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append("gather")
        return function(*args, **kwargs)

    return counted


@pytest.mark.parametrize(("state", "shards"), [("maintain", 1), ("restore", 3), ("interpolate", 3), ("reset", 1)])
def test_an_updates_extra_memory_is_what_the_mode_says(
    ranks: RankPool, tmp_path: Path, state: str, shards: int
) -> None:
    """On one rank, the peak of an update's tensors minus that of a GRPO update on the same batch (the profiler does not
    see what gloo's threads free); on each of two ranks, what is alive at the reposition."""
    path = str(make_model(tmp_path / "model", "llama", hidden_size=128, intermediate_size=512, vocab_size=1031))
    samples = with_old_log_probs(path, make_samples(8, vocab=1031))
    ((extra, at_reposition, owned),) = ranks.run(1, memory, path, samples, state)
    assert extra == pytest.approx(shards * owned, rel=0.02)
    assert at_reposition == pytest.approx(shards * owned, rel=0.02)
    for _, at_reposition, owned in ranks.run(2, memory, path, samples, state):
        assert at_reposition == pytest.approx(shards * owned, rel=0.02)


def memory(path: str, samples: list[Any], state: Any) -> tuple[int, int, int]:
    """Bytes: an SFPO update's peak minus a GRPO update's; what is alive at the reposition and not between updates; the
    fp32 shard."""
    from memory import peak_bytes

    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowCopy, SlowFastUpdate

    actor = jobs.make_actor(path, (1, 1, 1), param_dtype=torch.bfloat16)
    mine, seen = jobs.my_share(samples), {}

    def see(stage: str) -> None:
        if stage == "reposition":
            seen[stage] = live_bytes()

    def update(k: int, on_stage: Any = lambda stage: None) -> None:
        slow_copy = SlowCopy(actor.shards, state)
        algorithm = SlowFastUpdate(actor.shards, k, 0.8, Gate("off"), slow_copy=slow_copy, on_stage=on_stage)
        actor.update(mine, PPOClipLoss(), algorithm)

    update(1)  # the optimizer's state exists from here on
    before = live_bytes()
    update(1, see)
    extra = peak_bytes(lambda: update(1), "cpu") - peak_bytes(lambda: update(0), "cpu")
    owned = sum(shard.numel() * shard.element_size() for _, _, shard in actor.shards.pairs())
    return extra, seen["reposition"] - before, owned


def live_bytes() -> int:
    import gc

    gc.collect()
    storages = {}
    for item in gc.get_objects():
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize(
    ("preset", "dtype", "overlaps"),
    [
        ("sfpo", torch.float32, (True, False)),
        ("sfpo", torch.bfloat16, (True, True)),
        ("lookahead", torch.float32, (True, True)),
        ("extragradient", torch.bfloat16, (True, True)),
    ],
)
def test_overlap_changes_nothing(
    ranks: RankPool, tmp_path: Path, preset: str, dtype: torch.dtype, overlaps: tuple[bool, bool]
) -> None:
    """Gradients reduced during the backward pass and parameters gathered during the next forward pass, in several
    buckets, over two data-parallel ranks and two rollout batches. With buckets the ranks own other shard slices than
    without, so the gradient norm is summed in another order."""
    path = str(make_model(tmp_path / "model", "qwen2", tied=True))
    samples = with_old_log_probs(path, make_samples(12))
    without = ranks.run(2, overlapped, path, samples, preset, dtype, (False, False))[0]
    with_it = ranks.run(2, overlapped, path, samples, preset, dtype, overlaps)[0]
    assert (flat(without) - flat(with_it)).norm() <= 1e-7 * flat(without).norm()


def overlapped(
    path: str, samples: list[Any], preset: str, dtype: torch.dtype, overlaps: tuple[bool, bool]
) -> dict[str, torch.Tensor]:
    settings = {"overlap_grad_reduce": overlaps[0], "overlap_param_gather": overlaps[1], "ddp_bucket_size": 5000}
    options: dict[str, Any] = {"batches": 2, "preset": preset, "optimizer_state": "interpolate", "param_dtype": dtype}
    return jobs.train(path, (1, 1, 1), samples, **options, **settings)[1]


@pytest.mark.parametrize(
    ("layout", "recompute"),
    [((2, 2, 1), "full"), ((1, 2, 2), "full"), ((2, 2, 1), "selective"), ((2, 1, 1), "mlp"), ((1, 1, 1, 2), "some")],
    ids=str,
)
def test_overlap_and_recomputation_change_nothing(
    ranks: RankPool, tmp_path: Path, layout: tuple[int, ...], recompute: str
) -> None:
    path = str(make_model(tmp_path / "model", "qwen3"))
    samples = with_old_log_probs(path, make_samples(12))
    world = jobs.ranks_of(layout) * 2
    plain = ranks.run(world, jobs.train, path, layout, samples)[0]
    other = ranks.run(world, train_with, path, layout, samples, recompute)[0]
    difference = (flat(plain[1]) - flat(other[1])).norm() / flat(plain[1]).norm()
    assert difference < 1e-7
    assert other[0][0]["actor_grad_norm"] == pytest.approx(plain[0][0]["actor_grad_norm"], rel=1e-6)


def train_with(path: str, layout: tuple[int, ...], samples: list[Any], recompute: str) -> Any:
    some: dict[str, Any] = {"recompute": "full", "recompute_num_layers": 1}
    return jobs.train(
        path,
        layout,
        samples,
        **(some if recompute == "some" else {"recompute": recompute}),
        overlap_grad_reduce=True,
        overlap_param_gather=True,
        ddp_bucket_size=5000,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("layout", "dp"), [((1, 1, 1), 2), ((2, 2, 1), 1), ((1, 2, 2), 1), ((1, 1, 1, 2), 1)], ids=str)
def test_old_log_probs_of_the_first_forward_pass_change_nothing(
    ranks: RankPool, tmp_path: Path, layout: tuple[int, ...], dp: int, dtype: torch.dtype
) -> None:
    """Two rollout batches of one optimizer step: the same as with a separate forward pass, to the bit."""
    path = str(make_model(tmp_path / "model", "qwen3"))
    world = jobs.ranks_of(layout, dp)
    runs = [ranks.run(world, jobs.on_policy, path, layout, make_samples(10), dtype, ahead) for ahead in (True, False)]
    (metrics, weights), (metrics_without, weights_without) = (run[0] for run in runs)
    assert metrics == metrics_without
    assert metrics[0]["sfpo/entropy_start"] > 0
    assert metrics[1]["sfpo/fast_kl"] > 0
    assert all(torch.equal(weights[name], weights_without[name]) for name in weights)


def test_old_log_probs_are_computed_beforehand_where_needed(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "llama"))
    with pytest.raises(AssertionError, match="2 optimizer steps: with more than one, they must be computed before"):
        ranks.run(1, jobs.on_policy, path, (1, 1, 1), make_samples(10), torch.float32, False, 6)


def test_sequence_parallelism_changes_rounding_only(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "qwen3"))
    samples = with_old_log_probs(path, make_samples(12))
    whole, split = (ranks.run(2, by_token, path, samples, on)[0] for on in (False, True))
    assert 0 < (flat(whole) - flat(split)).norm() < 1e-6 * flat(whole).norm()


def by_token(path: str, samples: list[Any], on: bool) -> dict[str, torch.Tensor]:
    return jobs.train(path, (2, 1, 1), samples, sequence_parallel=on)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("layout", "dp"), [((1, 1, 1), 1), ((1, 2, 1), 2), ((2, 1, 1), 1)])
def test_first_on_policy_step_has_ratio_one(
    ranks: RankPool, tmp_path: Path, layout: tuple[int, ...], dp: int, dtype: torch.dtype
) -> None:
    """The actor forms the same micro-batches for old log-probabilities and for training, so even bf16 agrees."""
    path = str(make_model(tmp_path / "model", "llama", tied=True))
    world = jobs.ranks_of(layout, dp)
    metrics = ranks.run(world, on_policy, path, layout, make_samples(10), dtype)[0]
    assert abs(metrics["ppo_kl"]) < 1e-8
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["clip_ratio"] == 0.0


def on_policy(path: str, layout: tuple[int, ...], samples: list[Any], dtype: torch.dtype) -> dict[str, Any]:
    return jobs.on_policy_update(path, layout, samples, param_dtype=dtype, train_batch_size=100)


@pytest.mark.parametrize("stop", [{"k": 0}, {"gate": {"kind": "off", "stop_step": 0}}], ids=["K=0", "gate closed"])
def test_without_fast_passes_it_is_grpo_to_the_bit(ranks: RankPool, tmp_path: Path, stop: dict[str, Any]) -> None:
    path = str(make_model(tmp_path / "model", "llama"))
    samples = with_old_log_probs(path, make_samples(8))
    grpo = ranks.run(2, grpo_by_hand, path, samples)[0]
    ours = ranks.run(2, stopped, path, samples, stop)[0]
    assert grpo.keys() == ours.keys()
    assert all(torch.equal(grpo[name], ours[name]) for name in grpo)


def stopped(path: str, samples: list[Any], stop: dict[str, Any]) -> dict[str, torch.Tensor]:
    return jobs.train(path, (1, 1, 1), samples, batches=2, param_dtype=torch.bfloat16, **stop)[1]


def grpo_by_hand(path: str, samples: list[Any]) -> dict[str, torch.Tensor]:
    """GRPO without the algorithm's driver: one pass for each of two batches."""
    from openrlhf_sfpo.megatron import cpu
    from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.megatron.train.pass_runner import PassRunner
    from openrlhf_sfpo.sfpo import Pass

    actor = jobs.make_actor(path, (1, 1, 1), param_dtype=torch.bfloat16)
    for _ in range(2):
        with cpu.device_scope():
            runner = PassRunner(
                actor, RolloutBatch(actor.layout, actor.settings, jobs.my_share(samples)), PPOClipLoss()
            )
            runner.run_pass(Pass("slow", advances_schedule=True))
    return jobs.weights_of(actor)


def test_alpha_one_is_grpo_with_k_plus_one_passes(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "qwen2"))
    samples = with_old_log_probs(path, make_samples(8))
    sfpo = ranks.run(2, jobs.train, path, (1, 2, 1), samples, 2, 1.0)[0][1]
    grpo = ranks.run(2, jobs.train, path, (1, 2, 1), samples, 0, 0.8, 3)[0][1]
    assert all(torch.equal(sfpo[name], grpo[name]) for name in sfpo)


@pytest.mark.parametrize(
    ("tp", "state", "dtype"),
    [
        (2, "maintain", torch.float32),
        (2, "restore", torch.bfloat16),
        (1, "interpolate", torch.float32),
        (1, "maintain", torch.bfloat16),
        (1, "reset", torch.bfloat16),
        (1, "interpolate", torch.bfloat16),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_reposition_on_the_shards(ranks: RankPool, tmp_path: Path, tp: int, state: str, dtype: torch.dtype) -> None:
    """TP x PP2 x DP2, tied embeddings: the blend, Adam's state, the parameters that follow, the norms and the memory;
    the job itself compares replicas and both copies of the embeddings."""
    path = str(make_model(tmp_path / "model", "llama", tied=True))
    samples = with_old_log_probs(path, make_samples(12))
    results = ranks.run(4 * tp, reposition, path, samples, tp, state, dtype)
    for result in results:
        for slow, fast, after in moved_tensors(result, "weight"):
            torch.testing.assert_close(after, slow + 0.8 * (fast - slow), rtol=1e-6, atol=1e-8)
        assert_adam_state_follows_the_mode(result, state)
        for parameter, shard in result["owned"]:
            assert torch.equal(parameter, shard.to(dtype)), "parameters must be the rounded main parameters"
        assert result["displacement"].norm == results[0]["displacement"].norm
    assert_norms_match_the_whole_model(path, results, samples, dtype)
    largest = max(sum(slow.numel() for slow in result["slow"]["weight"]) for result in results)
    tensors = max(len(result["slow"]["weight"]) for result in results)
    copies = 3 if state in ("restore", "interpolate") else 1
    held = {result["bytes"] for result in results}
    assert len(held) == 1
    assert held.pop() == pytest.approx(4 * largest * copies, abs=4 * tensors), "step counts are one number a tensor"


def moved_tensors(result: dict[str, Any], name: str) -> list[tuple[torch.Tensor, ...]]:
    return list(zip(*(result[when][name] for when in ("slow", "fast", "after")), strict=True))


def assert_adam_state_follows_the_mode(result: dict[str, Any], state: str) -> None:
    """The table of `SlowCopy` must hold. Two optimizer steps before the copy was taken, four while it was held."""
    for name in ("exp_avg", "exp_avg_sq"):
        for slow, fast, after in moved_tensors(result, name):
            expected = {"maintain": fast, "restore": slow, "reset": torch.zeros_like(fast)}
            if state == "interpolate":
                scale = max(slow.abs().max(), fast.abs().max())
                torch.testing.assert_close(after / scale, (slow + 0.8 * (fast - slow)) / scale, rtol=0, atol=1e-6)
            else:
                assert torch.equal(after, expected[state])
    counts = {"maintain": 6, "interpolate": 6, "restore": 2, "reset": 0}
    assert {int(step) for step in result["after"]["step"]} == {counts[state]}


def assert_norms_match_the_whole_model(path: str, results: list[Any], samples: list[Any], dtype: torch.dtype) -> None:
    """The reported norms count every parameter of the model once, however it is spread."""
    if dtype != torch.float32:
        return
    plain = PlainSFPO(path, lr=5e-5)
    plain.one_pass(train_batches(samples, dp=2))
    start = flat(plain.weights())
    for _ in range(2):
        plain.one_pass(train_batches(samples, dp=2))
    displacement = results[0]["displacement"]
    assert displacement.slow_norm == pytest.approx(start.norm().item(), rel=1e-5)
    assert displacement.norm == pytest.approx((flat(plain.weights()) - start).norm().item(), rel=1e-3)


def reposition(path: str, samples: list[Any], tp: int, state: str, dtype: torch.dtype) -> dict[str, Any]:
    from openrlhf_sfpo.megatron import cpu

    cpu.install()
    with cpu.device_scope():
        return jobs.inspect_reposition(path, (tp, 2, 1), samples, state, param_dtype=dtype)


def test_learning_rate_advances_with_the_slow_pass_only(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "llama"))
    samples = with_old_log_probs(path, make_samples(12))
    rates = {k: ranks.run(1, scheduled, path, samples, k)[0] for k in (0, 2)}
    assert rates[0] == rates[2]
    # 4 steps of a cosine from 1e-3 to a tenth of it after 1 of warm-up; the last step of batch b is step 2 b + 1.
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1e-3)
    scheduler = get_scheduler("cosine_with_min_lr", optimizer, 1, 4, scheduler_specific_kwargs={"min_lr_rate": 0.1})
    expected = []
    for _ in range(4):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx([expected[1], expected[3]])


def scheduled(path: str, samples: list[Any], k: int) -> list[float]:
    optimizer = {
        "lr": 1e-3,
        "schedule": "cosine_with_min_lr",
        "warmup_ratio": 0.25,
        "min_lr_ratio": 0.1,
        "total_steps": 4,
    }
    metrics, _ = jobs.train(path, (1, 1, 1), samples, k, batches=2, optimizer=optimizer)
    return [line["actor_lr"] for line in metrics]


def test_the_learning_rate_stays_at_its_floor_after_the_schedule(ranks: RankPool, tmp_path: Path) -> None:
    """Six optimizer steps on a cosine schedule over two: the rate must not rise again."""
    path = str(make_model(tmp_path / "model", "llama"))
    samples = with_old_log_probs(path, make_samples(12))
    assert ranks.run(1, beyond_the_end, path, samples)[0][1:] == pytest.approx([1e-4, 1e-4])


def beyond_the_end(path: str, samples: list[Any]) -> list[float]:
    optimizer = {"lr": 1e-3, "schedule": "cosine_with_min_lr", "min_lr_ratio": 0.1, "total_steps": 2}
    return [line["actor_lr"] for line in jobs.train(path, (1, 1, 1), samples, 0, batches=3, optimizer=optimizer)[0]]


def test_weight_decay_spares_norms_and_biases(ranks: RankPool, tmp_path: Path) -> None:
    """With zero advantages there are no gradients: only what decays can move."""
    path = str(make_model(tmp_path / "model", "qwen2"))
    samples = with_old_log_probs(path, make_samples(4))
    for sample in samples:
        sample.advantages = torch.zeros_like(sample.advantages)
    weights = ranks.run(1, decayed, path, samples)[0]
    before = PlainSFPO(path).weights()
    for name, value in weights.items():
        if "norm" in name or name.endswith("bias"):
            assert torch.equal(value, before[name]), name
        else:
            torch.testing.assert_close(value, before[name] * (1 - 0.1 * 0.5), rtol=1e-5, atol=1e-7)


def decayed(path: str, samples: list[Any]) -> dict[str, torch.Tensor]:
    return jobs.train(path, (1, 1, 1), samples, k=0, optimizer={"lr": 0.1, "weight_decay": 0.5})[1]


def test_optimizers_that_keep_their_weights_elsewhere_are_refused(ranks: RankPool, tmp_path: Path) -> None:
    """Each setting is made on a real optimizer's configuration, so its name is one of this Megatron-Core's."""
    path = str(make_model(tmp_path / "model", "llama"))
    said = ranks.run(1, refusals, path)[0]
    assert "this one is a FP32Optimizer" in said.pop("not distributed")
    expected = {
        "precision": "the precision-aware optimizer",
        "offload": "HybridDeviceOptimizer",
        "fp8 gather": "FP8 parameter gather",
        "fp8": "FP8 parameters",
        "fp4": "FP4 parameters",
        "fsdp": "Megatron-FSDP",
    }
    assert said.keys() == expected.keys()
    for name, message in said.items():
        assert message.startswith("SFPO does not work with")
        assert expected[name] in message


def refusals(path: str) -> dict[str, str]:
    from megatron.core.optimizer import OptimizerConfig
    from megatron.core.optimizer.optimizer import ChainedOptimizer, FP32Optimizer

    from openrlhf_sfpo.megatron import cpu
    from openrlhf_sfpo.megatron.train.main_parameters import MainShards

    actor = jobs.make_actor(path, (1, 1, 1))
    (child,), (chunk,) = actor.shards._children, actor._chunks
    places = {
        "precision": (child.config, "use_precision_aware_optimizer"),
        "offload": (child.config, "optimizer_cpu_offload"),
        "fp8 gather": (child.ddp_config, "fp8_param_gather"),
        "fp8": (chunk.config, "fp8_param"),
        "fp4": (chunk.config, "fp4_param"),
        "fsdp": (child.ddp_config, "use_megatron_fsdp"),
    }
    said = {}
    plain = torch.optim.AdamW(actor._chunks[0].parameters())
    with cpu.device_scope():
        whole = FP32Optimizer(plain, OptimizerConfig(), init_state_fn=lambda *args: None)
    try:
        MainShards(ChainedOptimizer([whole]), actor._chunks, actor.weights)
    except ValueError as error:
        said["not distributed"] = str(error)
    for name, (config, setting) in places.items():
        assert getattr(config, setting) is False, "unknown to this Megatron-Core"
        setattr(config, setting, True)
        try:
            # With Megatron-FSDP the optimizer is not a chained one.
            MainShards(child if name == "fsdp" else actor.optimizer, actor._chunks, actor.weights)
        except ValueError as error:
            said[name] = str(error)
        setattr(config, setting, False)
    MainShards(actor.optimizer, actor._chunks, actor.weights)
    return said


def test_uneven_shares_and_empty_ranks(ranks: RankPool, tmp_path: Path) -> None:
    """One sample for two replicas: the other takes part with an empty micro-batch, and nothing is lost."""
    path = str(make_model(tmp_path / "model", "llama"))
    samples = with_old_log_probs(path, make_samples(1))
    plain = PlainSFPO(path, lr=5e-5)
    start = flat(plain.weights())
    plain.update([samples], 1, 0.8)
    _, weights = ranks.run(4, jobs.train, path, (1, 2, 1), samples, 1)[0]
    moved = (flat(plain.weights()) - start).norm()
    assert (flat(weights) - flat(plain.weights())).norm() <= 1e-3 * moved


def test_a_sample_without_actions_contributes_nothing(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "llama"))
    samples = with_old_log_probs(path, make_samples(4))
    silent = make_samples(1, seed=9)[0]
    silent.action_mask[:] = False
    silent.old_log_probs = torch.zeros_like(silent.advantages)
    without = ranks.run(1, jobs.train, path, (1, 1, 1), samples)[0]
    with_it = ranks.run(1, jobs.train, path, (1, 1, 1), [*samples, silent])[0]
    assert (flat(without[1]) - flat(with_it[1])).norm() <= 1e-6 * flat(without[1]).norm()
    assert with_it[0][0]["entropy"] == pytest.approx(without[0][0]["entropy"], rel=1e-5)
