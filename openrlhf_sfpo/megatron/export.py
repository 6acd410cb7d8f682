"""Getting weights in and out: loading a rank's slices, and streaming full Hugging Face tensors to rank 0 in buckets."""

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from openrlhf_sfpo.megatron.checkpoint_files import CheckpointReader
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.model_config import ModelConfig
from openrlhf_sfpo.megatron.weights import Entry, tied_copy, weight_plan


class WeightExchange:
    """Moves weights between this rank's Megatron parameters and Hugging Face tensors.

    Args:
        model: shapes and family.
        layout: how the ranks are laid out.
        chunks: this rank's model chunks, without the DDP wrapper.
        bucket_bytes: how much is gathered and sent at a time.
    """

    def __init__(self, model: ModelConfig, layout: Layout, chunks: list[torch.nn.Module], bucket_bytes: int) -> None:
        self.layout = layout
        self.bucket_bytes = bucket_bytes
        self.plan = weight_plan(model, layout)
        self._parameters = [dict(chunk.named_parameters()) for chunk in chunks]
        self._stage = parallel_state.get_pipeline_model_parallel_rank()
        self._tp_rank = parallel_state.get_tensor_model_parallel_rank()
        self._tp_group = parallel_state.get_tensor_model_parallel_group()
        copy = tied_copy(model, layout)
        entries = [*self.plan, copy] if copy else self.plan
        self._entries = {id(self._parameter(entry)): entry for entry in entries if entry.stage == self._stage}
        some = next(iter(self._parameters[0].values()))
        self.dtype, self._device = some.dtype, some.device

    def metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, dtype and shape of every tensor that `stream` yields, in its order. No communication."""
        return [
            (name, self.dtype, shape)
            for entry in self.plan
            for name, shape in zip(entry.converter.names, entry.converter.shapes, strict=True)
        ]

    def entry_of(self, parameter: torch.nn.Parameter) -> Entry:
        """Where one of this rank's parameters is in the model."""
        return self._entries[id(parameter)]

    @torch.no_grad()
    def load(self, path: str) -> None:
        """Fill this rank's parameters from a Hugging Face directory, reading only the slices that it needs.

        Raises:
            UsageError: a tensor is missing, damaged, or has another shape than config.json says.
        """
        with CheckpointReader(path) as reader:
            for entry in self._entries.values():
                value = entry.converter.read(reader, self._tp_rank, self.layout.tp)
                parameter = self._parameter(entry)
                if value.shape != parameter.shape:
                    raise ValueError(
                        f"{', '.join(entry.converter.names)} in {path}: got {tuple(value.shape)} for this rank, "
                        f"but config.json asks for {tuple(parameter.shape)}."
                    )
                parameter.copy_(value)

    @torch.no_grad()
    def stream(self, everyone: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, full tensor) on global rank 0; take part in the gathering on the ranks of its model copy.

        Every rank must exhaust the iterator. Tensors are views of one bucket and are overwritten by nobody, but a
        consumer that keeps them keeps the bucket.

        Args:
            everyone: yield on all ranks; each data-parallel replica then gathers its own copy.
        """
        if parallel_state.get_data_parallel_rank() != 0 and not everyone:
            return
        for stage, bucket in self._buckets():
            flat = self._gather(bucket, everyone) if stage == self._stage else None
            flat = (self._to_everyone if everyone else self._to_rank_zero)(stage, bucket, flat)
            if flat is None:
                continue
            sizes = [torch.Size(shape).numel() for entry in bucket for shape in entry.converter.shapes]
            names_and_shapes = [
                pair for entry in bucket for pair in zip(entry.converter.names, entry.converter.shapes, strict=True)
            ]
            for (name, shape), part in zip(names_and_shapes, flat.split(sizes), strict=True):
                yield name, part.view(shape)

    def _buckets(self) -> Iterable[tuple[int, list[Entry]]]:
        """Runs of plan entries on the same stage, of at most `bucket_bytes` (or a single larger entry)."""
        limit = self.bucket_bytes // torch.empty((), dtype=self.dtype).element_size()
        for stage, entries in groupby(self.plan, key=lambda entry: entry.stage):
            bucket: list[Entry] = []
            numel = 0
            for entry in entries:
                if bucket and numel + entry.numel > limit:
                    yield stage, bucket
                    bucket, numel = [], 0
                bucket.append(entry)
                numel += entry.numel
            yield stage, bucket

    def _gather(self, bucket: list[Entry], everyone: bool = False) -> torch.Tensor | None:
        """The bucket's full tensors, flattened, on tensor-parallel rank 0 of the stage that holds them, or on all."""
        local = [self._parameter(entry).detach() for entry in bucket]
        flat = torch.cat([part.reshape(-1) for part in local])
        gathered = [flat]
        if self.layout.tp > 1:
            gathered = [torch.empty_like(flat) for _ in range(self.layout.tp)]
            dist.all_gather(gathered, flat, group=self._tp_group)
        if self._tp_rank != 0 and not everyone:
            return None
        sizes = [part.numel() for part in local]
        by_rank = [shards.split(sizes) for shards in gathered]
        tensors = []
        for index, entry in enumerate(bucket):
            shards = [parts[index].view(local[index].shape) for parts in by_rank]
            tensors += entry.converter.merge(shards)
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def _to_rank_zero(self, stage: int, bucket: list[Entry], flat: torch.Tensor | None) -> torch.Tensor | None:
        if stage == 0:
            return flat
        # In data-parallel replica 0, the first rank of stage s has the global rank s * tp.
        sender, rank = stage * self.layout.tp, dist.get_rank()
        if rank == sender:
            dist.send(flat, dst=0)
        if rank == 0:
            received = torch.empty(sum(entry.numel for entry in bucket), dtype=self.dtype, device=self._device)
            dist.recv(received, src=sender)
            return received
        return None

    def _to_everyone(self, stage: int, bucket: list[Entry], flat: torch.Tensor | None) -> torch.Tensor:
        """From the ranks of a stage, which all have the bucket, along each of the pipelines that they are in."""
        if flat is None:
            flat = torch.empty(sum(entry.numel for entry in bucket), dtype=self.dtype, device=self._device)
        pipeline = parallel_state.get_pipeline_model_parallel_group()
        if pipeline.size() > 1:
            dist.broadcast(flat, src=dist.get_global_rank(pipeline, stage), group=pipeline)
        return flat

    def _parameter(self, entry: Entry) -> torch.nn.Parameter:
        return self._parameters[entry.chunk][entry.parameter]
