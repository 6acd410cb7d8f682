"""Sending the actor's weights to the vLLM engines, with vLLM's native weight-transfer protocol."""

import time
from collections.abc import Iterator
from typing import Any

import torch

from openrlhf_sfpo.ports import free_port
from openrlhf_sfpo.rollout.plugin import SHARED_MEMORY, register


def backend_for(device: str) -> str:
    """The transfer backend that fits: NCCL between GPUs, shared memory where there are none."""
    return "nccl" if device == "cuda" else SHARED_MEMORY


class WeightSync:
    """Keeps vLLM engines in line with a Megatron actor. Created and called on every rank of the actor.

    Args:
        actor: a `MegatronActor`.
        engines: Ray handles of the engine actors.
        engine_workers: vLLM workers over all engines (engines x their tensor-parallel size).
        master_address: address of rank 0, where the NCCL rendezvous is.
    """

    def __init__(self, actor: Any, engines: list[Any], engine_workers: int, master_address: str) -> None:
        from vllm.distributed.weight_transfer import RayVLLMWeightSyncClient, WeightTransferTrainerFactory

        register()
        self._engines = engines
        rank = torch.distributed.get_rank()
        init_info = _init_info(actor.settings, rank, engine_workers, master_address)
        self._client = CountingClient(RayVLLMWeightSyncClient(engines))
        self._source = _weight_source(actor)
        self._engine = WeightTransferTrainerFactory.trainer_init(init_info, client=self._client, source=self._source)

    def send(self, number: int = 0) -> dict[str, float]:
        """Send all weights; return how long it took and how many bytes and calls, as rank 0 saw it.

        Args:
            number: of updates that made these weights.
        """
        import ray

        started = time.perf_counter()
        self._client.updates = 0
        self._engine.send_weights()
        if torch.distributed.get_rank() == 0:
            ray.get([engine.weights_are.remote(number) for engine in self._engines])
        torch.distributed.barrier()
        return {
            "time/weight_sync": time.perf_counter() - started,
            "weight_sync/bytes": float(self._source.total_bytes),
            "weight_sync/updates": float(self._client.updates),
        }

    def follow(self, actor: Any) -> None:
        """From now on send the weights of another actor, of the same model in the same layout."""
        self._source.actor = actor

    def restart_engines(self, seed: int) -> None:
        """Have the engines be as after their start, but for the weights. Call it on one rank."""
        import ray

        ray.get([engine.restart.remote(seed, index) for index, engine in enumerate(self._engines)])

    def reset_prefix_caches(self) -> None:
        """Forget cached prefixes, which were computed with the old weights. Call it on one rank."""
        import ray

        ray.get([engine.reset_prefix_cache.remote() for engine in self._engines])


class CountingClient:
    """Passes vLLM's four control calls on and counts the updates, of which there should be few."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.updates = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._client.init_weight_transfer_engine(init_info)

    def start_weight_update(self) -> None:
        self._client.start_weight_update()

    def update_weights(self, update_info: Any) -> None:
        self.updates += 1
        self._client.update_weights(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._client.finish_weight_update(weight_version)


def _weight_source(actor: Any) -> Any:
    """The actor's weights as a vLLM `WeightSource`."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class MegatronSource(WeightSource):
        """Streams Hugging Face tensors; gathering them is a collective, and only rank 0 gets them."""

        def __init__(self) -> None:
            self.actor = actor

        @property
        def total_bytes(self) -> int:
            return sum(torch.Size(meta.shape).numel() * meta.dtype.itemsize for meta in self.metadata())

        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(*meta) for meta in self.actor.weights.metadata()]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return self.actor.export()

    return MegatronSource()


def _init_info(settings: Any, rank: int, engine_workers: int, master_address: str) -> Any:
    if backend_for(settings.device) == SHARED_MEMORY:
        from openrlhf_sfpo.rollout.shared_memory import SharedMemoryTrainerInitInfo

        return SharedMemoryTrainerInitInfo(bucket_bytes=settings.weight_bucket_bytes, rank=rank)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo(
        master_address=master_address,
        master_port=free_port(""),  # only rank 0 uses it
        world_size=engine_workers + 1,
        packed=True,
        packed_buffer_size_bytes=settings.weight_bucket_bytes,
        rank=rank,
    )
