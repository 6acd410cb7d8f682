"""An actor's tensors in host memory while somebody else has the device, and back, to the bit.

Whole storages are moved: copied to the host and resized to nothing, later resized again and filled. What is a view of
one (the optimizer's fp32 shards of fp32 parameters, gradients and parameters of DDP's flat buffers, its buckets) is one
afterwards, too. Megatron-Core has three such functions, of which one serves here:

- DistributedDataParallel.offload_grad_buffers: gradients are zeroed before use, so it only frees them.
- Not _ParamAndGradBuffer.offload_to_cpu for parameters: it makes a pageable copy first and pins that, which is twice
  the host memory for a moment, and it needs CUDA.
- Not MegatronOptimizer.offload_to_cpu: it gives each shard a new tensor. fp32 parameters have shards that are views of
  the model's, and the optimizer would from then on train a copy that no forward pass reads.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Kind = Literal["gradients", "optimizer", "parameters"]
# torch rounds what it pins up to powers of two. In pieces only the last of each storage costs more than it holds.
_PIECE = 1 << 26


class Offload:
    """Moves the tensors of one rank of an actor between its device and host memory.

    Args:
        chunks: the model's chunks, wrapped in Megatron's DDP if it is trained.
        shards: the optimizer's `MainShards`; None for a model that is not trained.
        parameters: whether `offload` moves the parameters, and not only gradients, fp32 main shards and moments.
        settle: called before parameters are copied that may have changed, on every rank, so that all of them are there.
    """

    def __init__(
        self, chunks: list[torch.nn.Module], shards: Any | None, parameters: bool, settle: Callable[[], None]
    ) -> None:
        self._kinds: dict[Kind, _Storages | _Gradients] = {}
        self._settle = settle
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
        """Move everything to host memory that is to be there between updates. Called on every rank.

        Raises:
            RuntimeError: in the middle of something that uses it.
        """
        if self._in_use:
            raise RuntimeError("the actor's state cannot be moved to host memory in the middle of an update")
        self._away([name for name in self._kinds if name != "parameters" or self._moves_parameters])

    def reload(self) -> None:
        """Bring everything back."""
        self._back(self._kinds)

    @contextmanager
    def present(self, *kinds: Kind, changes: bool = False) -> Iterator[None]:
        """Have something on the device until the block ends, and then leave it where it was.

        Args:
            kinds: what; everything if none is named.
            changes: whether it may have other values afterwards.
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
        self._away(absent)  # after a failure it stays: nothing is lost by that

    def _may_change(self, names: Iterable[Kind]) -> None:
        for name in names:
            self._kinds[name].is_copied = False

    def _away(self, names: list[Kind]) -> None:
        there = [name for name in names if not self._kinds[name].is_away]
        if not there:
            return
        if "parameters" in there and not self._kinds["parameters"].is_copied:
            self._settle()
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
    """DDP's gradient buffers, which are zero when they come back."""

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
        sizes = [[len(piece) for piece in pieces] for pieces in self._copies]
        wanted = [[len(piece) for piece in _pieces(storage)] for storage in self._storages]
        if sizes != wanted:
            self._copies = [[_host_bytes(piece) for piece in _pieces(storage)] for storage in self._storages]
        for storage, copies in zip(self._storages, self._copies, strict=True):
            for piece, copy in zip(_pieces(storage), copies, strict=True):
                copy.copy_(piece, non_blocking=True)
        self.is_copied = True

    def free(self) -> None:
        for storage in self._storages:
            storage.resize_(0)
        self.is_away = True

    def bring_back(self) -> None:
        for storage, copies in zip(self._storages, self._copies, strict=True):
            storage.resize_(sum(len(copy) for copy in copies))
            for piece, copy in zip(_pieces(storage), copies, strict=True):
                piece.copy_(copy, non_blocking=True)
        self.is_away = False


def _parameter_tensors(chunks: list[torch.nn.Module]) -> Iterator[torch.Tensor]:
    for chunk in chunks:
        for parameter in chunk.parameters():
            yield parameter.detach()


def _optimizer_tensors(chunks: list[torch.nn.Module], shards: Any) -> Iterator[torch.Tensor]:
    """fp32 main shards, but for those that are views of fp32 parameters, and Adam's moments."""
    parameters = {_identity(tensor) for tensor in _parameter_tensors(chunks)}
    for shard in shards.shards():
        weight = shard.weight.detach()
        if _identity(weight) not in parameters:
            yield weight
        yield from (value for value in shard.state.values() if isinstance(value, torch.Tensor) and value.dim() > 0)


def _identity(tensor: torch.Tensor) -> int:
    """What tells storages apart, also those that are freed."""
    return tensor.untyped_storage()._cdata


def _pieces(storage: torch.UntypedStorage) -> tuple[torch.Tensor, ...]:
    """A storage's bytes, uint8, as views of `_PIECE` elements and what is left."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).split(_PIECE)


def _host_bytes(piece: torch.Tensor) -> torch.Tensor:
    return torch.empty(len(piece), dtype=torch.uint8, pin_memory=piece.is_cuda)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
