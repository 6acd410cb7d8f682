"""The layers of the model: Transformer Engine's, or Megatron's local ones with three parts of our own.

In the local layers attention uses flash-attn or PyTorch's scaled_dot_product_attention and takes packed sequences
(Megatron's local attention materializes the scores and refuses packs). The norm and the residual sum keep an fp32
residual stream in fp32 between bf16 layers (Megatron's cast it back in every layer).
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.attention import SDPBackend, sdpa_kernel

from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.model.context_parallel import chunks_of, positions_of
from openrlhf_sfpo.megatron.settings import ActorSettings, Attention, LayerSpec, chosen, limits
from openrlhf_sfpo.system.errors import UsageError


def choose_layers(settings: ActorSettings) -> tuple[LayerSpec, Attention]:
    """Resolve `auto` for this machine, and check that the requested layers are available.

    Raises:
        UsageError: Transformer Engine or flash-attn is requested and unavailable.
    """
    sixteen_bits = settings.param_dtype in (torch.bfloat16, torch.float16)
    no_te, no_flash = limits(settings.device, sixteen_bits, settings.fp32_residual)
    lacks_te, lacks_flash = no_te or _missing("transformer_engine"), no_flash or _missing("flash_attn")
    if settings.layer_spec == "te" and lacks_te:
        raise UsageError("layer_spec", f"is te, and Transformer Engine {lacks_te}.", "Use auto or local.")
    if settings.attention == "flash" and lacks_flash:
        raise UsageError("attention", f"is flash, and flash-attn {lacks_flash}.", "Use auto or sdpa.")
    return chosen(settings.layer_spec, "te", lacks_te, "local"), chosen(
        settings.attention, "flash", lacks_flash, "sdpa"
    )


def _missing(package: str) -> str | None:
    spec = importlib.util.find_spec(package)
    # The flash_attn stub (system/flash_attn_stub.py) has no loader and does not count as installed.
    return None if spec is not None and spec.loader is not None else "is not installed"


def _kernels(query: torch.Tensor, longest: int) -> contextlib.AbstractContextManager[None]:
    """Use plain matrix products for short 16-bit sequences on CPU, where the fused kernel takes two to four times as
    long (forward and backward, torch 2.13); for long ones the scores would not fit the cache."""
    if query.device.type == "cpu" and query.dtype != torch.float32 and longest <= 512:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def _by_sequence(packed: torch.Tensor, length: int) -> torch.Tensor:
    """[sequences * length, heads, head_dim] as [sequences, heads, length, head_dim]."""
    return packed.unflatten(0, (-1, length)).transpose(1, 2)


class PackedAttention(MegatronModule):
    """Causal self-attention within each sequence of the pack, so that no work goes into padding.

    Has the arguments of Megatron's `DotProductAttention`, so that it fits into a layer spec. Subclasses implement
    `attend`.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__(config=config)
        self.softmax_scale = softmax_scale if softmax_scale is not None else 1.0 / math.sqrt(config.kv_channels)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Attend within each sequence of the pack.

        Args:
            query: [tokens, heads, head_dim]; with context parallelism, this rank's tokens.
            key: [tokens, kv_heads, head_dim]; heads is a multiple of kv_heads.
            value: like key.
            packed_seq_params: `cu_seqlens_q`, int32 [sequences + 1], gives the boundaries.

        Returns:
            [tokens, heads, head_dim].
        """
        assert packed_seq_params is not None, "the actor always packs"
        if self.config.context_parallel_size == 1:
            return self.attend(query, key, value, packed_seq_params)
        boundaries, cp = packed_seq_params.cu_seqlens_q, self.config.context_parallel_size
        group = parallel_state.get_context_parallel_group()
        ranks = torch.cat([positions_of(boundaries, cp, rank) for rank in range(cp)])
        order = torch.empty_like(ranks)
        order[ranks] = torch.arange(len(ranks), device=ranks.device)
        key, value = (gather_from_sequence_parallel_region(part, group=group)[order] for part in (key, value))
        return self.attend_from_chunks(query, key, value, chunks_of(boundaries, cp, group.rank()), boundaries)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: PackedSeqParams
    ) -> torch.Tensor:
        """Attend over the whole pack."""
        raise NotImplementedError

    def attend_from_chunks(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        chunks: torch.Tensor,
        boundaries: torch.Tensor,
    ) -> torch.Tensor:
        """Attend from chunks of the sequences to all preceding positions.

        Args:
            query: [tokens of the chunks, heads, head_dim].
            key, value: [tokens of the pack, kv_heads, head_dim].
            chunks: int64 [2 * sequences, 2], each chunk's first position in the pack and length; two per sequence.
            boundaries: the sequences' boundaries in the pack.
        """
        starts = boundaries[:-1].repeat_interleave(2).tolist()
        outputs = []
        for part, start, (first, length) in zip(
            query.split(chunks[:, 1].tolist()), starts, chunks.tolist(), strict=True
        ):
            seen = slice(start, first + length)
            outputs.append(self.attend_at_end(part, key[seen], value[seen]))
        return torch.cat(outputs)

    def attend_at_end(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attend from the last positions of one sequence: query [asking, heads, head_dim], keys and values [positions,
        kv_heads, head_dim]."""
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        asking, known = len(query), len(key)
        causal = torch.ones(asking, known, dtype=torch.bool, device=query.device).tril(known - asking)
        query, key, value = (_by_sequence(part, len(part)) for part in (query, key, value))
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=causal, scale=self.softmax_scale)
        return output.transpose(1, 2).flatten(0, 1)

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}


class PackedSDPA(PackedAttention):
    """Uses PyTorch's scaled_dot_product_attention: on every device, in every dtype."""

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: PackedSeqParams
    ) -> torch.Tensor:
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            # The fused CPU kernel needs as many key/value heads as query heads.
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        lengths = packed.cu_seqlens_q.diff().tolist()
        # Consecutive sequences of equal length, which `batching` groups, are one call: there may be hundreds of short
        # ones.
        runs = [(length, len(list(run))) for length, run in itertools.groupby(lengths)]
        sizes = [length * count for length, count in runs]
        with _kernels(query, max(lengths)):
            outputs = [
                F.scaled_dot_product_attention(
                    _by_sequence(asking, length),
                    _by_sequence(keys, length),
                    _by_sequence(values, length),
                    is_causal=True,
                    scale=self.softmax_scale,
                )
                .transpose(1, 2)
                .flatten(0, 1)
                for (length, _), asking, keys, values in zip(
                    runs, query.split(sizes), key.split(sizes), value.split(sizes), strict=True
                )
            ]
        return torch.cat(outputs)


class PackedFlash(PackedAttention):
    """Uses flash-attn's kernels for packs: one call for any lengths, on CUDA in 16 bits."""

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: PackedSeqParams
    ) -> torch.Tensor:
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(
            query,
            key,
            value,
            packed.cu_seqlens_q,
            packed.cu_seqlens_kv,
            packed.max_seqlen_q,
            packed.max_seqlen_kv,
            softmax_scale=self.softmax_scale,
            causal=True,
        )

    def attend_at_end(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        from flash_attn import flash_attn_func

        # Its causal mask is aligned to the last position of both.
        parts = (part.unsqueeze(0) for part in (query, key, value))
        return flash_attn_func(*parts, softmax_scale=self.softmax_scale, causal=True).squeeze(0)


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm, computed in fp32 and returned in the dtype of its weight.

    Has the arguments of Megatron's norms, so that it fits into a layer spec.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # If each tensor-parallel rank normalizes its own positions, Megatron sums the gradients of the weight over the
        # ranks: it reads this attribute, which torch's parameters lack.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalize over the last dimension."""
        normed = F.rms_norm(hidden.float(), self.weight.shape, eps=self.eps)
        return (normed * self.weight.float()).to(self.weight.dtype)


def add_residual(training: bool, fused: bool) -> Callable[..., torch.Tensor]:
    """Megatron's bias-dropout-add without bias and dropout; the sum has the residual's dtype."""

    def add(output_and_bias: tuple[torch.Tensor, None], residual: torch.Tensor, prob: float) -> torch.Tensor:
        return residual + output_and_bias[0]

    return add


def layer_spec(
    model: ModelConfig, num_layers: int, kind: LayerSpec, attention: Attention
) -> TransformerBlockSubmodules:
    """`num_layers` layers of the model and the final norm.

    Args:
        model: shapes and family.
        num_layers: the number of layers in one model chunk.
        kind: Transformer Engine's layers or the local ones.
        attention: the local layers' attention.
    """
    return _te_layer_spec(model, num_layers) if kind == "te" else _local_layer_spec(model, num_layers, attention)


def _te_layer_spec(model: ModelConfig, num_layers: int) -> TransformerBlockSubmodules:
    """Transformer Engine's layers: norms fused into the linear layers after them, attention that supports packs and
    context parallelism."""
    from megatron.core.extensions.transformer_engine import TEDotProductAttention, TENorm

    class TEAttention(TEDotProductAttention):
        """Uses the actual boundaries of the sequences, which include padding, instead of the `padded` ones, which are
        meant for the rotary embedding only."""

        def forward(self, *args: Any, packed_seq_params: PackedSeqParams, **kwargs: Any) -> torch.Tensor:
            plain = dataclasses.replace(packed_seq_params, cu_seqlens_q_padded=None, cu_seqlens_kv_padded=None)
            return super().forward(*args, packed_seq_params=plain, **kwargs)

    layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=model.qk_norm)
    own = layer.submodules.self_attention
    own.submodules = dataclasses.replace(own.submodules, core_attention=TEAttention)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=TENorm)


def _local_layer_spec(model: ModelConfig, num_layers: int, attention: Attention) -> TransformerBlockSubmodules:
    """The local layers, for machines without Transformer Engine."""
    spec = get_gpt_layer_local_spec(qk_layernorm=model.qk_norm, normalization="RMSNorm")
    own = spec.submodules.self_attention
    core = {"core_attention": PackedFlash if attention == "flash" else PackedSDPA}
    qk_norm = {"q_layernorm": RMSNorm, "k_layernorm": RMSNorm} if model.qk_norm else {}
    layer = ModuleSpec(
        module=spec.module,
        submodules=dataclasses.replace(
            spec.submodules,
            input_layernorm=RMSNorm,
            self_attention=dataclasses.replace(own, submodules=dataclasses.replace(own.submodules, **core, **qk_norm)),
            self_attn_bda=add_residual,
            pre_mlp_layernorm=RMSNorm,
            mlp_bda=add_residual,
        ),
    )
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=RMSNorm)
