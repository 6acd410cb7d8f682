"""Moves an actor's tensors to host memory while another process uses the device, and back, bit for bit.

Whole storages are moved: copied to the host and resized to zero, later resized again and filled. Views of a storage
(the optimizer's fp32 shards of fp32 parameters, gradients and parameters of DDP's flat buffers, its buckets) stay
views. Megatron-Core has three functions for this, and only the first is usable here:

- DistributedDataParallel.offload_grad_buffers: gradients are zeroed before use, so it only frees them.
- _ParamAndGradBuffer.offload_to_cpu, for parameters: it makes a pageable copy first and pins that, which briefly takes
  twice the host memory, and it needs CUDA.
- MegatronOptimizer.offload_to_cpu: it gives each shard a new tensor. The shards of fp32 parameters are views of the
  model's, and the optimizer would then train a copy that no forward pass reads.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from openrlhf_sfpo.megatron.train.main_parameters import MainShards

Kind = Literal["gradients", "optimizer", "parameters"]
# torch rounds pinned allocations up to powers of two. If a storage is copied in slices, only the last wastes memory.
_SLICE = 1 << 26


class Offload:
    """Moves the tensors of one rank of an actor between its device and host memory.

    Args:
        chunks: the model's chunks, wrapped in Megatron's DDP if it is trained.
        shards: the optimizer's `MainShards`; None for a model that is not trained.
        parameters: whether `offload` moves the parameters, and not only gradients, fp32 main shards and moments.
        finish_param_gather: called on every rank before copying parameters that may have changed; completes the
            gathering of the updated parameters.
    """

    def __init__(
        self,
        chunks: list[torch.nn.Module],
        shards: "MainShards | None",
        parameters: bool,
        finish_param_gather: Callable[[], None],
    ) -> None:
        self._kinds: dict[Kind, _Storages | _Gradients] = {}
        self._finish_param_gather = finish_param_gather
        self._moves_parameters = parameters
        self._in_use = 0
        if shards is not None:
            self._kinds["gradients"] = _Gradients(chunks)
            self._kinds["optimizer"] = _Storages(lambda: _optimizer_tensors(chunks, shards))
        self._kinds["parameters"] = _Storages(lambda: _parameter_tensors(chunks))

    @property
    def is_away(self) -> bool:
        """Whether anything is in host memory."""
        return any(kind.is_away for kind in self._kinds.values())

    def offload(self) -> None:
        """Move the gradients and the optimizer's state, and the parameters if so configured, to host memory. Called on
        every rank.

        Raises:
            RuntimeError: the state is in use.
        """
        if self._in_use:
            raise RuntimeError("the actor's state cannot be moved to host memory in the middle of an update")
        self._away([name for name in self._kinds if name != "parameters" or self._moves_parameters])

    def reload(self) -> None:
        """Reload the offloaded state."""
        self._back(self._kinds)

    @contextmanager
    def present(self, *kinds: Kind, changes: bool = False) -> Iterator[None]:
        """Reload the given kinds for the duration of the block, then put them back where they were.

        Args:
            kinds: what to reload; everything by default.
            changes: whether the block may change the values.
        """
        wanted = [name for name in self._kinds if not kinds or name in kinds]
        absent = [name for name in wanted if self._kinds[name].is_away]
        self._back(absent)
        if changes:
            self._may_change(wanted)
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1
        self._away(absent)  # after an exception it stays on the device, which is harmless

    def _may_change(self, names: Iterable[Kind]) -> None:
        for name in names:
            self._kinds[name].is_copied = False

    def _away(self, names: list[Kind]) -> None:
        there = [name for name in names if not self._kinds[name].is_away]
        if not there:
            return
        if "parameters" in there and not self._kinds["parameters"].is_copied:
            self._finish_param_gather()
        for name in there:
            self._kinds[name].copy()
        _synchronize()
        for name in there:
            self._kinds[name].free()
        torch.cuda.empty_cache()

    def _back(self, names: Iterable[Kind]) -> None:
        absent = [name for name in names if self._kinds[name].is_away]
        for name in absent:
            self._kinds[name].bring_back()
        if absent:
            _synchronize()


class _Gradients:
    """DDP's gradient buffers. They are zero after a reload."""

    is_copied = True

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = chunks
        self.is_away = False

    def copy(self) -> None:
        pass

    def free(self) -> None:
        for chunk in self._chunks:
            chunk.offload_grad_buffers(synchronize=False, empty_cache=False)
        self.is_away = True

    def bring_back(self) -> None:
        for chunk in self._chunks:
            chunk.restore_grad_buffers(synchronize=False)
        self.is_away = False


class _Storages:
    """The storages of some tensors, with their copies on the host.

    Attributes:
        is_away: whether they are freed on the device.
        is_copied: whether the copies hold what the device holds or held.
    """

    def __init__(self, tensors: Callable[[], Iterable[torch.Tensor]]) -> None:
        self._tensors = tensors
        self._storages: list[torch.UntypedStorage] = []
        self._copies: list[list[torch.Tensor]] = []
        self.is_away = self.is_copied = False

    def copy(self) -> None:
        if self.is_copied:
            return
        self._storages = list({_identity(tensor): tensor.untyped_storage() for tensor in self._tensors()}.values())
        sizes = [[len(part) for part in slices] for slices in self._copies]
        wanted = [[len(part) for part in _slices(storage)] for storage in self._storages]
        if sizes != wanted:
            self._copies = [[_host_bytes(part) for part in _slices(storage)] for storage in self._storages]
        for storage, copies in zip(self._storages, self._copies, strict=True):
            for part, copy in zip(_slices(storage), copies, strict=True):
                copy.copy_(part, non_blocking=True)
        self.is_copied = True

    def free(self) -> None:
        for storage in self._storages:
            storage.resize_(0)
        self.is_away = True

    def bring_back(self) -> None:
        for storage, copies in zip(self._storages, self._copies, strict=True):
            storage.resize_(sum(len(copy) for copy in copies))
            for part, copy in zip(_slices(storage), copies, strict=True):
                part.copy_(copy, non_blocking=True)
        self.is_away = False


def _parameter_tensors(chunks: list[torch.nn.Module]) -> Iterator[torch.Tensor]:
    for chunk in chunks:
        for parameter in chunk.parameters():
            yield parameter.detach()


def _optimizer_tensors(chunks: list[torch.nn.Module], shards: "MainShards") -> Iterator[torch.Tensor]:
    """fp32 main shards, except those that are views of fp32 parameters, and Adam's moments."""
    parameters = {_identity(tensor) for tensor in _parameter_tensors(chunks)}
    for shard in shards.shards():
        weight = shard.weight.detach()
        if _identity(weight) not in parameters:
            yield weight
        yield from (value for value in shard.state.values() if isinstance(value, torch.Tensor) and value.dim() > 0)


def _identity(tensor: torch.Tensor) -> int:
    """Identifies a storage, even after it has been freed."""
    return tensor.untyped_storage()._cdata


def _slices(storage: torch.UntypedStorage) -> tuple[torch.Tensor, ...]:
    """A storage's bytes, uint8, as views of `_SLICE` elements each, the last of them shorter."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).split(_SLICE)


def _host_bytes(part: torch.Tensor) -> torch.Tensor:
    return torch.empty(len(part), dtype=torch.uint8, pin_memory=part.is_cuda)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
