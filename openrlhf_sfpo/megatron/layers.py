"""The local layer spec: Megatron's layers where Transformer Engine is not, with three parts of our own.

Attention goes through PyTorch's scaled_dot_product_attention and takes packed sequences (Megatron's local attention
materialises the scores and refuses packs). The norm and the residual sum keep an fp32 residual stream fp32 between
bf16 layers (Megatron's cast it back in every layer).
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.attention import SDPBackend, sdpa_kernel

from openrlhf_sfpo.megatron.model_config import ModelConfig


def _kernels(query: torch.Tensor, longest: int) -> contextlib.AbstractContextManager[None]:
    """The fused CPU kernel takes two to four times as long as plain matrix products on short 16-bit sequences
    (forward and backward, torch 2.13); for long ones the scores would not fit the cache."""
    if query.device.type == "cpu" and query.dtype != torch.float32 and longest <= 512:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def _by_sequence(packed: torch.Tensor, length: int) -> torch.Tensor:
    """[sequences * length, heads, head_dim] as [sequences, heads, length, head_dim]."""
    return packed.unflatten(0, (-1, length)).transpose(1, 2)


class PackedSDPA(MegatronModule):
    """Causal self-attention, each sequence of the pack on its own, so that no work goes into padding.

    Takes the arguments of Megatron's `DotProductAttention`, so that it can stand in a layer spec.
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
        assert config.context_parallel_size == 1, "context parallelism needs the Transformer Engine layer spec"
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
            query: [tokens, heads, head_dim].
            key: [tokens, kv_heads, head_dim]; heads is a multiple of kv_heads.
            value: as key.
            packed_seq_params: `cu_seqlens_q`, int32 [sequences + 1], gives the boundaries.

        Returns:
            [tokens, heads, head_dim].
        """
        assert packed_seq_params is not None, "the actor always packs"
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            # The fused CPU kernel wants as many key/value heads as query heads.
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        # Neighbours of one length, which `batching` puts side by side, are one call: short ones come by the hundred.
        runs = [(length, len(list(run))) for length, run in itertools.groupby(lengths)]
        sizes = [length * count for length, count in runs]
        with _kernels(query, max(lengths)):
            outputs = [
                F.scaled_dot_product_attention(
                    *(_by_sequence(part, length) for part in parts), is_causal=True, scale=self.softmax_scale
                )
                .transpose(1, 2)
                .flatten(0, 1)
                for (length, _), *parts in zip(
                    runs, query.split(sizes), key.split(sizes), value.split(sizes), strict=True
                )
            ]
        return torch.cat(outputs)

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm, computed in fp32 and returned in the dtype of its weight.

    Takes the arguments of Megatron's norms, so that it can stand in a layer spec.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise over the last dimension."""
        normed = F.rms_norm(hidden.float(), self.weight.shape, eps=self.eps)
        return (normed * self.weight.float()).to(self.weight.dtype)


def add_residual(training: bool, fused: bool) -> Callable[..., torch.Tensor]:
    """Megatron's bias-dropout-add where there is neither bias nor dropout; the sum has the residual's dtype."""

    def add(output_and_bias: tuple[torch.Tensor, None], residual: torch.Tensor, prob: float) -> torch.Tensor:
        return residual + output_and_bias[0]

    return add


def local_layer_spec(model: ModelConfig, num_layers: int) -> TransformerBlockSubmodules:
    """`num_layers` layers of the model for machines without Transformer Engine, and the final norm."""
    spec = get_gpt_layer_local_spec(qk_layernorm=model.qk_norm, normalization="RMSNorm")
    attention = spec.submodules.self_attention
    qk_norm = {"q_layernorm": RMSNorm, "k_layernorm": RMSNorm} if model.qk_norm else {}
    layer = ModuleSpec(
        module=spec.module,
        submodules=dataclasses.replace(
            spec.submodules,
            input_layernorm=RMSNorm,
            self_attention=dataclasses.replace(
                attention,
                submodules=dataclasses.replace(attention.submodules, core_attention=PackedSDPA, **qk_norm),
            ),
            self_attn_bda=add_residual,
            pre_mlp_layernorm=RMSNorm,
            mlp_bda=add_residual,
        ),
    )
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=RMSNorm)
