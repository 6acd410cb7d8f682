"""The fp32 partitions of a DeepSpeed ZeRO optimizer, as SFPO needs them.

ZeRO keeps fp32 copies of the weights in addition to the (16-bit) parameters of the forward pass; each rank holds its
partition of every parameter group. The optimizer step reads only the copies: changes to the parameters alone are lost,
and changes to the copies alone are not seen by the next forward pass. All of it is DeepSpeed's private state;
`tests/deepspeed/test_zero.py` checks for each stage that it is where this file expects it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from openrlhf_sfpo.sfpo import Part, Shard
from openrlhf_sfpo.sfpo.steps import cosine_of, inner_products, watching_steps
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS, RELIED_ON
from openrlhf_sfpo.system.replacements import check_library, replaced_on

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class ZeroWeights:
    """`sfpo.OwnedWeights` over the optimizer of a DeepSpeed engine.

    Args:
        engine: what `deepspeed.initialize` returned, with ZeRO stage 1, 2 or 3.

    Raises:
        ValueError: the optimizer keeps its fp32 weights in an unsupported place.
    """

    def __init__(self, engine: "DeepSpeedEngine") -> None:
        check_library("deepspeed", RELIED_ON)
        self._engine = engine
        self._zero = engine.optimizer
        name = type(self._zero).__name__
        if name not in _PARTITIONS:
            raise ValueError(
                f"SFPO moves the fp32 partitions of ZeRO stage 1, 2 or 3, and this optimizer is a {name}. "
                "Choose one of these stages."
            )
        if getattr(self._zero, "swap_optimizer", False):
            raise ValueError("SFPO does not work with an optimizer on NVMe: its weights are not there to be moved.")
        self._partitions: list[torch.Tensor] = getattr(self._zero, _PARTITIONS[name])
        if any(partition.dtype != torch.float32 for partition in self._partitions):
            raise ValueError("SFPO needs fp32 weights in the optimizer: in 16 bits small updates are lost.")
        self.optimizer: torch.optim.Optimizer = self._zero.optimizer

    def shards(self) -> Iterator[Shard]:
        # The ranks' partitions are disjoint; the padding at their ends stays zero.
        return (Shard(partition, self.optimizer) for partition in self._partitions)

    def tensors(self) -> dict[str, int]:
        return {
            name: getattr(parameter, "ds_numel", parameter.numel())  # in stage 3 a parameter itself may be empty
            for name, parameter in self._trained()
        }

    def parts(self) -> list[list[Part]]:
        names = {id(parameter): name for name, parameter in self._trained()}
        found: list[list[Part]] = [[] for _ in self._partitions]
        if hasattr(self._zero, "grad_position"):  # stage 3
            for group in self._zero.fp16_groups:
                for parameter in group:
                    index, start, length = self._zero.grad_position[self._zero.get_param_id(parameter)]
                    found[index].append(Part(names[id(parameter)], start, length))
            return found
        for index, group in enumerate(getattr(self._zero, _GROUPS[type(self._zero).__name__])):
            for parameter in group:
                if parameter._hp_mapping is not None:  # else none of it is in this rank's partition
                    address = parameter._hp_mapping.get_hp_fragment_address()
                    found[index].append(Part(names[id(parameter)], address.start, address.numel))
        return found

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, one) for name, one in self._engine.module.named_parameters() if one.requires_grad)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the fp32 partitions into the parameters of every rank."""
        if not hasattr(self._zero, "persistent_parameters"):
            self._zero.update_lp_params()
            return
        # Stage 3. Parameters that a forward pass left gathered would keep their old values. Small ones stay gathered
        # permanently ("persistent"), so they are gathered again at the end.
        self._zero._partition_all_parameters()
        for index in range(len(self._partitions)):
            self._zero._reassign_or_swap_out_partitioned_parameters(index)
        persistent = self._zero.persistent_parameters
        if persistent:
            persistent[0].all_gather(persistent)
        self._zero.invalidate_secondary_tensor()

    def reduce(self, values: list[float], op: Literal["sum", "max"]) -> list[float]:
        from deepspeed.accelerator import get_accelerator

        # NCCL cannot reduce a tensor in host memory, where an offloaded optimizer has its partitions.
        reduced = torch.tensor(values, dtype=torch.float64, device=get_accelerator().current_device_name())
        dist.all_reduce(reduced, op=dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)
        return reduced.tolist()

    @contextmanager
    def before_steps(self, prepare: Callable[[], Callable[[], None]]) -> Iterator[None]:
        """Inside the block, call `prepare` before each optimizer step, once the reduced gradients exist, and the
        function that it returns after the step. Micro-batches that only accumulate gradients are not steps."""
        original = self._zero.step

        def step(*args: Any, **kwargs: Any) -> Any:
            finish = prepare()
            try:
                return original(*args, **kwargs)
            finally:
                finish()

        entry = ON_OBJECTS["deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.step"]
        with replaced_on(entry, self._zero, step):
            yield

    @contextmanager
    def momentum_grad_cosine(self) -> Iterator[Callable[[], float]]:
        """Compare momentum and gradient in the first optimizer step in the block.

        Yields:
            A function that returns the cosine between Adam's first moments and the step's gradients over all ranks, 0
            without moments. Every rank calls it once, after the step. Clipping does not change the result.
        """
        sums = torch.zeros(3, dtype=torch.float64)
        seen: set[int] = set()

        def see(number: int, optimizer: torch.optim.Optimizer, group: dict[str, Any], grad: torch.Tensor) -> None:
            momentum = optimizer.state.get(self._partitions[number], {}).get("exp_avg")
            if momentum is not None and number not in seen:
                seen.add(number)
                sums.add_(inner_products(momentum.view(-1), grad.float()).cpu())

        with watching_steps(self, see):
            yield lambda: cosine_of(sums, self, undefined=0.0)


# The attributes of DeepSpeed's ZeRO optimizers with this rank's fp32 partitions.
_PARTITIONS = {
    "DeepSpeedZeroOptimizer": "single_partition_of_fp32_groups",  # stages 1 and 2
    "DeepSpeedZeroOptimizer_Stage3": "fp32_partitioned_groups_flat",
    "BF16_Optimizer": "fp32_groups_flat_partition",  # stage 1 with gradients accumulated in fp32
}

# Those with the parameters of each group, of stages 1 and 2.
_GROUPS = {"DeepSpeedZeroOptimizer": "bit16_groups", "BF16_Optimizer": "bf16_groups"}
