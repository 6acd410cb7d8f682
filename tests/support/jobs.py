"""What the rank processes run; module level, so that they can be sent by name."""

import math
from typing import Any

import torch

# (TP, PP, VPP[, CP]), DP
LAYOUTS: dict[str, tuple[tuple[int, ...], int]] = {
    "TP1PP1DP1": ((1, 1, 1), 1),
    "TP2PP1DP1": ((2, 1, 1), 1),
    "TP1PP2DP1": ((1, 2, 1), 1),
    "TP1PP1DP2": ((1, 1, 1), 2),
    "TP2PP2DP1": ((2, 2, 1), 1),
    "TP1PP2DP2": ((1, 2, 1), 2),
    "VPP2": ((1, 2, 2), 1),
    "CP2": ((1, 1, 1, 2), 1),
    "TP2CP2": ((2, 1, 1, 2), 1),
    "PP2CP2": ((1, 2, 1, 2), 1),
}


def ranks_of(layout: tuple[int, ...], dp: int = 1) -> int:
    """How many ranks a layout has."""
    tp, pp, _, *cp = layout
    return tp * pp * dp * math.prod(cp)


def make_actor(path: str, layout: tuple[int, ...], train: bool = True, **settings: Any) -> Any:
    """A MegatronActor with small defaults. `layout` is (TP, PP, VPP[, CP]); `optimizer` may be a dict."""
    from openrlhf_sfpo.megatron.actor import MegatronActor
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.settings import ActorSettings, OptimizerSettings

    optimizer = {"lr": 5e-5, "weight_decay": 0.01, **settings.pop("optimizer", {})}
    defaults: dict[str, Any] = {"param_dtype": torch.float32, "max_tokens_per_gpu": 64, "train_batch_size": 6}
    defaults["sequence_parallel"] = layout[0] > 1
    chosen = {**defaults, **settings, "num_threads": 1, "optimizer": OptimizerSettings(**optimizer)}
    return MegatronActor(path, Layout(*layout), ActorSettings(**chosen), train=train)


def my_share(samples: list[Any]) -> list[Any]:
    """This rank's samples: contiguous parts, one for each data-parallel replica."""
    from megatron.core import parallel_state

    size, rank = parallel_state.get_data_parallel_world_size(), parallel_state.get_data_parallel_rank()
    return samples[rank * len(samples) // size : (rank + 1) * len(samples) // size]


def weights_of(actor: Any) -> dict[str, torch.Tensor]:
    """Full Hugging Face tensors, on rank 0 (elsewhere empty)."""
    return {name: tensor.clone() for name, tensor in actor.export()}


def use_sgd(actor: Any) -> None:
    """Replace the distributed optimizer's Adam with plain SGD, whose updates are linear in the gradients."""
    for child in actor.shards._children:
        sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))])
        # The shards are views of buffers: a torch optimizer's constructor rejects them, its groups do not.
        sgd.param_groups = [{**sgd.defaults, **group} for group in child.optimizer.param_groups]
        child.optimizer = sgd


def forward(path: str, layout: tuple[int, ...], samples: list[Any], **settings: Any) -> list[torch.Tensor]:
    actor = make_actor(path, layout, train=False, **settings)
    return actor.forward(my_share(samples))


def round_trip(path: str, layout: tuple[int, ...], target: str, dtype: torch.dtype) -> None:
    make_actor(path, layout, train=False, param_dtype=dtype, weight_bucket_bytes=20_000).save_pretrained(target)


def train(
    path: str,
    layout: tuple[int, ...],
    samples: list[Any],
    k: int = 2,
    alpha: float = 0.8,
    batches: int = 1,
    gate: dict[str, Any] | None = None,
    preset: Any = "sfpo",
    optimizer_state: Any = "maintain",
    sgd: bool = False,
    limits: dict[str, float] | None = None,
    part: dict[str, Any] | None = None,
    predictive: dict[str, Any] | None = None,
    outer: dict[str, float] | None = None,
    **settings: Any,
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Update `batches` times on the same samples; return the metrics of each and the weights at the end."""
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import (
        FastLimits,
        FastPart,
        Gate,
        OuterMomentum,
        PredictiveSettings,
        SlowCopy,
        SlowFastUpdate,
    )

    actor = make_actor(path, layout, **settings)
    if sgd:
        use_sgd(actor)
    update = SlowFastUpdate(
        actor.shards,
        k,
        alpha,
        Gate(**(gate or {"kind": "off"})),
        slow_copy=SlowCopy(actor.shards, optimizer_state),
        preset=preset,
        limits=FastLimits(**(limits or {})),
        part=FastPart(**(part or {})),
        predictive=PredictiveSettings(**(predictive or {})),
        outer=OuterMomentum(**(outer or {})),
    )
    loss = PPOClipLoss(0.2, 0.2)
    metrics = [actor.update(my_share(samples), loss, update) for _ in range(batches)]
    assert_copies_agree(actor)
    return metrics, weights_of(actor)


def assert_copies_agree(actor: Any) -> None:
    """Data-parallel replicas and both copies of tied embeddings hold the same bits."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    actor.finish_parameter_gather()
    place = (parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_pipeline_model_parallel_rank())
    mine: dict[Any, bytes] = {}
    for index, chunk in enumerate(actor._chunks):
        for name, parameter in chunk.named_parameters():
            bits = parameter.detach().view(torch.uint8).numpy().tobytes()
            key: Any = (*place, index, name)
            if name.endswith(("word_embeddings.weight", "output_layer.weight")) and actor.model_config.tied_embeddings:
                key = (place[0], "tied")
            assert mine.setdefault(key, bits) == bits, key
    holds_embeddings = parallel_state.is_pipeline_first_stage(ignore_virtual=True) or (
        parallel_state.is_pipeline_last_stage(ignore_virtual=True)
    )
    if actor.model_config.tied_embeddings:
        assert ((place[0], "tied") in mine) == holds_embeddings
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    found: dict[Any, bytes] = {}
    for rank in everyone:
        for key, bits in rank.items():
            assert found.setdefault(key, bits) == bits, key


def on_policy_step(actor: Any, samples: list[Any], update: Any) -> dict[str, Any]:
    """Old log-probabilities from the actor as it is now, then an update."""
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss

    mine = my_share(samples)
    for sample, log_probs in zip(mine, actor.forward(mine), strict=True):
        sample.old_log_probs = log_probs
    return actor.update(mine, PPOClipLoss(), update)


def on_policy(
    path: str, layout: tuple[int, ...], samples: list[Any], dtype: torch.dtype, ahead: bool, batch_size: int = 100
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Two SFPO updates with old log-probabilities from a separate forward pass, or from the update's first."""
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    actor = make_actor(path, layout, param_dtype=dtype, train_batch_size=batch_size)
    update = SlowFastUpdate(actor.shards, 2, 0.8, Gate("off"))
    metrics = []
    for _ in range(2):
        for sample in samples:
            sample.old_log_probs = None
        loss = PPOClipLoss()
        metrics.append(
            on_policy_step(actor, samples, update) if ahead else actor.update(my_share(samples), loss, update)
        )
    for line in metrics:
        line.pop("sfpo/reposition_seconds")
    return metrics, weights_of(actor)


def on_policy_update(path: str, layout: tuple[int, ...], samples: list[Any], **settings: Any) -> dict[str, Any]:
    """Old log-probabilities from the actor itself, then one GRPO update."""
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    actor = make_actor(path, layout, **settings)
    return on_policy_step(actor, samples, SlowFastUpdate(actor.shards, 0, 0.8, Gate("off")))


def inspect_reposition(
    path: str, layout: tuple[int, ...], samples: list[Any], state: Any = "maintain", **settings: Any
) -> dict[str, Any]:
    """Run a slow pass, two fast passes and a reposition by hand; report what every invariant needs."""
    from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.megatron.train.pass_runner import PassRunner
    from openrlhf_sfpo.sfpo import Pass, SlowCopy

    actor = make_actor(path, layout, **settings)
    runner = PassRunner(actor, RolloutBatch(actor.layout, actor.settings, my_share(samples)), PPOClipLoss())
    runner.run_pass(Pass("slow"))
    slow = owned_state(actor)
    slow_copy = SlowCopy(actor.shards, state)
    bytes_held = slow_copy.take()
    for index in range(2):
        runner.run_pass(Pass("fast", repositioned_next=index == 1))
    fast = owned_state(actor)
    displacement = slow_copy.reposition(0.8)
    after = owned_state(actor)
    slow_copy.release()
    assert_copies_agree(actor)
    owned = []
    for child, parameter, shard in actor.shards.pairs():
        place = child._get_model_param_range_map(parameter)["param"]
        owned.append((parameter.detach().view(-1)[place.start : place.end].clone(), shard.detach().clone()))
    return {
        "slow": slow,
        "fast": fast,
        "after": after,
        "owned": owned,
        "displacement": displacement,
        "bytes": bytes_held,
        "weights": weights_of(actor),
    }


def owned_state(actor: Any) -> dict[str, list[torch.Tensor]]:
    """Copies of this rank's fp32 shards and of their Adam state."""
    shards = list(actor.shards.shards())
    found = {"weight": [shard.weight.detach().clone() for shard in shards]}
    for name in ("exp_avg", "exp_avg_sq", "step"):
        found[name] = [torch.as_tensor(shard.state[name]).clone() for shard in shards]
    return found
