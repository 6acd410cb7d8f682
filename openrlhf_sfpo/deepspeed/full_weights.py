"""The whole weights of a DeepSpeed engine, tensor by tensor, as vLLM engines receive them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class FullWeights:
    """A `weight_sync.WeightProducer`: a stream of full tensors, whose ZeRO partitions are gathered one after another.

    Args:
        engine: what `deepspeed.initialize` returned, on CPU.
        weight_bucket_bytes: size of the buckets in shared memory that the weights are sent in.
    """

    device: Literal["cpu", "cuda"] = "cpu"

    def __init__(self, engine: "DeepSpeedEngine", weight_bucket_bytes: int) -> None:
        self._engine = engine
        self.weight_bucket_bytes = weight_bucket_bytes

    def weight_metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, dtype and shape of each tensor, in the order of `export`."""
        parameters = self._engine.module.named_parameters()
        return [(name, p.dtype, tuple(getattr(p, "ds_shape", p.shape))) for name, p in parameters]

    def export(self, everyone: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors. Gathering them is a collective, so every rank must exhaust the iterator."""
        from deepspeed import zero

        for name, parameter in self._engine.module.named_parameters():
            with zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                yield name, parameter.detach().clone()
