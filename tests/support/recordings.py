"""Recorded rollouts."""

from pathlib import Path


def recording_of_pairs(directory: Path) -> Path:
    import torch

    from openrlhf_sfpo.rollout.recording import RolloutRecord, save_rollouts

    def record(prompt: str) -> RolloutRecord:
        return RolloutRecord(
            tokens=torch.arange(4),
            action_mask=torch.ones(3, dtype=torch.bool),
            rollout_log_probs=None,
            reward=0.0,
            score=0.0,
            truncated=False,
            prompt=prompt,
            label="",
            info={},
        )

    save_rollouts(directory / "recorded", 1, [record(prompt) for prompt in ("a", "a", "b", "b")])
    return directory / "recorded"
