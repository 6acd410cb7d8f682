"""A rollout batch on its way through the actor: divided into train batches and micro-batches, results given back."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from openrlhf_sfpo.megatron.data.batching import MicroBatch, PackSharding, Sample, exchange, pack, plan_micro_batches
from openrlhf_sfpo.megatron.train.pipeline import LossFunction, LossNorm


class RolloutBatch:
    """A rollout batch spread over data-parallel ranks: who computes what, and getting results back to the owners.

    Args:
        actor: a `MegatronActor`.
        samples: those of this rank's model copy.
    """

    def __init__(self, actor: Any, samples: list[Sample]) -> None:
        self._device = actor.settings.device
        self._group = parallel_state.get_data_parallel_group_gloo()
        self._rank = self._group.rank()
        by_rank = exchange(samples, self._group)
        self._first = sum(len(rank) for rank in by_rank[: self._rank])
        self._count = len(samples)
        self._samples = [sample for rank in by_rank for sample in rank]
        self._captured: dict[int, torch.Tensor] = {}
        self._plan = plan_micro_batches(
            [[len(sample.tokens) for sample in rank] for rank in by_rank],
            actor.settings.train_batch_size,
            actor.settings.max_tokens_per_gpu * actor.layout.cp,
            multiple_of=actor.layout.pp if actor.layout.vpp > 1 else 1,
        )
        self._sharding = PackSharding(
            actor.layout.cp,
            parallel_state.get_context_parallel_rank(),
            actor.layout.tp if actor.settings.sequence_parallel else 1,
        )

    @property
    def num_steps(self) -> int:
        """Train batches, that is optimizer steps in one traversal."""
        return len(self._plan)

    @property
    def lacks_old_log_probs(self) -> bool:
        """Whether they are those of the first optimizer step, which is made with theta_0."""
        return any(sample.old_log_probs is None for sample in self._samples)

    def length(self, number: int) -> int:
        return len(self._samples[number].tokens)

    def micro_batches(self, step: int) -> tuple[list[list[int]], list[MicroBatch]]:
        """This rank's micro-batches of a train batch: the numbers of their samples, and the packed tensors with the old
        log-probabilities that were noted."""
        numbers = self._plan[step][self._rank]
        packs = [pack([self._samples[n] for n in members], self._device, self._sharding) for members in numbers]
        for index, old in self._captured.items():
            packs[index].floats["old_log_probs"] = old
        return numbers, packs

    def capturing_old_log_probs(
        self,
        loss_function: LossFunction,
        batches: list[MicroBatch],
        add_entropies: Callable[[torch.Tensor], None],
    ) -> LossFunction:
        """A loss function for the first optimizer step, which notes its log-probabilities as the old ones.

        Args:
            loss_function: the loss.
            batches: the step's micro-batches.
            add_entropies: takes the entropies of the scored positions, fp32 [n].
        """

        def capturing(log_probs: torch.Tensor, entropy: torch.Tensor, batch: MicroBatch, norm: LossNorm) -> Any:
            index = next(number for number, one in enumerate(batches) if one is batch)
            batch.floats["old_log_probs"] = self._captured[index] = log_probs.detach()
            add_entropies(entropy.detach()[batch.rows, batch.columns])
            return loss_function(log_probs, entropy, batch, norm)

        return capturing

    def norm(self, step: int) -> LossNorm:
        """Totals of a train batch over all ranks."""
        masks = [
            self._samples[number].action_mask for rank in self._plan[step] for members in rank for number in members
        ]
        return LossNorm(
            num_tokens=max(1.0, float(sum(int(mask.sum()) for mask in masks))),
            num_sequences=max(1.0, float(sum(bool(mask.any()) for mask in masks))),
        )

    def to_owners(self, values: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        """Results by sample number, known on last stages, as a list of this rank's own samples on every stage."""
        pipeline = parallel_state.get_pipeline_model_parallel_group()
        shared = [values]
        if pipeline.size() > 1:
            source = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast_object_list(shared, src=source, group=pipeline, device=torch.device("cpu"))
        if self._group.size() == 1:
            everything = shared[0]
        else:
            parts: list[dict[int, torch.Tensor]] = [{} for _ in range(self._group.size())]
            dist.all_gather_object(parts, shared[0], group=self._group)
            everything = {number: value for part in parts for number, value in part.items()}
        return [everything[number] for number in range(self._first, self._first + self._count)]
