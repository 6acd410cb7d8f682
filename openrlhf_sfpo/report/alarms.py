"""Alarms for metrics that docs/tuning.md calls unhealthy, each reported once on the console."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# GRPO clips a few percent of the tokens at most; the fast passes of SFPO may clip several tens of percent in the first
# steps at a high learning rate, which is harmless.
LARGE_CLIP_RATIO = 0.3
LARGE_DISPLACEMENT = 0.01
SMALL_ENTROPY = 0.02  # nats per token
MOSTLY_TRUNCATED = 0.5
HARDLY_REWARDED = 0.1


@dataclass(frozen=True)
class _Alarm:
    """One kind of alarm.

    Attributes:
        metric: lines without it are skipped.
        steps: the number of consecutive bad steps that raises it.
        bad: whether a line is bad.
        text: the message.
    """

    metric: str
    steps: int
    bad: Callable[[dict[str, Any]], bool]
    text: Callable[[dict[str, Any]], str]


_ALARMS = (
    _Alarm(
        "sfpo/fast_clip_ratio",
        3,
        lambda line: line["sfpo/fast_clip_ratio"] > LARGE_CLIP_RATIO,
        lambda line: (
            f"in the last fast pass {100 * line['sfpo/fast_clip_ratio']:.0f} % of the tokens were clipped and gave no "
            "gradient, in three steps in a row. Lower --sfpo.k, or --actor.adam.lr"
        ),
    ),
    _Alarm(
        "sfpo/displacement_rel",
        1,
        lambda line: line["sfpo/displacement_rel"] > LARGE_DISPLACEMENT,
        lambda line: (
            f"the fast passes moved the weights by {100 * line['sfpo/displacement_rel']:.1f} % of their norm. Lower "
            "--sfpo.alpha, --sfpo.k or --actor.adam.lr"
        ),
    ),
    _Alarm(
        "sfpo/entropy",
        3,
        lambda line: line["sfpo/entropy"] < SMALL_ENTROPY,
        lambda line: (
            f"the policy's entropy has collapsed to {line['sfpo/entropy']:.3f} nats per token: all samples of a prompt "
            "are nearly the same. Lower --actor.adam.lr or --sfpo.k, or raise --actor.entropy_coef"
        ),
    ),
    _Alarm(
        "rollout/truncated_rate",
        3,
        lambda line: (
            line["rollout/truncated_rate"] > MOSTLY_TRUNCATED and _number(line.get("reward_mean")) < HARDLY_REWARDED
        ),
        lambda line: (
            f"{100 * line['rollout/truncated_rate']:.0f} % of the responses were cut off at the length limit, and "
            "hardly any is rewarded. Raise --rollout.max_new_tokens (and --data.max_len)"
        ),
    ),
    _Alarm(
        "reward_mean",
        3,
        lambda line: line["reward_mean"] == 0,
        lambda line: (
            "no response was rewarded in three steps in a row, so there is nothing to learn from. Read some in "
            "samples.jsonl: does the prompt ask for the answer in the form that the reward looks for?"
        ),
    ),
)


class Alarms:
    """Checks the lines of a run's steps as they arrive."""

    def __init__(self) -> None:
        self._raised: set[str] = set()
        self._in_a_row: dict[str, int] = {}

    def look(self, line: dict[str, Any]) -> list[str]:
        """Messages about a step's line of metrics.jsonl; each alarm is raised once per run."""
        texts = []
        for alarm in _ALARMS:
            if alarm.metric in self._raised or line.get(alarm.metric) is None:
                continue
            count = self._in_a_row.get(alarm.metric, 0) + 1 if alarm.bad(line) else 0
            self._in_a_row[alarm.metric] = count
            if count >= alarm.steps:
                self._raised.add(alarm.metric)
                texts.append(alarm.text(line))
        return texts


def _number(value: float | None) -> float:
    return 0.0 if value is None else value
