"""Maps Hugging Face tensors to Megatron parameters, for the dense families (Llama, Mistral, Qwen2, Qwen3).

The families share their tensor names; they differ in whether q/k/v have biases and whether queries and keys are
normalized. Each entry of the plan can read a rank's slice from a checkpoint and merge gathered slices.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch

from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.settings import LayerSpec

# read(name, rows, columns) -> that part of the tensor; None means all of the dimension
Reader = Callable[[str, slice | None, slice | None], torch.Tensor]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a Megatron parameter that form a rectangle of one Hugging Face tensor.

    Attributes:
        name: the Hugging Face tensor; None for rows of padding.
        shape: its full shape.
        row: the block's first row in it.
        rows: the block's number of rows.
        column: the block's first column in it; None for all columns, or a one-dimensional tensor.
        columns: the block's number of columns, 1 for a one-dimensional tensor.
    """

    name: str | None
    shape: Shape
    row: int
    rows: int
    column: int | None = None
    columns: int = 1


def _rows(name: str, shape: Shape, row: int, rows: int) -> Block:
    """A block of whole rows."""
    return Block(name, shape, row, rows, columns=torch.Size(shape[1:]).numel())


class Converter(ABC):
    """Converts between one Megatron parameter and Hugging Face tensors.

    Attributes:
        names: the Hugging Face tensors, in the order that `merge` returns them.
        shapes: their full shapes.
        is_replicated: whether every tensor-parallel rank holds all of it.
    """

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    is_replicated: ClassVar[bool] = False

    @abstractmethod
    def blocks(self, rank: int, size: int) -> list["Block"]:
        """The blocks of a tensor-parallel rank's parameter, from its first row to its last."""

    def read(self, reader: Reader, rank: int, size: int) -> torch.Tensor:
        """Read this tensor-parallel rank's parameter, and no more than it needs."""
        parts: list[torch.Tensor] = []
        for block in self.blocks(rank, size):
            if block.name is None:
                parts.append(parts[-1].new_zeros(block.rows, block.columns))
            else:
                columns = slice(block.column, block.column + block.columns) if block.column is not None else None
                parts.append(reader(block.name, slice(block.row, block.row + block.rows), columns))
        return torch.cat(parts)

    @abstractmethod
    def merge(self, shards: list[torch.Tensor]) -> list[torch.Tensor]:
        """The full Hugging Face tensors from all tensor-parallel ranks' parameters."""


@dataclass(frozen=True)
class Replicated(Converter):
    """The same on every tensor-parallel rank (norms)."""

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    is_replicated: ClassVar[bool] = True

    def blocks(self, rank: int, size: int) -> list[Block]:
        return [_rows(self.names[0], self.shapes[0], 0, self.shapes[0][0])]

    def merge(self, shards: list[torch.Tensor]) -> list[torch.Tensor]:
        return [shards[0]]


@dataclass(frozen=True)
class VocabRows(Converter):
    """Embedding or output layer: rows are split; the last rank's rows are padded with zeros."""

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    def blocks(self, rank: int, size: int) -> list[Block]:
        vocab, hidden = self.shapes[0]
        height = -(-vocab // size)
        real = min(height, vocab - rank * height)
        padding = Block(None, (), 0, height - real, columns=hidden)
        return [_rows(self.names[0], self.shapes[0], rank * height, real), padding]

    def merge(self, shards: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.cat(shards)[: self.shapes[0][0]]]


@dataclass(frozen=True)
class Columns(Converter):
    """Row-parallel linear layer (attention output, MLP down projection): input features are split."""

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    def blocks(self, rank: int, size: int) -> list[Block]:
        height, width = self.shapes[0][0], self.shapes[0][1] // size
        return [Block(self.names[0], self.shapes[0], 0, height, rank * width, width)]

    def merge(self, shards: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.cat(shards, dim=1)]


@dataclass(frozen=True)
class GateUp(Converter):
    """Gate and up projections, one above the other on each rank: [gate rows of the rank; up rows of the rank]."""

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    def blocks(self, rank: int, size: int) -> list[Block]:
        height = self.shapes[0][0] // size
        return [_rows(name, shape, rank * height, height) for name, shape in zip(self.names, self.shapes, strict=True)]

    def merge(self, shards: list[torch.Tensor]) -> list[torch.Tensor]:
        gates, ups = zip(*(shard.chunk(2) for shard in shards), strict=True)
        return [torch.cat(gates), torch.cat(ups)]


@dataclass(frozen=True)
class FusedQKV(Converter):
    """Query, key and value projections (weights or biases), interleaved by key/value head.

    Rows of the Megatron parameter: for each key/value head g its query heads, then key g, then value g. A rank holds
    consecutive groups, so that its rows in each Hugging Face tensor are consecutive as well.
    """

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    groups: int
    head_dim: int

    def blocks(self, rank: int, size: int) -> list[Block]:
        count = self.groups // size
        heights = [shape[0] // self.groups for shape in self.shapes]
        return [
            _rows(name, shape, group * height, height)
            for group in range(rank * count, (rank + 1) * count)
            for name, shape, height in zip(self.names, self.shapes, heights, strict=True)
        ]

    def merge(self, shards: list[torch.Tensor]) -> list[torch.Tensor]:
        fused = torch.cat(shards)
        by_group = fused.reshape(self.groups, -1, *fused.shape[1:])
        queries = by_group.shape[1] - 2 * self.head_dim
        return [part.flatten(0, 1) for part in by_group.split([queries, self.head_dim, self.head_dim], dim=1)]


@dataclass(frozen=True)
class Entry:
    """One Megatron parameter: its name within a chunk, the chunk's place, its converter, and whether another stage
    holds a copy."""

    parameter: str
    stage: int
    chunk: int
    converter: Converter
    is_copy: bool = False

    @functools.cached_property
    def numel(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.converter.shapes)


# Transformer Engine's names of the norms that it fuses into the linear layers after them.
_TE_NAMES = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}


def weight_plan(model: ModelConfig, layout: Layout, layers: LayerSpec = "local") -> list[Entry]:
    """Every Hugging Face tensor of the model once, in the order of its state dict, with the parameter that holds it.

    `layers` selects the implementation. With tied embeddings there is no lm_head.weight, and a last pipeline stage's
    own copy is not in the plan: see `tied_copy`.
    """
    hidden, vocab = model.hidden_size, model.vocab_size
    last_stage, last_chunk = layout.pp - 1, layout.vpp - 1
    embedding = VocabRows(("model.embed_tokens.weight",), ((vocab, hidden),))
    plan = [Entry("embedding.word_embeddings.weight", 0, 0, embedding)]
    layers_per_chunk = model.num_layers // (layout.pp * layout.vpp)
    for layer in range(model.num_layers):
        position, local = divmod(layer, layers_per_chunk)
        chunk, stage = divmod(position, layout.pp)
        for parameter, converter in _layer_entries(model, f"model.layers.{layer}"):
            if layers == "te":
                parameter = _TE_NAMES.get(parameter, parameter)
            plan.append(Entry(f"decoder.layers.{local}.{parameter}", stage, chunk, converter))
    norm = Replicated(("model.norm.weight",), ((hidden,),))
    plan.append(Entry("decoder.final_layernorm.weight", last_stage, last_chunk, norm))
    if not model.tied_embeddings:
        head = VocabRows(("lm_head.weight",), ((vocab, hidden),))
        plan.append(Entry("output_layer.weight", last_stage, last_chunk, head))
    return plan


def tied_copy(model: ModelConfig, layout: Layout) -> Entry | None:
    """The last stage's copy of tied embeddings, if any: it is loaded but never exported."""
    if not model.tied_embeddings or layout.pp == 1:
        return None
    converter = VocabRows(("model.embed_tokens.weight",), ((model.vocab_size, model.hidden_size),))
    return Entry("output_layer.weight", layout.pp - 1, layout.vpp - 1, converter, is_copy=True)


def buckets(plan: Iterable[Entry], limit: int) -> Iterator[tuple[int, list[Entry]]]:
    """(stage, entries): runs of a plan's entries on the same stage, of at most `limit` elements (or a single larger
    entry)."""
    for stage, entries in groupby(plan, key=lambda entry: entry.stage):
        bucket: list[Entry] = []
        numel = 0
        for entry in entries:
            if bucket and numel + entry.numel > limit:
                yield stage, bucket
                bucket, numel = [], 0
            bucket.append(entry)
            numel += entry.numel
        yield stage, bucket


def _layer_entries(model: ModelConfig, prefix: str) -> list[tuple[str, Converter]]:
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    q_rows, kv_rows = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    qkv = tuple(f"{prefix}.self_attn.{name}_proj" for name in "qkv")

    def replicated(name: str, size: int) -> Replicated:
        return Replicated((f"{prefix}.{name}.weight",), ((size,),))

    def fused(suffix: str, width: Shape) -> FusedQKV:
        shapes = ((q_rows, *width), (kv_rows, *width), (kv_rows, *width))
        return FusedQKV(tuple(f"{name}.{suffix}" for name in qkv), shapes, model.num_kv_heads, model.head_dim)

    entries: list[tuple[str, Converter]] = [
        ("input_layernorm.weight", replicated("input_layernorm", hidden)),
        ("self_attention.linear_qkv.weight", fused("weight", (hidden,))),
        (
            "self_attention.linear_proj.weight",
            Columns((f"{prefix}.self_attn.o_proj.weight",), ((hidden, q_rows),)),
        ),
        ("pre_mlp_layernorm.weight", replicated("post_attention_layernorm", hidden)),
        (
            "mlp.linear_fc1.weight",
            GateUp((f"{prefix}.mlp.gate_proj.weight", f"{prefix}.mlp.up_proj.weight"), ((ffn, hidden), (ffn, hidden))),
        ),
        ("mlp.linear_fc2.weight", Columns((f"{prefix}.mlp.down_proj.weight",), ((hidden, ffn),))),
    ]
    if model.qkv_bias:
        entries.append(("self_attention.linear_qkv.bias", fused("bias", ())))
    if model.qk_norm:
        entries.append(("self_attention.q_layernorm.weight", replicated("self_attn.q_norm", model.head_dim)))
        entries.append(("self_attention.k_layernorm.weight", replicated("self_attn.k_norm", model.head_dim)))
    return entries
