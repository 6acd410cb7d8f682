"""Ray actors that replace OpenRLHF's policy and reference actors and run Megatron."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import ray
import torch
from openrlhf.trainer.ppo_utils import experience as openrlhf_experience
from openrlhf.trainer.ray import launcher

from openrlhf_sfpo.checkpoints.directory import PLACE, find_checkpoint, newest_complete, rotate, rotate_models
from openrlhf_sfpo.cluster.heartbeat import Heartbeat
from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.cluster.nodes import divided_groups
from openrlhf_sfpo.config.flag_table import section, settings
from openrlhf_sfpo.config.flags import SFPOConfig
from openrlhf_sfpo.config.namespaces import HoldsFlags, NestedFlags, dotted
from openrlhf_sfpo.config.placement import engines_share_gpus
from openrlhf_sfpo.config.setting_names import flags_named
from openrlhf_sfpo.config.stored_settings import portable
from openrlhf_sfpo.megatron.actor import MegatronActor
from openrlhf_sfpo.megatron.data.batching import Sample
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.state.writer import CheckpointWriter, Saved
from openrlhf_sfpo.orchestration.actor_settings import actor_settings
from openrlhf_sfpo.orchestration.algorithm import (
    build_update,
    needs_old_log_probs,
    why_every_sample_is_trained_on,
)
from openrlhf_sfpo.orchestration.engine_gap import GapWatch
from openrlhf_sfpo.orchestration.engine_starts import wait_until_started
from openrlhf_sfpo.orchestration.experience_samples import mean_infos, sample_infos, unpad
from openrlhf_sfpo.orchestration.gate_notices import GateNotices
from openrlhf_sfpo.orchestration.loss import OpenRLHFLoss
from openrlhf_sfpo.rollout.engine_handle import EngineHandle
from openrlhf_sfpo.rollout.staleness import replace_stamps
from openrlhf_sfpo.sfpo import AdaptiveEntropy

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.openrlhf_types import BaseModelActor, Experience
    from openrlhf_sfpo.rollout.weight_sync import WeightSync
else:
    Experience = openrlhf_experience.Experience
    BaseModelActor = launcher.BaseModelActor

P = ParamSpec("P")
R = TypeVar("R")


class MegatronModelActor(BaseModelActor):
    """The common part of policy and reference actor: a Megatron model that computes log-probabilities."""

    actor: MegatronActor

    def execute_batch(self, method_name: str, all_data: dict[str, Any], start_idx: int, end_idx: int) -> list[Any]:
        """Like OpenRLHF's, but `forward` gets its whole chunk at once, to pack and pipeline it."""
        if method_name != "forward":
            return super().execute_batch(method_name, all_data, start_idx, end_idx)
        chunk = {name: values[start_idx:end_idx] for name, values in all_data.items()}
        return self.forward(**chunk)

    def forward(
        self,
        sequences: list[torch.Tensor],
        action_mask: list[torch.Tensor],
        attention_mask: list[torch.Tensor],
        **ignored: Any,
    ) -> list[torch.Tensor]:
        """Log-probabilities of the actions, for a list of right-padded batches.

        Args:
            sequences: int64 [B, T] each.
            action_mask: [B, T - 1] each.
            attention_mask: [B, T] each.

        Returns:
            fp32 [B, T - 1] each, on the CPU, zero outside the action mask.
        """
        samples, widths = [], []
        for tokens, actions, attention in zip(sequences, action_mask, attention_mask, strict=True):
            widths.append((len(tokens), actions.shape[1]))
            samples += unpad(tokens, actions, attention)
        log_probs = iter(self.actor.forward(samples))
        outputs = []
        for rows, width in widths:
            padded = torch.zeros(rows, width)
            for row in range(rows):
                values = next(log_probs)
                padded[row, : len(values)] = values
            outputs.append(padded)
        return outputs

    @flags_named()
    def _start(self, strategy: HoldsFlags, pretrain: str, max_steps: int | None, train: bool) -> None:
        self.strategy = strategy
        self.args = strategy.args
        if hasattr(self, "actor"):
            self.actor.close()
            del self.actor
        layout = Layout.of(settings(self.args))
        self.actor = MegatronActor(pretrain, layout, actor_settings(self.args, max_steps), train)


def _busy(method: "Callable[Concatenate[PolicyActor, P], R]") -> "Callable[Concatenate[PolicyActor, P], R]":
    """Mark a method that the trainer waits for: the run counts as hung if it makes no progress."""

    @functools.wraps(method)
    def wrapped(self: "PolicyActor", *args: P.args, **kwargs: P.kwargs) -> R:
        with self.heartbeat.busy(method.__name__.replace("_", " ")):
            return method(self, *args, **kwargs)

    return wrapped


class PolicyActor(MegatronModelActor):
    """The policy: log-probabilities, SFPO updates, weights to vLLM, checkpoints and models to disk.

    The methods are those that OpenRLHF's controller calls on its own PolicyModelActor. Calling
    `init_model_from_pretrained` again resets the actor and keeps its processes and connections.
    """

    _sync: "WeightSync | None" = None
    _has_old_log_probs = True
    heartbeat: Heartbeat

    def init_model_from_pretrained(
        self,
        strategy: HoldsFlags,
        pretrain: str,
        max_steps: int | None = None,
        vllm_engines: list[EngineHandle] | None = None,
    ) -> None:
        self.events = Events()
        self.events.register("policy", self._rank)
        if hasattr(self, "heartbeat"):
            self.heartbeat.close()
        self.heartbeat = Heartbeat(self._beat, strategy.args.train.timeout)
        with self.heartbeat.busy("loading the model"):
            self._start(strategy, pretrain, max_steps, train=True)
            self._warn_of_divided_groups()
            self._say_why_every_sample_is_trained_on()
            if self.actor.model_config.warning and self._rank == 0:
                self.events.send("notice", text=self.actor.model_config.warning)
            self.actor.on_progress(self.heartbeat.tick)
            self.sfpo = build_update(section(SFPOConfig, self.args.sfpo), self.actor.shards, self._stage)
            self._adaptive_entropy: AdaptiveEntropy = section(AdaptiveEntropy, self.args.algo.adaptive_entropy)
            self._samples: list[Sample] = []
            self._infos: list[dict[str, float]] = []
            self._gap_watch = GapWatch(self.args)
            self._writer = CheckpointWriter(self._on_saved)
            self._states = self._resume()
            self._gate_notices = GateNotices(self.sfpo)
            self._connect(vllm_engines or [])
            if self.args.ds.enable_sleep:
                self.actor.offload_states()

    def _warn_of_divided_groups(self) -> None:
        nodes: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
        tp = self.args.megatron.tensor_model_parallel_size
        divided = divided_groups(nodes, tp)
        if divided and self._rank == 0:
            first = f"ranks {divided[0].start} to {divided[0].stop - 1}"
            self.events.send(
                "notice",
                text=f"{len(divided)} of {len(nodes) // tp} tensor-parallel groups are on more than one machine (the "
                f"first: {first}), and every layer waits for the network. Free whole machines for the actor, or lower "
                "--megatron.tensor_model_parallel_size",
            )

    def _say_why_every_sample_is_trained_on(self) -> None:
        text = why_every_sample_is_trained_on(self.args)
        if text and self._rank == 0:
            self.events.send("notice", text=text)

    def _beat(self, state: dict[str, Any]) -> None:
        self.events.beat(self._rank, {**state, "node": ray.get_runtime_context().get_node_id()})

    def _connect(self, engines: list[EngineHandle]) -> None:
        if self._sync is not None:
            # These workers are reused: the engines have the last run's final weights.
            self._sync.follow(self.actor)
            self._sync.send()
            if self._rank == 0:
                self._sync.restart_engines(self.args.train.seed)
        elif engines:
            from openrlhf_sfpo.rollout.weight_sync import WeightSync

            # Each rank waits by itself, because a collective would have a timeout of its own.
            self.heartbeat.tick("waiting for the vLLM engines to start")
            wait_until_started(engines, self.args.rollout.engine_start_timeout, self.heartbeat.tick)
            workers = len(engines) * self.args.vllm.tensor_parallel_size
            self._new_sync = functools.partial(
                WeightSync,
                self.actor,
                engines,
                workers,
                self._master_addr,
                timeout=self.args.rollout.engine_timeout,
                shared_gpus=engines_share_gpus(self.args),
            )
            self._sync = self._new_sync()

    def _resume(self) -> dict[str, Any]:
        """Continue from a checkpoint of this run, or begin with another run's, if the flags say so.

        Returns:
            The trainer's states if this run continues.
        """
        own = self._agreed(_checkpoint_of)
        if own is None:
            if self.args.ckpt.start_from:
                self.heartbeat.tick(f"reading {self.args.ckpt.start_from}")
                self.actor.start_from(self._agreed(lambda args: find_checkpoint(Path(args.ckpt.start_from)).path))
            return {}
        self.heartbeat.tick(f"reading {own.name}")
        common = self.actor.restore(own)
        self.sfpo.load_state_dict(common["sfpo"])
        if "adaptive_entropy" in common:
            self._adaptive_entropy.load_state_dict(common["adaptive_entropy"])
        return common["client_states"]

    def _agreed(self, choose: Callable[[NestedFlags], Path | None]) -> Any:
        """What rank 0 chooses, on every rank."""
        chosen = [choose(self.args) if self._rank == 0 else None]
        torch.distributed.broadcast_object_list(chosen, device=torch.device("cpu"))
        return chosen[0]

    def append(self, experience: Experience) -> None:
        """Add one batch of rollouts for the next `fit`."""
        names = {
            "old_log_probs": experience.action_log_probs if self._has_old_log_probs else None,
            "advantages": experience.advantages,
            "base_log_probs": experience.base_action_log_probs,
            "rollout_log_probs": experience.rollout_log_probs,
        }
        floats = {name: value for name, value in names.items() if value is not None}
        self._samples += unpad(experience.sequences, experience.action_mask, experience.attention_mask, floats)
        replace_stamps(experience.info, self.sfpo.gate.batches)
        self._infos += sample_infos(experience)

    @_busy
    def fit(self, kl_ctl: float = 0.0) -> dict[str, Any]:
        """One update on the rollouts appended since the last one. Returns metrics, the same on every rank."""
        samples, infos = self._samples, self._infos
        self._samples, self._infos = [], []
        entropy_coef = self.args.actor.entropy_coef or 0.0
        if self._adaptive_entropy.enable:
            entropy_coef = self._adaptive_entropy.weight(self._sampled_entropy(samples))
        loss = OpenRLHFLoss(self.args, kl_ctl, entropy_coef)
        (stale,) = self.actor.shards.reduce([float(not self._gap_watch.watches(infos))], "max")

        def gap() -> list[float]:
            return [0.0, 0.0] if stale else self.actor.token_sums(loss.engine_gap.sums)

        def zero_rewards() -> float | None:
            rewards = [info["reward"] for info in infos]
            zeros, count = self.actor.token_sums(torch.tensor([rewards.count(0.0), len(rewards)], dtype=torch.float64))
            return zeros / count if count else None

        status = self.actor.update(samples, loss, self.sfpo, lambda: self._gap_watch.check(*gap()), zero_rewards)
        notice = self._gap_watch.notice(*gap())
        if notice and self._rank == 0:
            self.events.send("notice", text=notice)
        for ours, theirs in (("entropy", "entropy_loss"), ("clip_ratio", "ppo_clip_ratio")):
            if ours in status:
                status[theirs] = status.pop(ours)
        if self._adaptive_entropy.enable:
            status["adaptive_entropy_coef"] = entropy_coef
        self._return_cached_memory()
        return {**mean_infos(infos), **status, **self._gate_notices.as_status(status, self.events)}

    def _sampled_entropy(self, samples: list[Sample]) -> float:
        """Minus the mean log-probability of the samples' tokens at theta_0, over all ranks; NaN without tokens."""
        sums = torch.zeros(2, dtype=torch.float64)
        for sample in samples:
            if sample.old_log_probs is not None:
                scored = sample.old_log_probs[sample.action_mask]
                sums += torch.stack([-scored.sum(), torch.tensor(float(len(scored)))]).double()
        total, tokens = self.actor.token_sums(sums)
        return total / tokens if tokens else math.nan

    @_busy
    def broadcast_to_vllm(self) -> None:
        """Send the weights to the engines."""
        assert self._sync is not None
        self._stage("weights to vLLM")
        if self.args.vllm.enable_prefix_caching and self._rank == 0:
            self._sync.reset_prefix_caches()
        metrics = self._sync.send(self.sfpo.gate.batches)
        self._return_cached_memory()
        if self._rank == 0:
            self.events.send("sync", metrics=metrics)

    @_busy
    def send_weights_again(self) -> None:
        """Send engines the weights that they discarded during sleep."""
        assert self._sync is not None
        self._stage("weights to engines that slept")
        self._sync.send(number=None)
        self._return_cached_memory()

    @_busy
    def offload_states(self) -> None:
        """Offload the training state to host memory; with --megatron.offload_parameters also the parameters."""
        self._stage("moving the training state to host memory")
        self.actor.offload_states()

    @_busy
    def reload_states(self) -> None:
        """Reload the offloaded state."""
        self._stage("moving the training state back")
        self.actor.reload_states()

    def _return_cached_memory(self) -> None:
        """Return torch's cached memory, so that the engines can use it."""
        if engines_share_gpus(self.args) and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @_busy
    def reconnect_engines(self) -> None:
        """Connect to the engines again after some of them were restarted, and send all of them the weights."""
        self._stage("weights to restarted engines")
        self._sync = self._new_sync()
        self._sync.send(self.sfpo.gate.batches)

    @_busy
    def save_model(self) -> None:
        """Write the final model as a Hugging Face directory."""
        self._stage("saving the model")
        self._writer.wait()
        self.actor.save_pretrained(self.args.ckpt.output_dir)

    @_busy
    def save_checkpoint(
        self,
        tag: str,
        client_states: dict[str, Any] | None = None,
        metric_value: float | None = None,
        metric_key: str | None = None,
    ) -> None:
        """Write the training state to --ckpt.path/_actor/TAG, in the background unless --no-ckpt.async_save, and with
        --ckpt.save_hf the model to --ckpt.path/TAG_hf."""
        self._stage("saving a checkpoint")
        directory, states = Path(self.args.ckpt.path), client_states or {}
        if not self.args.ckpt.disable_ds:
            manifest = {
                "tag": tag,
                "metric_key": metric_key,
                "metric_value": metric_value if metric_value is None or math.isfinite(metric_value) else None,
                "settings": _settings(self.args),
            }
            common = {
                "client_states": states,
                "sfpo": self.sfpo.state_dict(),
                "adaptive_entropy": self._adaptive_entropy.state_dict(),
            }
            step = int(states.get("global_step", self.sfpo.gate.batches))
            self._writer.save(
                directory / PLACE / tag,
                lambda: self.actor.contents(step, common, manifest),
                wait=not self.args.ckpt.async_save,
            )
        if self.args.ckpt.save_hf:
            self.actor.save_pretrained(str(directory / f"{tag}_hf"))
            if self._rank == 0:
                rotate_models(directory, tag, self.args.ckpt.max_num)

    def finish_checkpoint(self) -> str | None:
        """Wait for the checkpoint that is being written. Return, on rank 0, why the last checkpoint failed, or None."""
        with self.heartbeat.busy("finishing a checkpoint"):
            saved = self._writer.wait()
        return saved.error if saved is not None else None

    def get_checkpoint_states(self) -> dict[str, Any]:
        return self._states

    def _on_saved(self, saved: Saved) -> None:
        """Called in the writer thread of rank 0."""
        fields = dataclasses.asdict(saved)
        target = fields.pop("target")
        if saved.error is None:
            try:
                rotate(target.parent, self.args.ckpt.max_num, self.args.ckpt.max_mem * 2**30)
            except OSError as error:
                self.events.send("notice", text=f"old checkpoints could not be removed: {error}")
        self.events.send("checkpoint", tag=target.name, **fields)

    def _stage(self, text: str) -> None:
        self.heartbeat.tick(text)
        if self._rank == 0:
            self.events.send("phase", text=text)

    def forward(
        self,
        sequences: list[torch.Tensor],
        action_mask: list[torch.Tensor],
        attention_mask: list[torch.Tensor],
        **ignored: Any,
    ) -> list[torch.Tensor]:
        """Like the reference model's; NaN if the update computes the old log-probabilities itself."""
        own = sum(len(tokens) for tokens in sequences)
        total = self.actor.shards.reduce([own / self.actor.layout.model_parallel_size], "sum")[0]
        self._has_old_log_probs = needs_old_log_probs(self.args, round(total))
        if not self._has_old_log_probs:
            return [torch.full(actions.shape, torch.nan) for actions in action_mask]
        with self.heartbeat.busy("old log-probabilities"):
            self._stage("old log-probabilities")
            return super().forward(sequences, action_mask, attention_mask)


def _settings(args: NestedFlags) -> dict[str, Any]:
    """The run's settings, from its launcher; under a patched OpenRLHF, which has none, from the flags."""
    text = getattr(args.run, "settings", None)
    return json.loads(text) if text else portable(dotted(args))


def _checkpoint_of(args: NestedFlags) -> Path | None:
    """The checkpoint to continue from: the launcher's choice; under a patched OpenRLHF, the newest in --ckpt.path."""
    chosen = getattr(args.ckpt, "resume_from", None)
    if chosen is not None:
        return Path(chosen)
    if not args.ckpt.load_enable:
        return None
    found = newest_complete(Path(args.ckpt.path) / PLACE, print)
    return found.path if found else None


class ReferenceActor(MegatronModelActor):
    """The frozen reference model of a KL term."""

    def init_model_from_pretrained(self, strategy: HoldsFlags, pretrain: str) -> None:
        self._start(strategy, pretrain, max_steps=None, train=False)
        if self.args.ref.offload:
            self.actor.offload_states()  # each `forward` reloads it
