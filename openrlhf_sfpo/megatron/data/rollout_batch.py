"""One step's rollout batch: divides it into train batches and micro-batches, moves samples to the ranks that train on
them, packs and uploads them once for all passes, and returns results to the owners."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from openrlhf_sfpo.megatron.data.batching import (
    FLOAT_FIELDS,
    MicroBatch,
    PackSharding,
    Sample,
    pack,
    per_position,
    plan_micro_batches,
    plan_train_batches,
)
from openrlhf_sfpo.megatron.data.exchange import BatchSizes, Route, gather_sizes
from openrlhf_sfpo.megatron.data.loss_types import LossFunction, LossNorm
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.settings import ActorSettings
from openrlhf_sfpo.sfpo import Choice


class RolloutBatch:
    """A rollout batch distributed over data-parallel ranks. Created on every rank.

    Args:
        layout, settings: the actor's.
        samples: those of this rank's model copy.
        scored: the batch used for the old log-probabilities. If its tokens are the same on every rank, they are not
            moved and packed again; only the per-position fields are.
        choose: take only a part of each train batch; see `sfpo.Pass`. Without `scored`.
        whole_divisors: see `sfpo.Pass`.

    Attributes:
        moved: bytes that this rank has sent to other data-parallel ranks.
    """

    def __init__(
        self,
        layout: Layout,
        settings: ActorSettings,
        samples: Sequence[Sample],
        scored: "RolloutBatch | None" = None,
        choose: Choice | None = None,
        whole_divisors: bool = False,
    ) -> None:
        self._settings = settings
        self._group = parallel_state.get_data_parallel_group_gloo()
        self._rank = self._group.rank()
        self._own = list(samples)
        self._captured: dict[int, torch.Tensor] = {}
        self._packs: dict[tuple[int, int], MicroBatch] = {}
        self._packed_bytes = 0
        self._sharding = PackSharding(
            layout.cp,
            parallel_state.get_context_parallel_rank(),
            layout.tp if settings.sequence_parallel else 1,
        )
        self._sizes: BatchSizes = gather_sizes(self._own, self._group)
        self._lengths = self._sizes.flat_lengths
        self._train_batches = plan_train_batches(self._sizes.lengths, settings.train_batch_size)
        self._divided_by = self._train_batches
        self._weights: dict[int, float] = {}
        if choose is not None:
            self._take_part(choose, whole_divisors)
        kept = self._sizes.rewarded if settings.skip_zero_advantages else range(len(self._lengths))
        trained = [[number for number in batch if number in kept] for batch in self._train_batches]
        # Where samples are left out, the others are dealt anew, so that the ranks have equal work.
        if scored is not None and trained == self._train_batches and self._has_tokens_of(scored):
            self._continue(scored)
        else:
            self._begin(layout, trained)

    def _take_part(self, choose: Choice, whole_divisors: bool) -> None:
        """Keep the chosen samples of each train batch. `choose` gets the same numbers on every rank."""
        parts = []
        for step, batch in enumerate(self._train_batches):
            chosen = choose([self._sizes.advantages[number] for number in batch], step)
            parts.append([batch[index] for index in chosen])
            self._weights |= {batch[index]: weight for index, weight in chosen.items()}
        self._train_batches = parts
        if not whole_divisors:
            self._divided_by = parts

    def _begin(self, layout: Layout, batches: list[list[int]]) -> None:
        self._plan = plan_micro_batches(
            self._sizes.lengths,
            batches,
            self._settings.max_tokens_per_gpu * layout.cp,
            multiple_of=layout.pp if layout.vpp > 1 else 1,
        )
        trained_on = [
            [number for step in self._plan for members in step[rank] for number in members]
            for rank in range(self._group.size())
        ]
        self._route = Route(self._sizes.lengths, trained_on, self._group)
        tokens = self._route.to_trainers([sample.tokens for sample in self._own], torch.int32)
        masks = self._route.to_trainers([sample.action_mask for sample in self._own], torch.uint8, shorter=1)
        fields = self._fields()
        self._samples = {
            number: Sample(
                tokens[number].long(),
                masks[number].bool(),
                **{name: values[number] for name, values in fields.items()},
            )
            for number in tokens
        }
        for number, sample in self._samples.items():
            if self._weights.get(number, 1.0) != 1.0 and sample.advantages is not None:
                sample.advantages = sample.advantages * self._weights[number]

    def _fields(self) -> dict[str, dict[int, torch.Tensor]]:
        """The per-position fields of the samples that this rank trains on, by name and sample number."""
        return {
            name: self._route.to_trainers([getattr(sample, name) for sample in self._own], torch.float32, shorter=1)
            for name in self._sizes.fields
        }

    def _has_tokens_of(self, scored: "RolloutBatch") -> bool:
        """Whether every rank has that batch's tokens, in the same order."""
        same = len(self._own) == len(scored._own) and all(
            torch.equal(one.tokens, other.tokens) and torch.equal(one.action_mask, other.action_mask)
            for one, other in zip(self._own, scored._own, strict=True)
        )
        if self._group.size() == 1:
            return same
        flag = torch.tensor([int(same)])
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._group)
        return bool(flag)

    def _continue(self, scored: "RolloutBatch") -> None:
        self._plan, self._route, self._samples = scored._plan, scored._route, scored._samples
        self._packs, self._packed_bytes = scored._packs, scored._packed_bytes
        fields = self._fields()
        for number, sample in self._samples.items():
            for name in FLOAT_FIELDS:
                setattr(sample, name, fields[name][number] if name in fields else None)
        for (step, index), micro_batch in self._packs.items():
            members = self._plan[step][self._rank][index]
            micro_batch.floats = per_position(
                [self._samples[number] for number in members], micro_batch.action_mask.shape[1], self._settings.device
            )

    @property
    def moved(self) -> int:
        return self._route.sent

    @property
    def num_steps(self) -> int:
        """The number of train batches: optimizer steps in one traversal."""
        return len(self._plan)

    @property
    def trains(self) -> bool:
        """Whether any sample is trained on."""
        return any(members for step in self._plan for rank in step for members in rank)

    @property
    def lacks_old_log_probs(self) -> bool:
        """Whether the samples lack old log-probabilities, which the first optimizer step at theta_0 then provides."""
        return "old_log_probs" not in self._sizes.fields

    def length(self, number: int) -> int:
        """Tokens of a sample."""
        return self._lengths[number]

    def tokens(self, step: int) -> int:
        """Tokens of the samples that are trained on in a train batch, over all ranks."""
        return sum(self._lengths[number] for rank in self._plan[step] for members in rank for number in members)

    def micro_batches(self, step: int) -> tuple[list[list[int]], list[MicroBatch]]:
        """This rank's micro-batches of a train batch: the numbers of their samples, and the packed tensors with the
        captured old log-probabilities.

        They are packed and uploaded the first time, and kept for later passes up to a total of
        `ActorSettings.batch_cache_bytes`; those beyond are packed each time.
        """
        numbers = self._plan[step][self._rank]
        packs = [self._pack(step, index, members) for index, members in enumerate(numbers)]
        for index, old in self._captured.items():
            packs[index].floats["old_log_probs"] = old
        return numbers, packs

    def _pack(self, step: int, index: int, members: list[int]) -> MicroBatch:
        found = self._packs.get((step, index))
        if found is None:
            found = pack([self._samples[number] for number in members], self._settings.device, self._sharding)
            if self._packed_bytes + found.nbytes <= self._settings.batch_cache_bytes:
                self._packs[step, index] = found
                self._packed_bytes += found.nbytes
        return found

    def capturing_old_log_probs(
        self,
        loss_function: LossFunction,
        batches: list[MicroBatch],
        add_entropies: Callable[[torch.Tensor], None],
    ) -> LossFunction:
        """A loss function for the first optimizer step that captures its log-probabilities as the old ones.

        Args:
            loss_function: the loss.
            batches: the step's micro-batches.
            add_entropies: called with the entropies of the scored positions, fp32 [n].
        """

        def capturing(log_probs: torch.Tensor, entropy: torch.Tensor, batch: MicroBatch, norm: LossNorm) -> Any:
            index = next(number for number, one in enumerate(batches) if one is batch)
            batch.floats["old_log_probs"] = self._captured[index] = log_probs.detach()
            add_entropies(entropy.detach()[batch.rows, batch.columns])
            return loss_function(log_probs, entropy, batch, norm)

        return capturing

    def norm(self, step: int) -> LossNorm:
        """Totals of a train batch over all ranks, including samples that are left out because they have no gradient:
        without these it would be another loss."""
        scored = [self._sizes.scored[number] for number in self._divided_by[step]]
        return LossNorm(
            num_tokens=max(1.0, float(sum(scored))), num_sequences=max(1.0, float(sum(count > 0 for count in scored)))
        )

    def to_owners(self, values: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        """Return results to the ranks that own the samples.

        Args:
            values: fp32 [length - 1] on the CPU by sample number, of all samples that this rank trains on; only needed
                on last stages.

        Returns:
            fp32 [length - 1] for each of this rank's own samples, on every stage.
        """
        numbers = sorted(self._samples)
        pipeline = parallel_state.get_pipeline_model_parallel_group()
        if parallel_state.is_pipeline_last_stage(ignore_virtual=True):
            flat = torch.cat([values[number] for number in numbers]) if numbers else torch.empty(0)
        else:
            flat = torch.empty(sum(self._lengths[number] - 1 for number in numbers))
        if pipeline.size() > 1:
            dist.broadcast(flat, src=parallel_state.get_pipeline_model_parallel_last_rank(), group=pipeline)
        return self._route.to_owners(flat)
