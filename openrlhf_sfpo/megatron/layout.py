"""The layout of the ranks, and starting torch.distributed and Megatron's groups for it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.loopback import keep_stores_on_loopback


@dataclass(frozen=True)
class Layout:
    """Sizes of the parallel dimensions.

    Tensor-parallel ranks vary fastest, then context-parallel ranks, then pipeline stages, then data-parallel replicas
    (Megatron order "tp-cp-ep-pp-dp"). So the tp * cp * pp ranks that work on one sequence are consecutive, which
    OpenRLHF's dispatch of one data chunk to consecutive ranks requires.

    Attributes:
        tp: tensor-parallel size.
        pp: number of pipeline stages.
        vpp: model chunks on each pipeline stage (interleaved schedule); 1 means the plain 1F1B schedule.
        cp: context-parallel size.
    """

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Layout":
        """A layout from values by the names of its sizes; other names are ignored."""
        return cls(values["tp"], values["pp"], values["vpp"], values["cp"])

    @property
    def model_parallel_size(self) -> int:
        """The number of ranks that work on one sequence. They hold one copy of the model, or several with context
        parallelism."""
        return self.tp * self.cp * self.pp

    def place(self, rank: int) -> tuple[int, int, int, int]:
        """A rank's tensor-parallel, context-parallel, pipeline and data-parallel rank."""
        rest, tp = divmod(rank, self.tp)
        rest, cp = divmod(rest, self.cp)
        dp, pp = divmod(rest, self.pp)
        return tp, cp, pp, dp

    def describe(self, world_size: int) -> str:
        """The layout as text, such as TP=2 PP=2 DP=4, without unused optional dimensions."""
        optional = {"VPP": self.vpp, "CP": self.cp}
        used = "".join(f" {name}={size}" for name, size in optional.items() if size > 1)
        return f"TP={self.tp} PP={self.pp}{used} DP={self.dp(world_size)}"

    def dp(self, world_size: int) -> int:
        """Number of data-parallel replicas."""
        return world_size // self.model_parallel_size

    def start_groups(self, minutes: int, gloo: bool = True) -> None:
        """Create Megatron's process groups; torch.distributed must be running.

        Args:
            minutes: the timeout of their collectives.
            gloo: also create groups that carry CPU tensors.
        """
        from megatron.core import parallel_state

        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=self.tp,
            pipeline_model_parallel_size=self.pp,
            virtual_pipeline_model_parallel_size=self.vpp if self.vpp > 1 else None,
            context_parallel_size=self.cp,
            # There are no experts, but their groups must have the same pipelines, or Megatron refuses the order below.
            expert_model_parallel_size=self.cp,
            order="tp-cp-ep-pp-dp",
            create_gloo_process_groups=gloo,
            distributed_timeout_minutes=minutes,
        )

    def check(self, world_size: int, model: ModelConfig) -> None:
        """Check the layout against a number of ranks and a model.

        Raises:
            UsageError: naming the size that does not fit (tp, pp, vpp, cp or world_size) and values that do.
        """
        for size in ("tp", "pp", "vpp", "cp"):
            if getattr(self, size) < 1:
                raise UsageError(size, f"is {getattr(self, size)}.", "Use 1 or more.")
        undivided = _undivided(model, self.tp)
        if undivided:
            fits = [size for size in range(1, model.num_kv_heads + 1) if not _undivided(model, size)]
            raise UsageError(
                "tp",
                f"is {self.tp}, which does not divide the model's {' and '.join(undivided)}.",
                f"Use one of {fits}.",
            )
        num_layers = model.num_layers
        if self.vpp > 1 and self.pp == 1:
            raise UsageError(
                "vpp",
                f"is {self.vpp}, but there is only one pipeline stage to interleave.",
                "Use 1, or raise `pp`.",
            )
        if num_layers % (self.pp * self.vpp):
            fits = [n for n in range(1, num_layers + 1) if num_layers % n == 0]
            raise UsageError(
                "vpp" if num_layers % self.pp == 0 else "pp",
                f"{self.pp} stages x {self.vpp} chunks do not divide the model's {num_layers} layers.",
                f"Choose them so that their product is one of {fits}.",
            )
        if world_size % self.model_parallel_size:
            raise UsageError(
                "world_size",
                f"{world_size} ranks is not a multiple of the {self.model_parallel_size} "
                f"(tensor parallel {self.tp} x context parallel {self.cp} x pipeline parallel {self.pp}) that work on "
                "one sequence together.",
                f"Use a multiple of {self.model_parallel_size}, or change `tp`, `cp` or `pp`.",
            )


def _undivided(model: ModelConfig, tp: int) -> list[str]:
    """The parts of the model that cannot be split evenly over `tp` ranks, as text."""
    sizes = {
        "attention heads": model.num_heads,
        "key/value heads": model.num_kv_heads,
        "MLP rows (intermediate_size)": model.ffn_hidden_size,
    }
    found = [f"{size} {what}" for what, size in sizes.items() if size % tp]
    # The vocabulary is padded at its end, but every rank must hold some of it.
    if (tp - 1) * -(-model.vocab_size // tp) >= model.vocab_size:
        found.append(f"vocabulary of {model.vocab_size}")
    return found


def start_distributed(layout: Layout, use_cuda: bool, timeout: timedelta) -> None:
    """Start torch.distributed and Megatron's process groups, unless they are running already.

    Reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT from the environment, as torchrun and Ray actors set them.
    NCCL carries CUDA tensors; CPU tensors always go through gloo.

    Raises:
        RuntimeError: Megatron's groups exist with another layout.
    """
    import torch
    from megatron.core import parallel_state, tensor_parallel

    if not torch.distributed.is_initialized():
        keep_stores_on_loopback()
        if use_cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if use_cuda else "gloo", timeout=timeout)
    if parallel_state.model_parallel_is_initialized():
        running = Layout(
            parallel_state.get_tensor_model_parallel_world_size(),
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_virtual_pipeline_model_parallel_world_size() or 1,
            parallel_state.get_context_parallel_world_size(),
        )
        if running != layout:
            raise RuntimeError(f"this process has groups for {running}, and {layout} is asked for")
    else:
        layout.start_groups(max(1, int(timeout.total_seconds() // 60)))
    # Dropout is zero everywhere, but Megatron's parallel layers require a seeded tracker.
    tensor_parallel.model_parallel_cuda_manual_seed(0)
