"""Ray actors that replace OpenRLHF's: its own DeepSpeed actors, with SFPO in the policy's trainer and support for
machines without GPUs."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from openrlhf.trainer.ray import launcher, ppo_actor

from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.config.namespaces import HoldsFlags
from openrlhf_sfpo.deepspeed.full_weights import FullWeights
from openrlhf_sfpo.deepspeed.saving import make_savable, set_modes
from openrlhf_sfpo.orchestration import deepspeed_cpu as cpu
from openrlhf_sfpo.orchestration.algorithm import why_every_sample_is_trained_on
from openrlhf_sfpo.orchestration.deepspeed_trainer import SlowFastActorTrainer
from openrlhf_sfpo.orchestration.engine_starts import wait_until_started
from openrlhf_sfpo.orchestration.gate_notices import GateNotices
from openrlhf_sfpo.orchestration.ray_classes import unwrap_ray_class
from openrlhf_sfpo.rollout.engine_handle import EngineHandle
from openrlhf_sfpo.rollout.staleness import replace_stamps
from openrlhf_sfpo.system.cpus import usable_cpus
from openrlhf_sfpo.system.loopback import keep_stores_on_loopback
from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
from openrlhf_sfpo.system.replacements import install as replace

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.openrlhf_types import BaseModelActor as _ActorBase
    from openrlhf_sfpo.orchestration.openrlhf_types import Experience
    from openrlhf_sfpo.orchestration.openrlhf_types import PolicyModelActor as _PolicyModelActor
    from openrlhf_sfpo.orchestration.openrlhf_types import ReferenceModelActor as _ReferenceModelActor
    from openrlhf_sfpo.rollout.weight_sync import WeightSync
else:
    _ActorBase = object
    _PolicyModelActor = unwrap_ray_class(ppo_actor.PolicyModelActor)
    _ReferenceModelActor = unwrap_ray_class(launcher.ReferenceModelActor)

_STATE, _ENTROPY = "sfpo", "adaptive_entropy"  # keys of our entries in a checkpoint's client states


class _OnAnyDevice(_ActorBase):
    """Prepares the process of a rank before OpenRLHF starts its process group."""

    def _setup_distributed(self, strategy: HoldsFlags) -> None:
        keep_stores_on_loopback()
        if not torch.cuda.is_available():
            cpu.install(max(1, usable_cpus() // strategy.args.actor.num_gpus_per_node))
        super()._setup_distributed(strategy)


class PolicyActor(_OnAnyDevice, _PolicyModelActor):
    """OpenRLHF's policy, whose `fit` is an SFPO update."""

    trainer: SlowFastActorTrainer
    _sync: "WeightSync | None" = None

    def init_model_from_pretrained(
        self,
        strategy: HoldsFlags,
        pretrain: str,
        max_steps: int | None = None,
        vllm_engines: list[EngineHandle] | None = None,
    ) -> None:
        self.events = Events()
        self.events.register("policy", self._rank)
        on_cpu = not torch.cuda.is_available()
        replace(REPLACEMENTS["openrlhf.trainer.ray.ppo_actor.ActorPPOTrainer"], SlowFastActorTrainer)
        super().init_model_from_pretrained(strategy, pretrain, max_steps, None if on_cpu else vllm_engines)
        self.trainer.on_stage = self._stage
        self.trainer.on_notice = self._notice
        if _STATE in self.checkpoint_states:
            self.trainer.sfpo.load_state_dict(self.checkpoint_states[_STATE])
        if _ENTROPY in self.checkpoint_states:
            self.trainer.adaptive_entropy.load_state_dict(self.checkpoint_states[_ENTROPY])
        self._gate_notices = GateNotices(self.trainer.sfpo)
        unchanged = why_every_sample_is_trained_on(strategy.args)
        if unchanged:
            self._notice(unchanged)
        if on_cpu and vllm_engines:
            from openrlhf_sfpo.rollout.weight_sync import WeightSync

            wait_until_started(vllm_engines, strategy.args.rollout.engine_start_timeout)
            workers = len(vllm_engines) * strategy.args.vllm.tensor_parallel_size
            weights = FullWeights(self.actor.model, strategy.args.megatron.weight_bucket_mb * 2**20)
            timeout = strategy.args.rollout.engine_timeout
            self._new_sync = functools.partial(
                WeightSync, weights, vllm_engines, workers, self._master_addr, timeout=timeout
            )
            self._sync = self._new_sync()

    def fit(self, kl_ctl: float = 0.0) -> dict[str, Any]:
        """Like OpenRLHF's, with a notice when the gate closes."""
        status = super().fit(kl_ctl)
        return {**status, **self._gate_notices.as_status(status, self.events)}

    def append(self, experience: "Experience") -> None:
        """Like OpenRLHF's, with the samples' staleness."""
        replace_stamps(experience.info, self.trainer.sfpo.gate.batches)
        super().append(experience)

    def broadcast_to_vllm(self) -> None:
        """Send the weights to the engines: OpenRLHF's way, or through shared memory without NCCL."""
        self._stage("weights to vLLM")
        if self._sync is None:
            super().broadcast_to_vllm()
            return
        if self.strategy.args.vllm.enable_prefix_caching and self._rank == 0:
            self._sync.reset_prefix_caches()
        metrics = self._sync.send(self.trainer.sfpo.gate.batches)
        if self._rank == 0:
            self.events.send("sync", metrics=metrics)

    def reconnect_engines(self) -> None:
        """Connect to the engines again after some of them were restarted, and send all of them the weights.

        Raises:
            RuntimeError: on GPUs, where OpenRLHF connects to its engines only once.
        """
        if self._sync is None:
            raise RuntimeError("OpenRLHF's DeepSpeed actor cannot connect to vLLM engines again; restart the run.")
        self._sync = self._new_sync()
        self._sync.send(self.trainer.sfpo.gate.batches)

    def finish_checkpoint(self) -> None:
        """Do nothing: these checkpoints are not written in the background."""

    def save_checkpoint(
        self,
        tag: str,
        client_states: dict[str, Any] | None = None,
        metric_value: float | None = None,
        metric_key: str | None = None,
    ) -> None:
        """Like OpenRLHF's, with the gate's state among the client states."""
        own = {_STATE: self.trainer.sfpo.state_dict(), _ENTROPY: self.trainer.adaptive_entropy.state_dict()}
        states = {**(client_states or {}), **own}
        make_savable(self.strategy._unwrap_model(self.actor))
        super().save_checkpoint(tag, states, metric_value, metric_key)
        if self.save_hf_ckpt and self._rank == 0:
            set_modes(Path(self.strategy.args.ckpt.path) / f"{tag}_hf")

    def save_model(self) -> None:
        """Like OpenRLHF's, with a generation config that can be saved, and files with the default mode."""
        make_savable(self.strategy._unwrap_model(self.actor))
        super().save_model()
        if self._rank == 0:
            set_modes(Path(self.strategy.args.ckpt.output_dir))

    def execute_batch(self, method_name: str, all_data: dict[str, Any], start_idx: int, end_idx: int) -> list[Any]:
        if method_name == "forward":
            self._stage("old log-probabilities")
        return super().execute_batch(method_name, all_data, start_idx, end_idx)

    def _notice(self, text: str) -> None:
        if self._rank == 0:
            self.events.send("notice", text=text)

    def _stage(self, text: str) -> None:
        if self._rank == 0:
            self.events.send("phase", text=text)


class ReferenceActor(_OnAnyDevice, _ReferenceModelActor):
    """OpenRLHF's reference model."""
