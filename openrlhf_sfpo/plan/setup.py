"""What a plan is made for: a model, a layout and the flags that determine memory, resolved for the device."""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from openrlhf_sfpo.config.effective_update import fast_part, has_outer_momentum
from openrlhf_sfpo.config.flag_table import settings
from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.config.placement import engines_share_gpus, reference_shares_gpus
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.settings import ActorSettings, chosen, limits
from openrlhf_sfpo.megatron.weights.mapping import Entry, buckets, weight_plan
from openrlhf_sfpo.system.units import GIB

GPUS_PER_NODE = 8
# The presets that keep a copy of theta_slow, and how many fp32 shards each `--sfpo.optimizer_state` copies.
_PRESETS_WITH_COPY = ("sfpo", "prepo", "lookahead", "extragradient")
_COPIES = {"maintain": 1, "reset": 1, "restore": 3, "interpolate": 3}


def gib(count: int) -> str:
    """Bytes as GiB, as text."""
    return f"{count / GIB:.1f}"


@dataclass(frozen=True)
class Engines:
    """The vLLM engines.

    Attributes:
        count: how many; 0 if rollouts are replayed.
        tp: GPUs of each.
        utilization: fraction of a GPU's memory for an engine.
        element: bytes of a weight, and of a number in the key/value cache.
        sleep: whether they release their memory while the actor trains.
        sleep_level: 1 keeps their weights in host memory, 2 discards them.
    """

    count: int = 0
    tp: int = 1
    utilization: float = 0.95
    element: int = 2
    sleep: bool = False
    sleep_level: int = 1

    @property
    def gpus(self) -> int:
        return self.count * self.tp


# A setting of the actor becomes one of the plan by being named here and declared in `Setup`.
_AS_THE_ACTOR_HAS_THEM = (
    "recompute",
    "recompute_num_layers",
    "log_prob_chunk_size",
    "weight_bucket_bytes",
    "ddp_bucket_size",
    "overlap_grad_reduce",
    "skip_nonfinite",
    "max_tokens_per_gpu",
    "batch_cache_bytes",
)


@dataclass(frozen=True)
class Setup:
    """Everything that determines memory.

    Attributes:
        model: shapes.
        layout: TP, PP, VPP and CP.
        gpus: the actor's number of GPUs.
        gpus_per_node: the actor's GPUs on each node.
        cuda: whether it runs on GPUs.
        element: bytes of a parameter.
        residual: bytes of a number in the residual stream.
        layers: Transformer Engine's layers or the local ones.
        attention: the local layers' attention, flash-attn or PyTorch's scaled_dot_product_attention.
        sequence_parallel: norms and residual stream are split over the tensor-parallel ranks.
        recompute: what is recomputed in the backward pass.
        recompute_num_layers: layers per model chunk, with full recomputation; None for all.
        log_prob_chunk_size: tokens whose logits exist at a time.
        weight_bucket_bytes: size of the buckets of weights sent to the engines.
        ddp_bucket_size: parameters per gradient bucket, None for Megatron's choice.
        overlap_grad_reduce: gradients are reduced during the backward pass, in buckets.
        snapshot: number of fp32 shards that SFPO copies, 0 for GRPO.
        snapshot_on_host: these copies are in host memory.
        observed: fp32 shards that the update keeps beside them on the GPU until the reposition (prepo, a cosine gate).
        compared: one of those is kept until the end of the update (a cosine gate).
        outer_momentum: the optimizer's state has one more fp32 shard.
        outer_copy: one of the copies is kept until the end of the update.
        skip_nonfinite: weights and moments are copied to host memory before each update.
        async_checkpoint: checkpoints are written from copies in host memory.
        reference_gpus: the reference model's number of GPUs; 0 without one, or if it shares the actor's.
        reference_here: the reference model shares the actor's GPUs.
        reference_offloaded: it is on the GPU only while it computes, otherwise in host memory.
        engines: the vLLM engines.
        colocated: engines and actor share GPUs.
        actor_sleeps: main parameters, moments and gradients leave the GPU while the engines generate.
        parameters_sleep: so do the parameters.
        max_len: tokens of the longest sample.
        samples: samples of one optimizer step, over all model copies.
        rollout_samples: samples of a rollout batch.
        fast_part: the part of them that is packed for the fast passes alone; 0 if these train on everything.
        batch_cache_bytes: packed micro-batches that stay on a GPU for all passes, at most.
        max_tokens_per_gpu: token budget of a micro-batch per context-parallel rank.
    """

    model: ModelConfig
    layout: Layout = field(default_factory=Layout)
    gpus: int = 8
    gpus_per_node: int = GPUS_PER_NODE
    cuda: bool = True
    element: int = 2
    residual: int = 2
    layers: Literal["te", "local"] = "te"
    attention: Literal["flash", "sdpa"] = "flash"
    sequence_parallel: bool = False
    recompute: Literal["none", "selective", "mlp", "full"] = "none"
    recompute_num_layers: int | None = None
    log_prob_chunk_size: int = 1024
    weight_bucket_bytes: int = 512 * 2**20
    ddp_bucket_size: int | None = None
    overlap_grad_reduce: bool = True
    snapshot: int = 1
    snapshot_on_host: bool = False
    observed: int = 0
    compared: bool = False
    outer_momentum: bool = False
    outer_copy: bool = False
    skip_nonfinite: bool = False
    async_checkpoint: bool = True
    reference_gpus: int = 0
    reference_here: bool = False
    reference_offloaded: bool = False
    engines: Engines = field(default_factory=Engines)
    colocated: bool = False
    actor_sleeps: bool = False
    parameters_sleep: bool = False
    max_len: int = 2048
    samples: int = 128
    rollout_samples: int = 128
    fast_part: float = 0.0
    batch_cache_bytes: int = 2**30
    max_tokens_per_gpu: int = 16192

    @property
    def dp(self) -> int:
        """Data-parallel replicas."""
        return max(1, self.layout.dp(self.gpus))

    @property
    def owners(self) -> int:
        """Ranks over which the distributed optimizer divides a parameter's state: DP x CP."""
        return self.dp * self.layout.cp

    @property
    def budget(self) -> int:
        """Tokens of a micro-batch, over all context-parallel ranks; a longer sample has a micro-batch to itself."""
        return self.max_tokens_per_gpu * self.layout.cp

    @property
    def tokens(self) -> int:
        """Tokens of the largest micro-batch, over all context-parallel ranks."""
        return max(self.budget, self.max_len)

    @property
    def local_tokens(self) -> int:
        """Tokens of the largest micro-batch on one context-parallel rank."""
        return math.ceil(self.tokens / self.layout.cp)

    @property
    def layers_per_chunk(self) -> int:
        return self.model.num_layers // (self.layout.pp * self.layout.vpp)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The model's parameters and their places, from the actor's weight plan."""
        return _entries(self.model, self.layout)

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """The pipeline stage and the bytes of each bucket that `export.WeightExchange` gathers and sends."""
        return _buckets(self.model, self.layout, self.weight_bucket_bytes, self.element)

    @functools.cached_property
    def count(self) -> int:
        """The number of the model's parameters."""
        return sum(entry.numel for entry in self.entries)

    def check(self) -> None:
        """Check that the layout fits the model and the GPUs.

        Raises:
            UsageError: naming the flag.
        """
        self.layout.check(self.gpus, self.model)


@functools.lru_cache(maxsize=128)
def _entries(model: ModelConfig, layout: Layout) -> tuple[Entry, ...]:
    return tuple(weight_plan(model, layout))


@functools.lru_cache(maxsize=128)
def _buckets(model: ModelConfig, layout: Layout, bucket_bytes: int, element: int) -> tuple[tuple[int, int], ...]:
    return tuple(
        (stage, element * sum(entry.numel for entry in bucket))
        for stage, bucket in buckets(_entries(model, layout), bucket_bytes // element)
    )


def setup_of(args: NestedFlags, model: ModelConfig) -> Setup:
    """The plan's input from the flags of `openrlhf-sfpo train`.

    Args:
        args: nested, and resolved for the device (`resolve_device_defaults`).
        model: the model of --actor.model_name_or_path.
    """
    values = settings(args)
    actor = ActorSettings.of(values)
    element = actor.param_dtype.itemsize
    reference = args.algo.kl.init_coef > 0
    shared = reference_shares_gpus(args)
    replayed = bool(args.rollout.replay_dir)
    no_te, no_flash = limits(actor.device, element == 2, actor.fp32_residual)
    layout = Layout.of(values)
    rollout_samples = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    return Setup(
        model=model,
        layout=layout,
        gpus=args.actor.num_nodes * args.actor.num_gpus_per_node,
        gpus_per_node=args.actor.num_gpus_per_node,
        cuda=actor.device == "cuda",
        element=element,
        residual=4 if actor.fp32_residual else element,
        # Both are assumed to be installed.
        layers=chosen(actor.layer_spec, "te", no_te, "local"),
        attention=chosen(actor.attention, "flash", no_flash, "sdpa"),
        sequence_parallel=actor.sequence_parallel and layout.tp > 1,
        **_copies(args.sfpo),
        async_checkpoint=args.ckpt.async_save and not args.ckpt.disable_ds and args.ckpt.save_steps > 0,
        reference_gpus=args.ref.num_nodes * args.ref.num_gpus_per_node if reference and not shared else 0,
        reference_here=reference and shared,
        reference_offloaded=args.ref.offload,
        engines=Engines(
            count=0 if replayed else args.vllm.num_engines or 0,
            tp=args.vllm.tensor_parallel_size,
            utilization=args.vllm.gpu_memory_utilization,
            element=4 if args.run.engine_dtype == "float32" else 2,
            sleep=args.vllm.enable_sleep,
            sleep_level=args.vllm.sleep_level,
        ),
        colocated=engines_share_gpus(args) and not replayed,
        actor_sleeps=args.ds.enable_sleep,
        parameters_sleep=args.ds.enable_sleep and actor.offload_parameters,
        max_len=args.data.max_len,
        samples=min(rollout_samples, actor.train_batch_size),
        rollout_samples=rollout_samples,
        fast_part=fast_part(args.sfpo),
        **{name: getattr(actor, name) for name in _AS_THE_ACTOR_HAS_THEM},
    )


def _copies(sfpo: NestedFlags) -> dict[str, Any]:
    """What the update copies, as settings of a Setup."""
    active = sfpo.enable and sfpo.k > 0
    copies = _COPIES[sfpo.optimizer_state] if active and sfpo.preset in _PRESETS_WITH_COPY else 0
    compared = active and sfpo.gate == "cosine" and sfpo.preset not in ("grpo", "grpo_scaled_lr")
    predicted = active and sfpo.preset == "prepo"
    outer = has_outer_momentum(sfpo)
    return {
        "snapshot": max(copies, int(outer)),
        "snapshot_on_host": sfpo.snapshot_device == "cpu",
        "observed": predicted * (2 if sfpo.prepo_retention == "gradient" else 1) + compared,
        "compared": compared,
        "outer_momentum": outer and sfpo.outer_momentum != 0,
        "outer_copy": outer,
    }
