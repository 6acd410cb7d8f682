"""Rollout batches on disk, so that training can be repeated without engines.

One safetensors file per batch, `rollouts_000001.safetensors` and so on, in training order. With N samples of lengths
T_1..T_N:

| tensor | dtype, shape | meaning |
| --- | --- | --- |
| lengths | int32 [N] | tokens of each sample, prompt and response |
| tokens | int32 [sum T] | the samples one after the other |
| action_mask | uint8 [sum (T-1)] | 1 where the next token is the policy's own |
| rollout_log_probs | fp32 [sum (T-1)] | as the engine reported them; absent if it did not |
| rewards | fp32 [N] | as the reward function gave them |
| scores | fp32 [N] | likewise |
| truncated | uint8 [N] | 1 where the response hit the length limit |

The header's metadata holds `format` (this layout's name), and the JSON lists `prompts`, `labels` and `info` (an object
of numbers per sample). Samples of one prompt are consecutive.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import set_usual_mode

FORMAT = "openrlhf_sfpo.rollouts.1"


@dataclass
class RolloutRecord:
    """One recorded sample.

    Attributes:
        tokens: int64 [T].
        action_mask: bool [T - 1].
        rollout_log_probs: fp32 [T - 1] or None.
        reward, score: as the reward function gave them.
        truncated: whether the response hit the length limit.
        prompt, label: as they were in the data set.
        info: numbers to log.
    """

    tokens: torch.Tensor
    action_mask: torch.Tensor
    rollout_log_probs: torch.Tensor | None
    reward: float
    score: float
    truncated: bool
    prompt: str
    label: str
    info: dict[str, float]


def record_files(directory: str | Path) -> list[Path]:
    """The recorded batches of a directory, in order.

    Raises:
        UsageError: there are none.
    """
    files = sorted(Path(directory).glob("rollouts_*.safetensors"))
    if not files:
        raise UsageError(
            "--rollout.replay_dir",
            f"{directory} holds no rollouts_*.safetensors.",
            "Give a directory that was written with --rollout.record_dir.",
        )
    return files


def save_rollouts(directory: str | Path, number: int, records: list[RolloutRecord]) -> Path:
    """Write one batch atomically."""
    path = Path(directory) / f"rollouts_{number:06d}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "lengths": torch.tensor([len(record.tokens) for record in records], dtype=torch.int32),
        "tokens": torch.cat([record.tokens for record in records]).to(torch.int32),
        "action_mask": torch.cat([record.action_mask for record in records]).to(torch.uint8),
        "rewards": torch.tensor([record.reward for record in records], dtype=torch.float32),
        "scores": torch.tensor([record.score for record in records], dtype=torch.float32),
        "truncated": torch.tensor([record.truncated for record in records], dtype=torch.uint8),
    }
    log_probs = [record.rollout_log_probs for record in records if record.rollout_log_probs is not None]
    if len(log_probs) == len(records):
        tensors["rollout_log_probs"] = torch.cat(log_probs).float()
    texts: dict[str, Any] = {
        "prompts": [record.prompt for record in records],
        "labels": [record.label for record in records],
        "info": [record.info for record in records],
    }
    part = path.with_suffix(f".part{os.getpid()}")
    save_file(tensors, part, metadata={"format": FORMAT, **{key: json.dumps(value) for key, value in texts.items()}})
    set_usual_mode(part)
    part.rename(path)
    return path


def load_rollouts(path: str | Path) -> list[RolloutRecord]:
    """Read one batch.

    Raises:
        UsageError: the file has another format.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise UsageError(
                "--rollout.replay_dir",
                f"{path} has the format {metadata.get('format')!r}, not {FORMAT!r}.",
                "Record it again with this version.",
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    lengths = tensors["lengths"].tolist()
    shorter = [length - 1 for length in lengths]
    tokens = tensors["tokens"].long().split(lengths)
    masks = tensors["action_mask"].bool().split(shorter)
    log_probs: Any = [None] * len(lengths)
    if "rollout_log_probs" in tensors:
        log_probs = tensors["rollout_log_probs"].split(shorter)
    texts = {key: json.loads(metadata[key]) for key in ("prompts", "labels", "info")}
    return [
        RolloutRecord(
            tokens=tokens[i],
            action_mask=masks[i],
            rollout_log_probs=log_probs[i],
            reward=tensors["rewards"][i].item(),
            score=tensors["scores"][i].item(),
            truncated=bool(tensors["truncated"][i]),
            prompt=texts["prompts"][i],
            label=texts["labels"][i],
            info=texts["info"][i],
        )
        for i in range(len(lengths))
    ]
