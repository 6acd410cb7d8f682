"""Settings of the Megatron actor that are neither the model's nor the layout's."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

LayerSpec = Literal["te", "local"]
Attention = Literal["flash", "sdpa"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def limits(device: str, sixteen_bits: bool, fp32_residual: bool) -> tuple[str | None, str | None]:
    """The reasons why Transformer Engine and flash-attn cannot be used even if installed; None if they can.

    Args:
        device: the actor's, "cpu" or "cuda".
        sixteen_bits: whether the parameters have 16 bits.
        fp32_residual: whether the residual stream is in fp32.
    """
    if device == "cpu":
        return ("runs on CUDA only",) * 2
    if not sixteen_bits:
        return "attends to packs in 16 bits only", "takes 16 bits only"
    return "does not take `fp32_residual`" if fp32_residual else None, None


def chosen(asked: object, best: object, obstacle: str | None, instead: object) -> Any:
    """The value that `auto` stands for; otherwise the given value."""
    return asked if asked != "auto" else instead if obstacle else best


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer, gradient clipping and the learning-rate schedule.

    Attributes:
        lr: peak learning rate.
        betas: Adam's decay rates.
        eps: Adam's epsilon.
        weight_decay: decoupled; not applied to biases and norms.
        max_norm: gradients are scaled down to this global L2 norm; 0 disables clipping.
        schedule: a scheduler name of transformers, such as "constant" or "cosine_with_min_lr".
        warmup_ratio: fraction of `total_steps` over which the rate rises linearly from 0.
        min_lr_ratio: final rate over peak rate, for the schedules that have one.
        total_steps: length of the schedule in optimizer steps, those of GRPO.
    """

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_norm: float = 1.0
    schedule: str = "constant"
    warmup_ratio: float = 0.0
    min_lr_ratio: float = 0.1
    total_steps: int = 1


@dataclass(frozen=True)
class ActorSettings:
    """How the actor computes.

    Attributes:
        device: the model's device.
        param_dtype: the parameters' dtype; with bf16 the optimizer keeps fp32 main parameters. Gradients are reduced in
            fp32 in both cases.
        fp32_residual: keep the residual stream between layers in fp32; it costs memory and pipeline traffic, and
            halves the error of bf16 log-probabilities.
        temperature: divisor of the logits, as in sampling.
        train_batch_size: samples of one optimizer step, over all data-parallel ranks.
        max_tokens_per_gpu: token budget of a micro-batch.
        epochs: traversals of the rollout batch that make up one pass.
        layer_spec: Transformer Engine's layers or the local ones; `auto` takes the former if possible.
        attention: the local layers' attention: flash-attn's or PyTorch's; `auto` takes the former if possible.
        sequence_parallel: with tensor parallelism, split norms and the residual stream by token.
        recompute: recompute activations in the backward pass: of whole layers, of the MLPs only, of attention only
            (`selective`), or not at all.
        recompute_num_layers: with whole layers, their number in each model chunk; None for all.
        overlap_grad_reduce: reduce gradients while the backward pass runs.
        overlap_param_gather: gather updated parameters while the next forward pass runs.
        ddp_bucket_size: parameters per communication bucket; None for Megatron's default.
        log_prob_chunk_size: rows whose logits exist at the same time.
        weight_bucket_bytes: size of the buckets in which weights are gathered and sent.
        num_threads: CPU threads; None for torch's default.
        skip_zero_advantages: leave samples whose advantages are all zero out of the update. For losses in which only
            the advantages have a gradient the update is the same.
        skip_nonfinite: undo an update in which a loss or a gradient norm is not finite, instead of raising; for that,
            weights and optimizer state are copied to host memory before each update.
        offload_parameters: offload the parameters together with the rest of the actor's state.
        batch_cache_bytes: size of the packed micro-batches that stay on the device for all passes of an update; those
            beyond are packed and uploaded in each pass. They take about 60 bytes per token.
        timeout: timeout of collectives, in seconds.
        optimizer: the optimizer's settings.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    param_dtype: torch.dtype = torch.bfloat16
    fp32_residual: bool = False
    temperature: float = 1.0
    train_batch_size: int = 128
    max_tokens_per_gpu: int = 16192
    epochs: int = 1
    layer_spec: Literal["auto", "te", "local"] = "auto"
    attention: Literal["auto", "flash", "sdpa"] = "auto"
    sequence_parallel: bool = False
    recompute: Literal["none", "selective", "mlp", "full"] = "none"
    recompute_num_layers: int | None = None
    overlap_grad_reduce: bool = False
    overlap_param_gather: bool = False
    ddp_bucket_size: int | None = None
    log_prob_chunk_size: int = 512
    weight_bucket_bytes: int = 512 * 1024 * 1024
    num_threads: int | None = None
    skip_zero_advantages: bool = False
    skip_nonfinite: bool = False
    offload_parameters: bool = False
    batch_cache_bytes: int = 2**30
    timeout: float = 3600.0
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    @classmethod
    def of(cls, values: Mapping[str, Any], **others: Any) -> "ActorSettings":
        """Settings from values by name, as in a configuration file.

        Args:
            values: values of settings here or in `OptimizerSettings`, with `param_dtype` as "bf16" or "fp32". Other
                names are ignored.
            others: values of further settings, used unchanged.
        """
        optimizer = OptimizerSettings(**_of(OptimizerSettings, values))
        own = _of(cls, values) | {"param_dtype": DTYPES[values["param_dtype"]], "optimizer": optimizer}
        return cls(**own | others)


def _of(settings: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's settings."""
    return {item.name: values[item.name] for item in dataclasses.fields(settings) if item.name in values}
