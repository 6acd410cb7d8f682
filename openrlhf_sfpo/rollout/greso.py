"""GRESO (arXiv 2506.02177): no rollouts for prompts that have taught nothing lately.

A group of responses teaches nothing if their rewards are all equal. Whether a prompt's next group will be like that is
predicted from its last ones: after n groups in a row that were all right, it is sampled with probability p_easy^n, and
after n that were all wrong with p_hard^n. Both p are adjusted so that a given share of the sampled groups is of that
kind: enough to notice when a prompt changes.

Formulas and default values are those of the paper's code (github.com/Infini-AI-Lab/GRESO), except that a group is all
wrong by its scores; there it is by one value of a certain reward function.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_LEAST, _MOST = 0.05, 0.95  # bounds of both p
_STEP = 0.01  # of their adjustment
_EXPLORED = 0.01  # the least probability of sampling a prompt
_MARGIN = 1.25  # prompts of a refill, over the number that is expected to suffice


@dataclass(frozen=True)
class GresoSettings:
    """Attributes:
    p_easy, p_hard: where the probabilities begin.
    target_easy, target_hard: the shares of the sampled groups that should be all right and all wrong.
    right_score, wrong_score: a response with at least the one is right, with at most the other wrong.
    round_prompts: prompts of a batch's first round, and at most those of a further one.
    min_round_prompts: at least those of a further round.
    """

    p_easy: float = 0.5
    p_hard: float = 0.5
    target_easy: float = 0.25 / 3
    target_hard: float = 0.25 * 2 / 3
    right_score: float = 1.0
    wrong_score: float = 0.0
    round_prompts: int = 384
    min_round_prompts: int = 64


@dataclass
class _Counts:
    """Groups sampled and prompts skipped since the last batch."""

    groups: int = 0
    easy: int = 0
    hard: int = 0
    equal: int = 0
    skipped_easy: int = 0
    skipped_hard: int = 0
    rounds: int = 0


@dataclass
class Greso:
    """The memory of all prompts, and the two probabilities.

    Args:
        settings: see there.
        seed: of the decisions, which depend on nothing else but the prompt, the epoch and its probability.

    Attributes:
        epoch: passes over the data so far.
        p_easy, p_hard: the current values.
        streaks: by prompt, how many of its last groups were all right, or negative, all wrong; without those where
            it is 0.
    """

    settings: GresoSettings
    seed: int
    epoch: int = 0
    p_easy: float = field(init=False)
    p_hard: float = field(init=False)
    streaks: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.p_easy, self.p_hard = self.settings.p_easy, self.settings.p_hard
        self._counts = _Counts()

    def probability(self, key: str) -> float:
        """The probability with which a prompt is sampled now."""
        streak = self.streaks.get(key, 0)
        if not streak:
            return 1.0
        return max((self.p_easy if streak > 0 else self.p_hard) ** abs(streak), _EXPLORED)

    def keeps(self, key: str) -> bool:
        """Decide whether to sample a prompt, and count it if not."""
        drawn = hashlib.sha256(f"{self.seed} {self.epoch} {key}".encode()).digest()
        if int.from_bytes(drawn[:8], "big") / 2**64 < self.probability(key):
            return True
        if self.streaks[key] > 0:
            self._counts.skipped_easy += 1
        else:
            self._counts.skipped_hard += 1
        return False

    def observe(self, key: str, scores: Sequence[float], rewards: Sequence[float]) -> bool:
        """Remember a sampled group; return whether its rewards differ, so that it teaches something. One with a reward
        that is not finite counts as different: it is for the trainer to decide about it."""
        easy = all(score >= self.settings.right_score for score in scores)
        hard = not easy and all(score <= self.settings.wrong_score for score in scores)
        streak = self.streaks.pop(key, 0)
        if easy or hard:
            self.streaks[key] = max(streak, 0) + 1 if easy else min(streak, 0) - 1
        equal = len(set(rewards)) == 1 and math.isfinite(rewards[0])
        counts = self._counts
        counts.groups, counts.equal = counts.groups + 1, counts.equal + equal
        counts.easy, counts.hard = counts.easy + easy, counts.hard + hard
        return not equal

    def begin_batch(self) -> None:
        """Begin with a first round."""
        self._counts.rounds = 0

    def next_round(self, missing: int) -> tuple[int, bool]:
        """The number of prompts of the next round, and whether it is the last, whose result is accepted even if it is
        short.

        Args:
            missing: groups, of the batch.
        """
        counts, most = self._counts, self.settings.round_prompts
        counts.rounds += 1
        if counts.rounds == 1:
            return most, False
        useful = 1 - counts.equal / counts.groups if counts.groups else 1.0
        wanted = math.floor(missing / useful * _MARGIN) if useful else math.inf
        return int(max(min(wanted, most), self.settings.min_round_prompts)), wanted <= most

    def end_batch(self) -> dict[str, float]:
        """Adjust the probabilities to what was sampled, after the first epoch; return metrics, and count anew."""
        counts, self._counts = self._counts, _Counts()
        groups = max(counts.groups, 1)
        metrics = {
            "greso/skipped_easy": float(counts.skipped_easy),
            "greso/skipped_hard": float(counts.skipped_hard),
            "greso/p_easy": self.p_easy,
            "greso/p_hard": self.p_hard,
            "greso/easy_ratio": counts.easy / groups,
            "greso/hard_ratio": counts.hard / groups,
            "greso/zero_variance_ratio": counts.equal / groups,
            "greso/rounds": float(counts.rounds),
        }
        if self.epoch > 0 and counts.groups:
            self.p_easy = _adjusted(self.p_easy, metrics["greso/easy_ratio"], self.settings.target_easy)
            self.p_hard = _adjusted(self.p_hard, metrics["greso/hard_ratio"], self.settings.target_hard)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """What a run continues with."""
        return {
            "epoch": self.epoch,
            "p_easy": self.p_easy,
            "p_hard": self.p_hard,
            "streaks": dict(self.streaks),
            "counts": vars(self._counts).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.epoch, self.p_easy, self.p_hard = state["epoch"], state["p_easy"], state["p_hard"]
        self.streaks, self._counts = dict(state["streaks"]), _Counts(**state["counts"])


def key_of(prompt: str, label: str) -> str:
    """A short name for a problem, the same in every run."""
    return hashlib.sha256(f"{prompt}\0{label}".encode()).hexdigest()[:16]


def _adjusted(probability: float, ratio: float, target: float) -> float:
    changed = probability - _STEP if ratio >= target else probability + _STEP
    return min(max(changed, _LEAST), _MOST)
