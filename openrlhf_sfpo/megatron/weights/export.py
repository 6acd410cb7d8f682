"""Loads and exports weights: loads a rank's slices, and streams full Hugging Face tensors to rank 0 in buckets."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from openrlhf_sfpo.checkpoints.hf_directory import CheckpointReader
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.weights.check import check_headers, shapes_of
from openrlhf_sfpo.megatron.weights.mapping import Entry, buckets, tied_copy
from openrlhf_sfpo.megatron.weights.shard_slices import ShardSlice, shard_slices


class WeightExchange:
    """Moves weights between this rank's Megatron parameters and Hugging Face tensors.

    Args:
        model: shapes and family.
        layout: the layout of the ranks.
        chunks: this rank's model chunks, without the DDP wrapper.
        plan: maps Hugging Face tensors to their parameters.
        bucket_bytes: size of the buckets.
    """

    def __init__(
        self,
        model: ModelConfig,
        layout: Layout,
        chunks: list[torch.nn.Module],
        plan: list[Entry],
        bucket_bytes: int,
    ) -> None:
        self.layout = layout
        self.bucket_bytes = bucket_bytes
        self.plan = plan
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
        """The plan's entry of one of this rank's parameters."""
        return self._entries[id(parameter)]

    def slices_of(self, parameter: torch.nn.Parameter, start: int, stop: int) -> list[ShardSlice]:
        """The rectangles of Hugging Face tensors in a range of one of this rank's flattened parameters."""
        return list(shard_slices(self.entry_of(parameter).converter, self._tp_rank, self.layout.tp, start, stop))

    @torch.no_grad()
    def load(self, path: str) -> None:
        """Fill this rank's parameters from a Hugging Face directory, reading only the slices that it needs.

        Raises:
            UsageError: a tensor is missing, damaged, or has another shape or dtype than the model needs.
        """
        with CheckpointReader(path) as reader:
            check_headers(path, reader.headers, shapes_of(self._entries.values()))
            for entry in self._entries.values():
                value = entry.converter.read(reader, self._tp_rank, self.layout.tp)
                parameter = self._parameter(entry)
                assert value.shape == parameter.shape, f"{entry.parameter}: {value.shape} for {parameter.shape}"
                parameter.copy_(value)

    @torch.no_grad()
    def stream(
        self, everyone: bool = False, finish_param_gather: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, full tensor) on global rank 0; take part in the gathering on the ranks of its model copy.

        While the consumer forwards a bucket, the next one is being gathered, so two are held at a time. Every rank must
        exhaust the iterator. Tensors are views of one bucket, which is never overwritten; a consumer that keeps a
        tensor keeps its bucket in memory.

        Args:
            everyone: yield on all ranks; each model copy then gathers for itself.
            finish_param_gather: called before the weights are read.
        """
        own = _Stream(self._device)
        with own.entered():
            finish_param_gather()
        own.finish()
        is_first_copy = parallel_state.get_data_parallel_rank() == 0 and parallel_state.get_context_parallel_rank() == 0
        if not is_first_copy and not everyone:
            return
        under_way: tuple[list[Entry], Callable[[], torch.Tensor | None]] | None = None
        for stage, bucket in self._buckets():
            with own.entered():
                following = bucket, self._start(stage, bucket, everyone)
            if under_way is not None:
                yield from _tensors(own, *under_way)
            under_way = following
        if under_way is not None:
            yield from _tensors(own, *under_way)

    def _buckets(self) -> Iterable[tuple[int, list[Entry]]]:
        return buckets(self.plan, self.bucket_bytes // torch.empty((), dtype=self.dtype).element_size())

    def _start(self, stage: int, bucket: list[Entry], everyone: bool) -> Callable[[], torch.Tensor | None]:
        """Start sending a bucket to rank 0, or to all ranks. The returned function waits for it and, where it arrives,
        returns the full tensors, flattened."""
        if everyone:
            gathered = self._gather(bucket, everyone) if stage == self._stage else lambda: None
            return lambda: self._to_everyone(stage, bucket, gathered())
        # In data-parallel replica 0, the first rank of stage s has the global rank s * tp * cp.
        sender, rank = stage * self.layout.tp * self.layout.cp, dist.get_rank()
        if stage == self._stage:
            gathered = self._gather(bucket, everyone)
            if rank != sender or rank == 0:
                return gathered
            # No other rank depends on this one, so it can wait here.
            flat = gathered()
            assert flat is not None  # the sender's tensor-parallel rank is 0
            return _Sent(flat)
        if rank != 0:
            return lambda: None
        return _Received(
            torch.empty(sum(entry.numel for entry in bucket), dtype=self.dtype, device=self._device), sender
        )

    def _gather(self, bucket: list[Entry], everyone: bool) -> Callable[[], torch.Tensor | None]:
        """Start gathering a bucket of this stage. The returned function waits for it, and returns the full tensors,
        flattened, on tensor-parallel rank 0 or on all ranks."""
        local = [self._parameter(entry).detach() for entry in bucket]
        flat = torch.cat([part.reshape(-1) for part in local])
        gathered, work = [flat], None
        if self.layout.tp > 1:
            gathered = [torch.empty_like(flat) for _ in range(self.layout.tp)]
            work = dist.all_gather(gathered, flat, group=self._tp_group, async_op=True)

        def merged() -> torch.Tensor | None:
            if work is not None:
                work.wait()
            if self._tp_rank != 0 and not everyone:
                return None
            sizes = [part.numel() for part in local]
            by_rank = [shards.split(sizes) for shards in gathered]
            gathered.clear()  # frees them before the function returns
            tensors = []
            for index, entry in enumerate(bucket):
                shards = [parts[index].view(local[index].shape) for parts in by_rank]
                tensors += entry.converter.merge(shards)
            return torch.cat([tensor.reshape(-1) for tensor in tensors])

        return merged

    def _to_everyone(self, stage: int, bucket: list[Entry], flat: torch.Tensor | None) -> torch.Tensor:
        """Broadcast a bucket from the ranks of a stage, which all have it, along each of their pipelines."""
        if flat is None:
            flat = torch.empty(sum(entry.numel for entry in bucket), dtype=self.dtype, device=self._device)
        pipeline = parallel_state.get_pipeline_model_parallel_group()
        if pipeline.size() > 1:
            dist.broadcast(flat, src=dist.get_global_rank(pipeline, stage), group=pipeline)
        return flat

    def _parameter(self, entry: Entry) -> torch.nn.Parameter:
        return self._parameters[entry.chunk][entry.parameter]


class _Sent:
    """A tensor being sent to rank 0, kept alive until it has arrived."""

    def __init__(self, flat: torch.Tensor) -> None:
        self._flat = flat
        self._work = dist.isend(flat, dst=0)

    def __call__(self) -> None:
        assert self._work is not None  # this rank is in the group
        self._work.wait()


class _Received:
    """A tensor being received from a rank; calling this waits for it."""

    def __init__(self, flat: torch.Tensor, sender: int) -> None:
        self._flat = flat
        self._work = dist.irecv(flat, src=sender)

    def __call__(self) -> torch.Tensor:
        assert self._work is not None  # this rank is in the group
        self._work.wait()
        return self._flat


class _Stream:
    """The CUDA stream for exporting weights (no-op on CPU). A consumer may iterate under its own streams; vLLM
    alternates between two that do not wait for each other.

    Args:
        device: the weights' device. Work already queued on it finishes first.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            torch.cuda.synchronize(device)

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """Work on the stream until the block ends."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def finish(self) -> None:
        """Wait for the work queued on it. Other streams continue, such as the next bucket's collectives."""
        if self._stream is not None:
            self._stream.synchronize()

    def lend(self, tensor: torch.Tensor) -> torch.Tensor:
        """Keep the tensor's memory alive until the reader's stream is done with it."""
        if self._stream is not None:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
        return tensor


def _tensors(
    own: _Stream, bucket: list[Entry], arrive: Callable[[], torch.Tensor | None]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The names and full tensors of a bucket; nothing on ranks that do not receive it."""
    with own.entered():
        flat = arrive()
    own.finish()
    if flat is None:
        return
    pairs = [pair for entry in bucket for pair in zip(entry.converter.names, entry.converter.shapes, strict=True)]
    sizes = [torch.Size(shape).numel() for _, shape in pairs]
    for (name, shape), part in zip(pairs, flat.split(sizes), strict=True):
        yield name, own.lend(part).view(shape)
