"""The policy as Megatron-Core modules: a GPTModel whose head returns log-probabilities instead of logits."""

import importlib.util
import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.transformer_config import TransformerConfig
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.model.layers import layer_spec
from openrlhf_sfpo.megatron.model.log_probs import log_probs_and_entropy
from openrlhf_sfpo.megatron.settings import ActorSettings
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS
from openrlhf_sfpo.system.replacements import install_on

_OUTPUT_LAYER = ON_OBJECTS["megatron.core.tensor_parallel.layers.ColumnParallelLinear.forward"]


class PolicyModel(GPTModel):
    """One pipeline chunk of the policy.

    The last chunk returns, instead of logits over the vocabulary, the log-probabilities and entropies of the selected
    tokens; the output layer is applied to no others.
    """

    def __init__(self, *, temperature: float, chunk_size: int, real_vocab_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature
        self.chunk_size = chunk_size
        self.real_vocab_size = real_vocab_size
        if self.post_process:
            # The output layer is called as a module, so that its forward pre-hook waits for its weight to be gathered.
            install_on(_OUTPUT_LAYER, self.output_layer, self._score)

    def forward(
        self,
        tokens: torch.Tensor,
        packed: PackedSeqParams,
        positions: torch.Tensor,
        selected: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Run this chunk on this rank's part of one packed micro-batch (see `MicroBatch`).

        Args:
            tokens: int64 [1, tokens], the concatenated sequences.
            packed: boundaries of the sequences in the whole pack.
            positions: int64 [tokens], the tokens' positions within their sequences.
            selected: int64 [selected], tokens whose next token is scored.
            labels: int64 [selected], those next tokens.

        Returns:
            On the last chunk fp32 [2, selected] (log-probabilities, entropies), else hidden states [tokens, 1, hidden];
            with sequence parallelism, this rank's part of them.
        """
        embedded = self.embedding(input_ids=tokens, position_ids=None) if self.pre_process else None
        angles = self.rotary_pos_emb(packed.max_seqlen_q, packed_seq=True)
        if not self.config.apply_rope_fusion:
            angles, packed = _angles_of_tokens(angles, packed, positions)
        hidden = self.decoder(
            hidden_states=embedded, attention_mask=None, rotary_pos_emb=angles, packed_seq_params=packed
        )
        if not self.post_process:
            return hidden
        if self.config.sequence_parallel:
            # Every rank has the full gradient of the loss, so it takes its own part.
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        return self.output_layer(hidden.squeeze(1)[selected], labels)

    def _score(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Log-probabilities and entropies, fp32 [2, rows], from hidden states [rows, hidden_size]."""
        tied = self.share_embeddings_and_output_weights
        log_probs, entropy = log_probs_and_entropy(
            hidden,
            self.shared_embedding_or_output_weight() if tied else self.output_layer.weight,
            labels,
            vocab_size=self.real_vocab_size,
            temperature=self.temperature,
            chunk_size=self.chunk_size,
            group=parallel_state.get_tensor_model_parallel_group(),
        )
        return torch.stack([log_probs, entropy])


def _angles_of_tokens(
    angles: torch.Tensor, packed: PackedSeqParams, positions: torch.Tensor
) -> tuple[torch.Tensor, PackedSeqParams]:
    """The rotary angles of every token of a pack, [tokens, 1, 1, dim], from those of each position.

    Megatron would split queries and keys into sequences in every layer to apply the angles, which is slow with hundreds
    of short ones. It uses the padded boundaries for that, if there are any: here they declare the pack as one sequence,
    and only the rotary embedding reads them (Transformer Engine's attention would, too; see `layers`). From one
    sequence, a context-parallel rank takes one chunk at the start and one at the end, so the angles of its tokens are
    placed there.
    """
    own = angles[positions]
    rank, size = parallel_state.get_context_parallel_rank(), parallel_state.get_context_parallel_world_size()
    if size > 1:
        half, count = len(own) // 2, len(own) * size
        own, parts = own.new_zeros(count, *own.shape[1:]), own.split(half)
        own[rank * half : (rank + 1) * half] = parts[0]
        own[count - (rank + 1) * half : count - rank * half] = parts[1]
    whole = packed.cu_seqlens_q.new_tensor([0, len(own)])
    return own, replace(packed, cu_seqlens_q_padded=whole, cu_seqlens_kv_padded=whole)


def padded_vocab_size(model: ModelConfig, tp: int) -> int:
    """The vocabulary rounded up so that all tensor-parallel ranks hold equally many rows."""
    return math.ceil(model.vocab_size / tp) * tp


def transformer_config(model: ModelConfig, layout: Layout, settings: ActorSettings) -> TransformerConfig:
    """Megatron's configuration for the model, its layout and the actor's settings."""
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_heads,
        num_query_groups=model.num_kv_heads,
        kv_channels=model.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_eps,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=model.qkv_bias,
        qk_layernorm=model.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=settings.param_dtype,
        bf16=settings.param_dtype == torch.bfloat16,
        fp32_residual_connection=settings.fp32_residual,
        # The loss function divides by the global token count itself; gradients are summed, not averaged.
        calculate_per_token_loss=True,
        # Every weight is read from the checkpoint. Initialization must still run: it is where Megatron marks parameters
        # as split over tensor ranks, without which the gradient norm is wrong.
        init_method=_leave_uninitialized,
        output_layer_init_method=_leave_uninitialized,
        embedding_init_method=_leave_uninitialized,
        **_parallelism(layout, settings),
        **_kernels(settings),
        **_recomputation(settings),
    )


def _parallelism(layout: Layout, settings: ActorSettings) -> dict[str, Any]:
    return {
        "tensor_model_parallel_size": layout.tp,
        "sequence_parallel": settings.sequence_parallel and layout.tp > 1,
        "context_parallel_size": layout.cp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.vpp if layout.vpp > 1 else None,
        "pipeline_dtype": torch.float32 if settings.fp32_residual else settings.param_dtype,
        # Packed micro-batches differ in length, so pipeline stages send each other the shape first.
        "variable_seq_lengths": True,
        "moe_token_dispatcher_type": "alltoall",  # unused, but the default conflicts with the line above
        # Without overlap the interleaved schedule puts both directions into one batch of sends and receives; between
        # two stages, each the other's predecessor and successor, those would be matched the wrong way round.
        "overlap_p2p_comm": layout.vpp > 1,
        "batch_p2p_comm": layout.vpp == 1,
        # Outputs sent to the next stage are freed before the backward pass, which needs only their graph. The
        # interleaved schedule does not wait until they are sent: CUDA's streams keep the memory until then, but gloo
        # would read freed memory.
        "deallocate_pipeline_outputs": layout.pp > 1 and (settings.device == "cuda" or layout.vpp == 1),
    }


def _kernels(settings: ActorSettings) -> dict[str, Any]:
    """Fused kernels, where available."""
    cuda, te = settings.device == "cuda", settings.layer_spec == "te"
    return {
        # Transformer Engine's linear layers add weight gradients to the fp32 buffers as they compute them. They need
        # nothing for that, but Megatron's output layer refuses the setting without Apex.
        "gradient_accumulation_fusion": te and importlib.util.find_spec("fused_weight_gradient_mlp_cuda") is not None,
        "apply_rope_fusion": te,
        "masked_softmax_fusion": False,
        "bias_activation_fusion": cuda,
        "bias_dropout_fusion": cuda,
    }


def _recomputation(settings: ActorSettings) -> dict[str, Any]:
    if settings.recompute == "none":
        return {}
    if settings.recompute != "full":
        module = {"selective": "core_attn", "mlp": "mlp"}[settings.recompute]
        return {"recompute_granularity": "selective", "recompute_modules": [module]}
    some = settings.recompute_num_layers
    method = {"recompute_method": "uniform", "recompute_num_layers": 1}
    if some is not None:
        method = {"recompute_method": "block", "recompute_num_layers": some}
    return {"recompute_granularity": "full", **method}


def _leave_uninitialized(weight: torch.Tensor) -> torch.Tensor:
    return weight


def build_model(
    path: str, model: ModelConfig, layout: Layout, settings: ActorSettings, train: bool = True
) -> tuple[TransformerConfig, list[PolicyModel | DistributedDataParallel]]:
    """Build this rank's chunks of the model, with unset weights.

    Args:
        path: Hugging Face model directory, for its RoPE settings.
        model: shapes and family.
        layout: the layout of the ranks.
        settings: the actor's.
        train: wrap the chunks for gradient reduction; otherwise they only run forward.

    Returns:
        The Megatron configuration and one module per virtual pipeline stage, wrapped in Megatron's DDP if `train`.
    """
    config = transformer_config(model, layout, settings)
    # transformers computes RoPE's frequencies for every scaling type it knows; all families here share its formula.
    rope = LlamaRotaryEmbedding(AutoConfig.from_pretrained(path))
    if rope.attention_scaling != 1.0:
        # Megatron multiplies cos and sin by 0.1 ln(factor) + 1; this factor makes that the required scaling.
        config.yarn_rotary_scaling_factor = math.exp((rope.attention_scaling - 1.0) / 0.1)
        config.apply_rope_fusion = False  # the fused kernel does not multiply
    chunks = [
        _build_chunk(config, model, layout, settings, rope.inv_freq, vp_stage if layout.vpp > 1 else None)
        for vp_stage in range(layout.vpp)
    ]
    if not train:
        return config, [chunk.requires_grad_(False) for chunk in chunks]
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=settings.overlap_grad_reduce,
        overlap_param_gather=settings.overlap_param_gather,
        bucket_size=settings.ddp_bucket_size,
    )
    # Buckets help only the first chunk, whose backward pass comes last: the other chunks' communication overlaps with
    # its computation anyway.
    return config, [
        DistributedDataParallel(config, ddp_config, chunk, disable_bucketing=index > 0)
        for index, chunk in enumerate(chunks)
    ]


def _build_chunk(
    config: TransformerConfig,
    model: ModelConfig,
    layout: Layout,
    settings: ActorSettings,
    inv_freq: torch.Tensor,
    vp_stage: int | None,
) -> PolicyModel:
    assert settings.layer_spec != "auto" and settings.attention != "auto", "choose_layers comes first"
    chunk = PolicyModel(
        config=config,
        transformer_layer_spec=layer_spec(
            model, model.num_layers // (layout.pp * layout.vpp), settings.layer_spec, settings.attention
        ),
        vocab_size=padded_vocab_size(model, layout.tp),
        max_sequence_length=model.max_positions,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        share_embeddings_and_output_weights=model.tied_embeddings,
        position_embedding_type="rope",
        vp_stage=vp_stage,
        temperature=settings.temperature,
        chunk_size=settings.log_prob_chunk_size,
        real_vocab_size=model.vocab_size,
    )
    chunk.rotary_pos_emb.inv_freq = inv_freq.clone().to(settings.device)
    return chunk.to(device=settings.device)
