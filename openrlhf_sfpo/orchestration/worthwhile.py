"""Rollout batches of groups that teach something (--algo.greso.*, --algo.drop_equal_groups)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.config.checks import model_copies
from openrlhf_sfpo.config.flag_table import section
from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.rollout.greso import Greso, GresoSettings, key_of

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.openrlhf_types import Experience, PromptBatch


@dataclass(frozen=True)
class BatchSize:
    """Which numbers of groups the actor can train on.

    Attributes:
        group_size: responses to a prompt.
        unit: a batch has a multiple of this many samples, or at least as many if `multiple` is not set.
        multiple: see there.
    """

    group_size: int
    unit: int
    multiple: bool

    @classmethod
    def of(cls, args: NestedFlags) -> "BatchSize":
        """As the flags say."""
        # DeepSpeed's passes must end with an optimizer step; a Megatron rank must have a sample.
        multiple = args.actor.backend == "deepspeed"
        unit = args.train.batch_size if multiple else model_copies(args)
        return cls(args.rollout.n_samples_per_prompt, unit, multiple)

    def usable(self, groups: int) -> int:
        """How many of the groups a batch can be made of."""
        if self.multiple:
            return groups - groups % (self.unit // math.gcd(self.unit, self.group_size))
        return groups if groups * self.group_size >= self.unit else 0


def without_equal_groups(samples: "list[Experience]", size: BatchSize) -> "tuple[list[Experience], int]":
    """Groups whose rewards differ, as many as can be trained on, and the number of the other ones."""
    groups = [samples[start : start + size.group_size] for start in range(0, len(samples), size.group_size)]
    kept = [group for group in groups if len({_value(sample.rewards) for sample in group}) > 1]
    return [sample for group in kept[: size.usable(len(kept))] for sample in group], len(groups) - len(kept)


class WorthwhilePrompts:
    """What is known of the prompts, for the process that samples.

    Args:
        greso: the memory.
        groups: of a full batch.
        size: which other numbers of groups a batch may have.
        episodes: passes over the data in the run.

    Attributes:
        carried: groups of an episode's end that were too few for a batch. The next episode's first batch begins with
            them: there is no update in between.
    """

    def __init__(self, greso: Greso, groups: int, size: BatchSize, episodes: int = 1) -> None:
        self.greso = greso
        self.groups, self.size = groups, size
        self.carried: list[list[Experience]] = []
        self._episodes = episodes
        self._at_end = False

    @classmethod
    def of(cls, args: NestedFlags) -> "WorthwhilePrompts | None":
        """As the flags say; None if GRESO is off."""
        flags, groups = args.algo.greso, args.rollout.batch_size
        if not flags.enable:
            return None
        settings = replace(
            section(GresoSettings, flags),
            round_prompts=flags.round_prompts or groups,
            min_round_prompts=flags.min_round_prompts or max(1, groups // 4),
        )
        return cls(Greso(settings, args.train.seed), groups, BatchSize.of(args), args.train.num_episodes)

    def new_batch(self) -> "Batch":
        """Begin a batch."""
        self.greso.begin_batch()
        at_end, self._at_end = self._at_end, False
        return Batch(self, at_end)

    @property
    def is_over(self) -> bool:
        """Whether the last episode has ended."""
        return self.greso.epoch >= self._episodes

    def end_batch(self) -> dict[str, float]:
        """See `Greso.end_batch`."""
        return self.greso.end_batch()

    def state_dict(self) -> dict[str, Any]:
        """What a run continues with."""
        return self.greso.state_dict()

    def load_state_dict(self, state: dict[str, Any], at_end: bool) -> None:
        """Continue.

        Args:
            state: from `state_dict`.
            at_end: the data had ended, and that was counted.
        """
        self.greso.load_state_dict(state)
        self._at_end = at_end


class Batch:
    """A batch in the making: rounds of `draw` and `add`.

    Attributes:
        consumed: prompts drawn from the data, those that were skipped included.
        exhausted: whether the data ended.
        is_complete: whether it needs no further round.
    """

    def __init__(self, prompts: WorthwhilePrompts, at_end: bool) -> None:
        self._prompts = prompts
        self._at_end = at_end
        self._kept, prompts.carried = prompts.carried, []
        self._drawn: dict[str, int] = {}
        self._last = False
        self.consumed = 0
        self.exhausted = False
        self.is_complete = False

    def draw(self, prompts: "Iterator[PromptBatch]") -> "list[PromptBatch]":
        """The prompts of the next round, one in each item."""
        greso = self._prompts.greso
        size, self._last = greso.next_round(self._prompts.groups - len(self._kept))
        wanted: list[PromptBatch] = []
        self._drawn = {}
        while len(wanted) < size and not self.exhausted:
            batch = next(prompts, None)
            if batch is None:
                self.exhausted = True
                break
            sources, texts, labels, images = batch
            for source, text, label, image in zip(sources, texts, labels, images, strict=True):
                self.consumed += 1
                key = key_of(text, label)
                if greso.keeps(key):
                    self._drawn.setdefault(key, len(wanted))
                    wanted.append(([source], [text], [label], [image]))
        if self.exhausted and not self._at_end:
            greso.epoch += 1
        return wanted

    def add(self, samples: "list[Experience]") -> None:
        """Take the samples of a round, in groups, in any order."""
        size = self._prompts.size.group_size
        groups = [(_key(samples[start]), samples[start : start + size]) for start in range(0, len(samples), size)]
        for key, group in sorted(groups, key=lambda one: self._drawn[one[0]]):  # as drawn, not as they arrived
            rewards = [_value(sample.rewards) for sample in group]
            scores = [
                reward if s.scores is None else _value(s.scores) for s, reward in zip(group, rewards, strict=True)
            ]
            if self._prompts.greso.observe(key, scores, rewards):
                self._kept.append(group)
        usable = self._prompts.size.usable(len(self._kept))
        full = len(self._kept) >= self._prompts.groups
        self.is_complete = full or self.exhausted or (self._last and usable > 0)
        if self.exhausted and not full and not self._prompts.is_over:
            self._prompts.carried, self._kept = self._kept, []

    @property
    def samples(self) -> "list[Experience]":
        """The batch's samples; none if the data ended before it had enough."""
        count = self._prompts.size.usable(min(len(self._kept), self._prompts.groups))
        return [sample for group in self._kept[:count] for sample in group]


def _key(sample: "Experience") -> str:
    return key_of(sample.prompts[0], sample.labels[0])


def _value(values: Any) -> float:
    return 0.0 if values is None else float(values[0])
