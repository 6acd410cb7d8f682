"""Converts OpenRLHF's samples to recorded rollouts and back, and replays recordings."""

from typing import TYPE_CHECKING, Any

import torch

from openrlhf_sfpo.rollout.recording import RolloutRecord, load_rollouts, record_files
from openrlhf_sfpo.rollout.staleness import STAMP

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.openrlhf_types import Experience
else:
    from openrlhf.trainer.ppo_utils.experience import Experience


class Replay:
    """A sample generator that reads recorded batches instead of calling engines."""

    def __init__(self, directory: str) -> None:
        self._files = record_files(directory)
        self._next = 0

    def generate_samples(self, **kwargs: Any) -> tuple[list[Experience], float | None, int, bool]:
        """One recorded batch: (samples, filter pass rate, prompts consumed, whether it was the last)."""
        if self._next == len(self._files):
            return [], None, 0, True
        samples = [to_experience(record) for record in load_rollouts(self._files[self._next])]
        self._next += 1
        for sample in samples:
            sample.info.pop(STAMP, None)  # counts the recorded run's updates
        prompts = len({sample.prompts[0] for sample in samples})
        return samples, None, prompts, self._next == len(self._files)

    def state_dict(self) -> dict[str, Any]:
        """The position in the recording."""
        return {"batches": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self._next = state["batches"]


def to_record(sample: Experience) -> RolloutRecord:
    """One new rollout (a batch of one, without padding) in the form that is written to disk."""
    log_probs = sample.rollout_log_probs
    assert sample.rewards is not None
    reward = sample.rewards[0].item()
    return RolloutRecord(
        tokens=sample.sequences[0],
        action_mask=sample.action_mask[0].bool(),
        rollout_log_probs=None if log_probs is None else log_probs[0],
        reward=reward,
        score=reward if sample.scores is None else sample.scores[0].item(),
        truncated=bool(sample.truncated[0]),
        prompt=sample.prompts[0],
        label=sample.labels[0],
        info={name: float(value[0]) for name, value in sample.info.items()},
    )


def to_experience(record: RolloutRecord) -> Experience:
    """The inverse of `to_record`."""
    length = len(record.tokens)
    actions = record.action_mask.nonzero().squeeze(1)
    span = int(actions[-1] - actions[0]) + 1 if len(actions) else 0
    log_probs = record.rollout_log_probs
    return Experience(
        sequences=record.tokens.unsqueeze(0),
        attention_mask=torch.ones(1, length, dtype=torch.long),
        action_mask=record.action_mask.long().unsqueeze(0),
        rollout_log_probs=None if log_probs is None else log_probs.unsqueeze(0),
        prompts=[record.prompt],
        labels=[record.label],
        images=[None],
        mm_train_inputs=[None],
        rewards=torch.tensor([record.reward]),
        scores=torch.tensor([record.score]),
        response_length=torch.tensor([span]),
        truncated=torch.tensor([record.truncated]),
        total_length=torch.tensor([float(length)]),
        info={name: torch.tensor([value]) for name, value in record.info.items()},
    )
