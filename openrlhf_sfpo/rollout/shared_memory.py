"""A vLLM weight-transfer engine for machines without GPUs: buckets pass through a file in shared memory.

The protocol is vLLM's own (init, start, one update per bucket, finish), so a run without GPUs takes the same path as
one with NCCL; only the transport differs.
"""

import fcntl
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.packed_tensor import pack_tensors, unpack_tensor

from openrlhf_sfpo.rollout.plugin import SHARED_MEMORY

_DIRECTORY = Path("/dev/shm")
_PREFIX = "openrlhf_sfpo_weights_"


@dataclass
class SharedMemoryInitInfo(WeightTransferInitInfo):
    """Empty: every update names its file."""


@dataclass
class SharedMemoryUpdateInfo(WeightTransferUpdateInfo):
    """One bucket: its file and how to split it, in the order of `names`."""

    path: str
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    tensor_sizes: list[int]


class SharedMemoryEngine(WeightTransferEngine[SharedMemoryInitInfo, SharedMemoryUpdateInfo]):
    """The receiving side, inside each vLLM worker."""

    init_info_cls = SharedMemoryInitInfo
    update_info_cls = SharedMemoryUpdateInfo

    def init_transfer_engine(self, init_info: SharedMemoryInitInfo) -> None:
        """Do nothing: there is no connection."""

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        # On CPU vLLM packs linear layers for its kernels; this unpacks them so that they can be loaded again.
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_output_layers()

    def _repack_tied_output_layers(self) -> None:
        """On CPU an output layer keeps a packed copy of its weight for the kernel. If it is tied to the embedding it
        receives no weights of its own, so vLLM would keep the old copy."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

        layers = [layer for layer in self.model.modules() if isinstance(layer, VocabParallelEmbedding)]
        embeddings = {
            layer.get_parameter("weight").data_ptr() for layer in layers if not isinstance(layer, ParallelLMHead)
        }
        for layer in layers:
            if isinstance(layer, ParallelLMHead) and layer.get_parameter("weight").data_ptr() in embeddings:
                layer.quant_method.process_weights_after_loading(layer)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class would synchronize the accelerator here; there is none.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: SharedMemoryUpdateInfo) -> None:
        """Copy a bucket out of shared memory and load it."""
        if not Path(update_info.path).exists():
            raise RuntimeError(
                f"{update_info.path} is not there: the shared-memory weight transfer needs trainer and engine on one "
                "machine. On several machines use GPUs, where weights travel by NCCL."
            )
        # vLLM loads a layer once all its weights have arrived, possibly after the file has been overwritten; hence the
        # copy.
        packed = _map(update_info.path, sum(update_info.tensor_sizes)).clone()
        dtypes = [getattr(torch, name) for name in update_info.dtype_names]
        weights = unpack_tensor(packed, update_info.names, update_info.shapes, dtypes, update_info.tensor_sizes)
        self.model.load_weights(weights)

    def shutdown(self) -> None:
        """Do nothing: no resources are held between updates."""


@dataclass
class SharedMemoryTrainerInitInfo(TrainerInitInfo):
    """`bucket_bytes`: the size of one update."""

    backend: ClassVar[str] = SHARED_MEMORY
    bucket_bytes: int


class SharedMemoryTrainerEngine(TrainerWeightTransferEngine[SharedMemoryTrainerInitInfo]):
    """The sending side. Rank 0 packs and sends; the other ranks only take part in gathering the weights."""

    init_info_cls = SharedMemoryTrainerInitInfo

    def __init__(
        self, *, client: VLLMWeightSyncClient, source: WeightSource, is_sender: bool, bucket_bytes: int
    ) -> None:
        super().__init__(client=client, source=source, is_sender=is_sender)
        self._bucket_bytes = bucket_bytes

    @classmethod
    def trainer_init(
        cls,
        init_info: SharedMemoryTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        if source is None:
            raise ValueError("the shared-memory weight transfer needs a WeightSource")
        engine = cls(client=client, source=source, is_sender=init_info.is_sender, bucket_bytes=init_info.bucket_bytes)
        if engine.is_sender:
            client.init_weight_transfer_engine({})
        return engine

    def send_weights(self) -> None:
        """One full transfer: start, one update per bucket, finish."""
        assert self.source is not None  # see trainer_init
        weights = iter(self.source)
        if not self.is_sender:
            for _ in weights:
                pass
            return
        self.client.start_weight_update()
        remove_leftovers()
        with tempfile.NamedTemporaryFile(dir=_DIRECTORY, prefix=_PREFIX) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # marks the file as in use
            for info in self._write_buckets(weights, file.name):
                self.client.update_weights(asdict(info))
        self.client.finish_weight_update()

    def _write_buckets(
        self, weights: Iterator[tuple[str, torch.Tensor]], path: str
    ) -> Iterator[SharedMemoryUpdateInfo]:
        """Write one bucket after another into the file; the receivers are done with one when `update_weights`
        returns."""
        while (bucket := pack_tensors(weights, lambda item: item[1], self._bucket_bytes)) is not None:
            _map(path, bucket.packed_tensor.numel()).copy_(bucket.packed_tensor)
            yield SharedMemoryUpdateInfo(
                path=path,
                names=bucket.names,
                dtype_names=[str(dtype).removeprefix("torch.") for dtype in bucket.dtypes],
                shapes=bucket.shapes,
                tensor_sizes=bucket.tensor_sizes,
            )


def remove_leftovers() -> None:
    """Remove the files of killed senders, which no process has locked."""
    for path in _DIRECTORY.glob(f"{_PREFIX}*"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A new file exists briefly before it is locked.
            if time.time() - path.stat().st_mtime > 10:
                path.unlink()


def _map(path: str, size: int) -> torch.Tensor:
    """The first `size` bytes of the file as a uint8 tensor that shares its memory; the file grows as needed."""
    return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
