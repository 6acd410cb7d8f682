"""Attention over packed sequences through PyTorch's scaled_dot_product_attention.

Megatron's own local attention materialises the scores and refuses packed sequences; Transformer Engine is not
everywhere. This module takes its place in the local layer spec.
"""

import contextlib
import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.attention import SDPBackend, sdpa_kernel


def _kernels(query: torch.Tensor, longest: int) -> contextlib.AbstractContextManager[None]:
    """The fused CPU kernel takes two to four times as long as plain matrix products on short 16-bit sequences
    (forward and backward, torch 2.13); for long ones the scores would not fit the cache."""
    if query.device.type == "cpu" and query.dtype != torch.float32 and longest <= 512:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


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
        with _kernels(query, max(lengths)):
            outputs = [
                # [tokens, heads, head_dim] -> [1, heads, tokens, head_dim] and back
                F.scaled_dot_product_attention(
                    q.transpose(0, 1).unsqueeze(0),
                    k.transpose(0, 1).unsqueeze(0),
                    v.transpose(0, 1).unsqueeze(0),
                    is_causal=True,
                    scale=self.softmax_scale,
                )
                .squeeze(0)
                .transpose(0, 1)
                for q, k, v in zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
            ]
        return torch.cat(outputs)

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}
