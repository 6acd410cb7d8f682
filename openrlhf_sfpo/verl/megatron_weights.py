"""The weights of verl's Megatron engine."""

from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.megatron.train.main_parameters import MainShards
from openrlhf_sfpo.sfpo import Part

if TYPE_CHECKING:
    from openrlhf_sfpo.megatron.weights.export import WeightExchange


class MegatronWeights(MainShards):
    """`sfpo.OwnedWeights` over the distributed optimizer of verl's Megatron engine. Tensors have no names here, which
    only predictions need."""

    def __init__(self, engine: Any) -> None:
        module = engine.module if isinstance(engine.module, list) else [engine.module]
        nothing: WeightExchange = None  # type: ignore[assignment]
        super().__init__(engine.optimizer, module, nothing)

    def tensors(self) -> dict[str, int]:
        raise NotImplementedError("predictions are refused with this engine")

    def parts(self) -> list[list[Part]]:
        raise NotImplementedError("predictions are refused with this engine")
