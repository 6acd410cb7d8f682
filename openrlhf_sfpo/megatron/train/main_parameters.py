"""The fp32 main-parameter shards of Megatron's distributed optimizer, as SFPO needs them.

Everything here works on this rank's shard; only `refresh`, `reduce` and `momentum_grad_cosine` communicate. With bf16
parameters the shards are the optimizer's fp32 copies; with fp32 parameters they are views of the parameters themselves.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared

from openrlhf_sfpo.megatron.weights.export import WeightExchange
from openrlhf_sfpo.megatron.weights.shard_slices import ShardSlice
from openrlhf_sfpo.sfpo import Part, Shard
from openrlhf_sfpo.sfpo.steps import cosine_of, inner_products
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS
from openrlhf_sfpo.system.replacements import replaced_on

if TYPE_CHECKING:
    from megatron.core.distributed import DistributedDataParallel
    from megatron.core.optimizer.optimizer import MegatronOptimizer

    class TrainedParameter(torch.nn.Parameter):
        """A parameter with the attributes that Megatron's DDP adds."""

        main_grad: torch.Tensor


_REFUSAL = "SFPO does not work with {} yet: its main parameters are not repositioned. Turn it off."


_PARAM_SYNC = ON_OBJECTS["megatron.core.distributed.distributed_data_parallel.DistributedDataParallel.start_param_sync"]


class MainShards:
    """`sfpo.OwnedWeights` over the main-parameter shards of a Megatron optimizer.

    Args:
        optimizer: from `get_megatron_optimizer`.
        chunks: the DDP-wrapped model chunks that it updates.
        weights: knows which Hugging Face tensors the parameters hold.

    Raises:
        ValueError: the optimizer keeps its main parameters in an unsupported place.
    """

    def __init__(
        self, optimizer: "MegatronOptimizer", chunks: "list[DistributedDataParallel]", weights: WeightExchange
    ) -> None:
        self._children: list[DistributedOptimizer] = [
            child
            for child in getattr(optimizer, "chained_optimizers", [optimizer])
            if not getattr(child, "is_stub_optimizer", False)
        ]
        self._chunks = chunks
        self._weights = weights
        for child in self._children:
            _refuse_unhandled(child)
        for name, setting in (("FP8", "fp8_param"), ("FP4", "fp4_param")):
            if any(getattr(chunk.config, setting, False) for chunk in chunks):
                raise ValueError(_REFUSAL.format(f"{name} parameters"))

    def pairs(self) -> Iterator[tuple[DistributedOptimizer, "TrainedParameter", torch.Tensor]]:
        """(optimizer, model parameter, this rank's fp32 shard of it), in a fixed order."""
        for child in self._children:
            sixteen_bit = zip(child.model_float16_groups, child.shard_fp32_from_float16_groups, strict=True)
            thirty_two_bit = zip(child.model_fp32_groups, child.shard_fp32_groups, strict=True)
            for groups in (sixteen_bit, thirty_two_bit):
                for parameters, shards in groups:
                    for parameter, shard in zip(parameters, shards, strict=True):
                        yield child, parameter, shard

    def shards(self) -> Iterator[Shard]:
        for child, _, shard in self.pairs():
            yield Shard(shard, child.optimizer, _counts_once(child, shard))

    def tensors(self) -> dict[str, int]:
        return {name: math.prod(shape) for name, _, shape in self._weights.metadata()}

    def parts(self) -> list[list[Part]]:
        return [
            [Part(one.name, one.start, math.prod(one.size)) for one in self.slices_of(child, parameter)]
            for child, parameter, _ in self.pairs()
        ]

    def slices_of(self, child: DistributedOptimizer, parameter: torch.nn.Parameter) -> list[ShardSlice]:
        """The rectangles of Hugging Face tensors in this rank's shard of a parameter."""
        owned = child._get_model_param_range_map(parameter)["param"]
        return self._weights.slices_of(parameter, owned.start, owned.end)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the main parameters into the parameters of the next forward pass, gathered over data-parallel ranks.

        With overlap_param_gather the optimizer step leaves the all-gather to the next forward pass; so does this
        method.
        """
        for child in self._children:
            child._copy_main_params_to_model_params()
        for chunk in self._chunks:
            if not chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync()

    @contextmanager
    def gather_skipped(self) -> Iterator[None]:
        """Skip the gathering of parameters after optimizer steps in the block, because `refresh` follows."""
        with ExitStack() as stack:
            for chunk in self._chunks:
                stack.enter_context(replaced_on(_PARAM_SYNC, chunk, lambda *args, **kwargs: None))
            yield

    def reduce(self, values: list[float], op: Literal["sum", "max"]) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(reduced, op=dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)
        return reduced.tolist()

    @torch.no_grad()
    def momentum_grad_cosine(self) -> float:
        """Cosine between Adam's first moments and the gradients in the DDP buffers, over all ranks.

        Call it after the gradients are reduced and before the optimizer step. Clipping does not change the result,
        which is 0 before the first optimizer step.
        """
        sums = torch.zeros(3, dtype=torch.float64)
        for child, parameter, shard in self.pairs():
            state = child.optimizer.state.get(shard)
            if not state or "exp_avg" not in state or not _counts_once(child, shard):
                continue
            owned = child._get_model_param_range_map(parameter)["param"]
            grad = parameter.main_grad.view(-1)[owned.start : owned.end].float()
            sums += inner_products(state["exp_avg"].view(-1), grad).cpu()
        return cosine_of(sums, self, undefined=0.0)


def _counts_once(child: DistributedOptimizer, shard: torch.Tensor) -> bool:
    """Whether this rank's shard counts in norms: not if it is a copy of tied embeddings, or replicated over
    tensor-parallel ranks."""
    return param_is_not_shared(shard) and param_is_not_tensor_parallel_duplicate(
        shard, getattr(child, "tp_group", None)
    )


def _refuse_unhandled(child: "MegatronOptimizer") -> None:
    """Refuse optimizers that keep (a copy of) the main parameters where a blend of the shards would not reach it."""
    if not isinstance(child, DistributedOptimizer):
        raise ValueError(
            f"SFPO moves the shards of Megatron's distributed optimizer, and this one is a {type(child).__name__}. "
            "Set use_distributed_optimizer=True in OptimizerConfig and DistributedDataParallelConfig, with adam."
        )
    config, ddp = child.config, child.ddp_config
    refusals = {
        "the precision-aware optimizer": config.use_precision_aware_optimizer,
        "optimizer CPU offload (HybridDeviceOptimizer)": config.optimizer_cpu_offload,
        "FP8 parameter gather": ddp.fp8_param_gather,
        "Megatron-FSDP": ddp.use_megatron_fsdp,
    }
    for name, used in refusals.items():
        if used:
            raise ValueError(_REFUSAL.format(name))
