"""Sends the weights of a model in training to the vLLM engines, with vLLM's native weight-transfer protocol."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from openrlhf_sfpo.rollout.engine_handle import EngineHandle
from openrlhf_sfpo.rollout.plugin import SHARED_MEMORY, prepare_vllm
from openrlhf_sfpo.system.ports import free_port
from openrlhf_sfpo.system.run_errors import WEIGHT_SYNC_HINT, WeightSyncFailed

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import ParamMeta


def backend_for(device: str, shared_gpus: bool) -> str:
    """The transfer backend: NCCL between GPUs, CUDA IPC handles between processes on the same GPU (which NCCL refuses),
    shared memory without GPUs."""
    if device != "cuda":
        return SHARED_MEMORY
    return "ipc" if shared_gpus else "nccl"


class WeightProducer(Protocol):
    """A model in training, as the source of the engines' weights. Every rank has one, and all make the same calls."""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device of the weights."""

    @property
    def weight_bucket_bytes(self) -> int:
        """The size of a bucket in bytes."""

    def weight_metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Hugging Face name, dtype and shape of each tensor, in the order of `export`."""

    def export(self, everyone: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Stream full tensors by name, to rank 0 or to `everyone`. Collective: every rank must exhaust the iterator."""


class WeightSync:
    """Keeps the weights of vLLM engines up to date with a model in training. Created and called on every rank of the
    model.

    Args:
        producer: the source of the weights.
        engines: Ray handles of the engine actors.
        engine_workers: vLLM workers over all engines (engines x their tensor-parallel size).
        master_address: address of rank 0, which hosts the NCCL rendezvous.
        timeout: seconds within which an engine must answer each call, --rollout.engine_timeout.
        shared_gpus: whether engines and actor share GPUs.
    """

    def __init__(
        self,
        producer: WeightProducer,
        engines: list[EngineHandle],
        engine_workers: int,
        master_address: str,
        timeout: float,
        shared_gpus: bool = False,
    ) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        prepare_vllm()
        self._engines = engines
        backend = backend_for(producer.device, shared_gpus)
        self._client = EngineClient(engines, timeout, engine_workers // len(engines))
        self._source = _weight_source(producer, everyone=backend == "ipc")
        init_info = _init_info(backend, self._source, engine_workers, master_address)
        self._engine = WeightTransferTrainerFactory.trainer_init(init_info, client=self._client, source=self._source)
        self._say(0)  # the engines have read the first weights from disk

    def send(self, number: int | None = 0) -> dict[str, float]:
        """Send all weights; return the seconds, bytes and calls, as measured on rank 0.

        Args:
            number: the weights' version (number of updates); None to resend weights that the engines discarded.

        Raises:
            WeightSyncFailed: on rank 0, if an engine is dead or did not answer in time. The other ranks then return if
                they only wait for the weights; between GPUs they also wait for the engines, and the watchdog must end
                the run.
        """
        import ray

        started = time.perf_counter()
        self._client.updates = 0
        self._source.stream = None
        failure: Exception | None = None
        try:
            self._engine.send_weights()
            if number is not None:
                self._say(number)
        except (WeightSyncFailed, ray.exceptions.RayError) as error:
            failure = error
            self._source.exhaust()
        torch.distributed.barrier()
        if failure is not None:
            raise failure
        return {
            "time/weight_sync": time.perf_counter() - started,
            "weight_sync/bytes": float(self._source.total_bytes),
            "weight_sync/updates": float(self._client.updates),
        }

    def _say(self, number: int) -> None:
        if torch.distributed.get_rank() == 0:
            self._client.weights_are(number)

    def follow(self, producer: WeightProducer) -> None:
        """From now on, send the weights of another actor, with the same model in the same layout."""
        self._source.producer = producer

    def restart_engines(self, seed: int) -> None:
        """Reset everything in the engines except the weights. To be called on one rank."""
        import ray

        ray.get([engine.restart.remote(seed, index) for index, engine in enumerate(self._engines)])

    def reset_prefix_caches(self) -> None:
        """Drop cached prefixes, which were computed with the old weights. To be called on one rank."""
        import ray

        ray.get([engine.reset_prefix_cache.remote() for engine in self._engines])


class EngineClient:
    """vLLM's four control calls, to Ray actors that must answer in time. Counts the update calls, of which there should
    be few.

    Args:
        engines: the actors' handles.
        timeout: seconds for each call.
        workers: per engine, its tensor-parallel size.
    """

    def __init__(self, engines: list[EngineHandle], timeout: float, workers: int) -> None:
        self._engines = engines
        self._timeout = timeout
        self._workers = workers
        self.updates = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        refs = []
        for index, engine in enumerate(self._engines):
            info = dict(init_info)
            if "rank_offset" in info:  # the first rank of its workers; vLLM's own client knows one engine
                info["rank_offset"] += index * self._workers
            refs.append(engine.init_weight_transfer_engine.remote(WeightTransferInitRequest(init_info=info)))
        self._wait("init_weight_transfer_engine", refs)

    def start_weight_update(self) -> None:
        self._call("start_weight_update")

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self.updates += 1
        self._call("update_weights", WeightTransferUpdateRequest(update_info=update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("finish_weight_update")

    def weights_are(self, number: int) -> None:
        """Tell the engines the version of their weights."""
        self._call("weights_are", number)

    def _call(self, method: str, *arguments: Any) -> None:
        self._wait(method, [getattr(engine, method).remote(*arguments) for engine in self._engines])

    def _wait(self, method: str, refs: list[Any]) -> None:
        import ray

        try:
            ray.get(refs, timeout=self._timeout)
        except ray.exceptions.GetTimeoutError:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            silent = ", ".join(str(index) for index, ref in enumerate(refs) if ref not in ready)
            raise WeightSyncFailed(
                f"the weight transfer hangs: engine {silent} has not carried out {method} for {self._timeout:.0f} s "
                f"(--rollout.engine_timeout). {WEIGHT_SYNC_HINT}"
            ) from None
        except ray.exceptions.RayActorError:
            raise WeightSyncFailed(f"an engine died while the weights were sent to it ({method})") from None


class _Source(Protocol):
    """The methods of a vLLM `WeightSource` that are used here."""

    producer: WeightProducer
    stream: Iterator[tuple[str, torch.Tensor]] | None

    def metadata(self) -> "list[ParamMeta]":
        """Name, dtype and shape of each tensor."""

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors by name."""

    @property
    def total_bytes(self) -> int:
        """The total size in bytes."""

    @property
    def largest_bytes(self) -> int:
        """The size of the largest tensor in bytes."""

    def exhaust(self) -> None:
        """Drain the stream so that the other ranks do not deadlock."""


def _weight_source(producer: WeightProducer, everyone: bool) -> _Source:
    """A model's weights as a vLLM `WeightSource`; with `everyone` all ranks receive them, not only rank 0."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class ProducerSource(WeightSource):
        """Streams the tensors of a `WeightProducer`, whichever actor it is of. Gathering them is a collective."""

        def __init__(self) -> None:
            self.producer = producer
            self.stream: Iterator[tuple[str, torch.Tensor]] | None = None

        @property
        def total_bytes(self) -> int:
            return sum(self._sizes())

        @property
        def largest_bytes(self) -> int:
            return max(self._sizes())

        def _sizes(self) -> list[int]:
            return [torch.Size(meta.shape).numel() * meta.dtype.itemsize for meta in self.metadata()]

        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(*meta) for meta in self.producer.weight_metadata()]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            self.stream = self.producer.export(everyone=everyone)
            return self.stream

        def exhaust(self) -> None:
            for _ in self.stream or self:
                pass

    return ProducerSource()


def _init_info(backend: str, source: _Source, engine_workers: int, master_address: str) -> Any:
    rank, bucket_bytes = torch.distributed.get_rank(), source.producer.weight_bucket_bytes
    if backend == SHARED_MEMORY:
        from openrlhf_sfpo.rollout.shared_memory import SharedMemoryTrainerInitInfo

        return SharedMemoryTrainerInitInfo(bucket_bytes=bucket_bytes, rank=rank)
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        # Each rank packs into its own buffer, which its GPU's engine reads; no tensor may be larger than the buffer.
        return IPCTrainerInitInfo(
            packed=True, packed_buffer_size_bytes=max(bucket_bytes, source.largest_bytes), rank=rank
        )
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo(
        master_address=master_address,
        master_port=free_port(""),  # only rank 0 uses it
        world_size=engine_workers + 1,
        packed=True,
        packed_buffer_size_bytes=bucket_bytes,
        rank=rank,
    )
