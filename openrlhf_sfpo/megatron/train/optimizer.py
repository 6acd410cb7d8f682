"""Megatron's distributed optimizer, set up to match OpenRLHF's optimizer flags, and the learning-rate schedule."""

import math
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from transformers import get_scheduler

from openrlhf_sfpo.megatron.settings import ActorSettings, OptimizerSettings

if TYPE_CHECKING:
    from megatron.core.optimizer.optimizer import MegatronOptimizer


def build_optimizer(chunks: list[torch.nn.Module], settings: ActorSettings) -> Any:
    """Distributed AdamW over DDP-wrapped model chunks, with fp32 main parameters if the model is in bf16."""
    optim = settings.optimizer
    config = OptimizerConfig(
        optimizer="adam",
        lr=optim.lr,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        adam_eps=optim.eps,
        decoupled_weight_decay=True,
        clip_grad=optim.max_norm,
        bf16=settings.param_dtype == torch.bfloat16,
        params_dtype=settings.param_dtype,
        use_distributed_optimizer=True,
        overlap_param_gather=settings.overlap_param_gather,
    )
    optimizer = get_megatron_optimizer(config, chunks)
    for group in optimizer.param_groups:
        # Megatron's own scheduler would set this; wd_mult is 0 for biases and norms.
        group["weight_decay"] = optim.weight_decay * group.get("wd_mult", 1.0)
        # Without Transformer Engine and Apex this is torch's AdamW, whose fused version makes only one pass over
        # memory.
        if "fused" in group:
            group["fused"] = True
    return optimizer


class LearningRate:
    """A transformers schedule applied to the Megatron optimizer.

    `advance` is called once per optimizer step of the slow pass, so that a run with fast passes ends at the same
    rate as the GRPO run that it is compared with.
    """

    def __init__(self, optimizer: "MegatronOptimizer", settings: OptimizerSettings) -> None:
        self._optimizer = optimizer
        self._total_steps = settings.total_steps
        self._factor = 1.0
        # transformers schedules need a torch optimizer; this one exists only for the schedule.
        stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=settings.lr)
        has_floor = settings.schedule in ("cosine_with_min_lr", "cosine_warmup_with_min_lr")
        self._scheduler = get_scheduler(
            settings.schedule,
            stand_in,
            num_warmup_steps=math.ceil(settings.total_steps * settings.warmup_ratio),
            num_training_steps=settings.total_steps,
            scheduler_specific_kwargs={"min_lr_rate": settings.min_lr_ratio} if has_floor else {},
        )
        self._stand_in = stand_in
        self._apply()

    @property
    def value(self) -> float:
        """The rate of the next optimizer step."""
        return self._scheduler.get_last_lr()[0] * self._factor

    def scale(self, factor: float) -> None:
        """Use `factor` times the schedule's rate from the next optimizer step on, until the next call."""
        self._factor = factor
        self._apply()

    def advance(self) -> None:
        """Advance by one optimizer step; after the schedule's end (where a cosine would rise again) the rate stays."""
        if self._scheduler.last_epoch >= self._total_steps and self._total_steps > 1:
            return
        self._stand_in.step()  # a scheduler stepped before its optimizer warns
        self._scheduler.step()
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scheduler.load_state_dict(state)
        self._apply()

    def _apply(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.value * group.get("lr_mult", 1.0)
