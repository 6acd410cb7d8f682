"""OpenRLHF's trainers with a run directory: recording, replaying, evaluation before and after training, events.

Each class only wraps OpenRLHF's methods, which are unchanged.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
import transformers
from openrlhf.trainer import ppo_trainer, ppo_trainer_async

from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.config.namespaces import HoldsFlags, NestedFlags
from openrlhf_sfpo.orchestration.data_position import DataPosition
from openrlhf_sfpo.orchestration.engine_pool import EnginePool
from openrlhf_sfpo.orchestration.evaluation import evaluation_errors
from openrlhf_sfpo.orchestration.gate_notices import NOTICE
from openrlhf_sfpo.orchestration.ray_classes import unwrap_ray_class
from openrlhf_sfpo.orchestration.recorded_samples import Replay, to_record
from openrlhf_sfpo.orchestration.sample_generator import SampleGenerator
from openrlhf_sfpo.rollout.batch_metrics import take
from openrlhf_sfpo.rollout.recording import save_rollouts
from openrlhf_sfpo.system.random_state import random_numbers_kept
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS
from openrlhf_sfpo.system.replacements import replaced_on
from openrlhf_sfpo.system.run_errors import NonFiniteBatch, NonFiniteUpdate, Stopped
from openrlhf_sfpo.tasks.responses import ResponseDecoder

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.openrlhf_types import BasePPOTrainer as _TrainerBase
    from openrlhf_sfpo.orchestration.openrlhf_types import Experience, GeneratesSamples, PromptLoader, SamplesGenerator
    from openrlhf_sfpo.orchestration.openrlhf_types import GenerateSamplesActor as _GenerateSamplesActor
    from openrlhf_sfpo.orchestration.openrlhf_types import PPOTrainer as _PPOTrainer
    from openrlhf_sfpo.orchestration.openrlhf_types import TrainingActor as _TrainingActor
else:
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

    _TrainerBase = object
    _PPOTrainer = unwrap_ray_class(ppo_trainer.PPOTrainer)
    _TrainingActor = unwrap_ray_class(ppo_trainer_async.TrainingActor)
    _GenerateSamplesActor = unwrap_ray_class(ppo_trainer_async.GenerateSamplesActor)


def _seed(args: NestedFlags) -> None:
    """Make --train.seed determine the order of the prompts. OpenRLHF seeds the actors' processes, not the one that
    shuffles, so the order would be the same for every seed."""
    transformers.set_seed(args.train.seed)


class _SendsEvents:
    """A worker that reports to the driver."""

    def _events(self) -> Events:
        if not hasattr(self, "_event_sender"):
            self._event_sender = Events()
        return self._event_sender


class _Reports(_SendsEvents, _TrainerBase):
    """The additions of both trainers to BasePPOTrainer's methods."""

    _saved_step = -1
    _last_step = 0
    _last_states: dict[str, Any] | None = None

    def train_step(self, rollout_samples: list[Experience], global_step: int) -> tuple[dict[str, Any], int]:
        events, step = self._events(), global_step + 1
        if self.args.rollout.record_dir:
            save_rollouts(self.args.rollout.record_dir, step, [to_record(s) for s in rollout_samples])
        batch_metrics = take(rollout_samples)
        count = self.args.run.samples_per_step
        # Spread over the batch, because samples of one prompt are consecutive.
        shown = rollout_samples[:: max(1, len(rollout_samples) // max(1, count))][:count]
        self._shown = [self._show(sample) for sample in shown]
        events.send("samples", step=step, samples=self._shown)
        bad = next((r for s in rollout_samples if not math.isfinite(r := _reward(s))), None)
        if bad is not None:
            source = ", ".join(self.args.reward.remote_url or ["the agent"])
            what = f"a reward is {bad}; rewards must be finite numbers (it comes from {source})"
            self._record_skipped_batch(step, rollout_samples, what)
            return {"skipped_update": 1.0, "rollout/num_samples": float(len(rollout_samples)), **batch_metrics}, step
        try:
            status, step = super().train_step(rollout_samples, global_step)
        except Exception as error:
            reason = _non_finite(error)
            if reason is None:
                raise
            self._record_skipped_batch(step, rollout_samples, reason)
            raise
        notice = status.pop(NOTICE, None)
        if notice is not None:
            events.send("notice", text=f"step {step}: {notice}")
        reason = status.pop("skipped_because", None)
        if reason is not None:
            self._record_skipped_batch(step, rollout_samples, reason)
        return {**status, **batch_metrics}, step

    def save_logs_and_checkpoints(
        self, global_step: int, logs_dict: dict[str, Any] | None = None, client_states: dict[str, Any] | None = None
    ) -> None:
        metrics = {key: value for key, value in (logs_dict or {}).items() if key != "generated_samples"}
        self._events().send("step", step=global_step, metrics=metrics)
        if client_states is not None:
            # The same object goes into the best checkpoint, which is saved next.
            client_states.update(metrics=metrics, samples=self._shown, kl_coef=self.kl_ctl.value)
        self._last_step, self._last_states = global_step, client_states
        super().save_logs_and_checkpoints(global_step, logs_dict, client_states)
        if global_step % self.args.ckpt.save_steps == 0:
            self._saved_step = global_step
        if self._events().stop_requested():
            self._stop(global_step, client_states)

    def init_checkpoint_states(self) -> dict[str, Any]:
        """Like OpenRLHF's; without a checkpoint, the initial states."""
        begin: dict[str, Any] = {
            "episode": 0,
            "global_step": 0,
            "total_consumed_prompts": 0,
            "data_loader_state_dict": {},
        }
        states = begin | super().init_checkpoint_states()
        if states["global_step"] > 0:
            self._saved_step = states["global_step"]
            self.kl_ctl.value = states.get("kl_coef", self.kl_ctl.value)
        return states

    def _stop(self, step: int, client_states: dict[str, Any] | None) -> None:
        """End the run with a checkpoint of the last finished step, if any.

        Raises:
            Stopped: always.
        """
        if step == 0:
            raise Stopped("stopped before the first step was finished")
        if self.args.ckpt.disable_ds:
            raise Stopped(f"stopped after step {step}, without a checkpoint (--ckpt.disable_ds)")
        self._save(step, client_states)
        (error, *_) = ray.get(self.actor_model_group.async_run_method(method_name="finish_checkpoint"))
        if error is not None:
            raise Stopped(f"stopped after step {step}; its checkpoint could not be written ({error})")
        raise Stopped(f"stopped after step {step}; its checkpoint is saved")

    def _save(self, step: int, client_states: dict[str, Any] | None) -> None:
        """Write a checkpoint of the last finished step, unless there is one."""
        if client_states is None or step in (0, self._saved_step) or self.args.ckpt.disable_ds:
            return
        states = {
            **client_states,
            "best_eval_metric_key": self.best_eval_metric_key,
            "best_eval_metric_value": self.best_eval_metric_value,
            "latest_eval_metric_value": self._latest_eval_metric_value,
        }
        save = {"tag": f"global_step{step}", "client_states": states}
        ray.get(self.actor_model_group.async_run_method(method_name="save_checkpoint", **save))
        self._saved_step = step

    def _save_last(self) -> None:
        """With --ckpt.save_last, write a checkpoint after the last step."""
        if self.args.ckpt.save_last:
            self._save(self._last_step, self._last_states)

    def _record_skipped_batch(self, step: int, samples: list[Experience], reason: str) -> None:
        """Record an untrainable batch, then continue or raise as --train.on_nonfinite says."""
        directory = Path(self.args.run.dir) / "nonfinite"
        file = save_rollouts(str(directory), step, [to_record(sample) for sample in samples])
        what = f"step {step}: {reason}; the batch is recorded in {file} (--rollout.replay_dir {directory})"
        if self.args.train.on_nonfinite == "stop":
            raise NonFiniteBatch(
                f"{what}. The weights of the last checkpoint are from before it. To continue without such batches, run "
                "the same command with --train.on_nonfinite skip."
            )
        self._events().send("notice", text=f"{what}. The update is skipped: the weights are unchanged.")

    def _show(self, sample: Experience) -> dict[str, Any]:
        tokens, mask = sample.sequences[0].tolist(), sample.action_mask[0].tolist()
        return {
            "prompt": sample.prompts[0],
            "response": ResponseDecoder(self.tokenizer).of_sequence(tokens, mask),
            "label": sample.labels[0],
            "reward": sample.rewards[0].item() if sample.rewards is not None else None,
            "truncated": bool(sample.truncated[0]),
        }


class _EvaluationReports(_SendsEvents):
    """The additions of the two classes that evaluate."""

    samples_generator: "GeneratesSamples"
    eval_dataloader: "PromptLoader | None"

    def _report_evaluation(self, step: int, logs: dict[str, float]) -> dict[str, float]:
        """The metrics of the last evaluation with their standard errors; also sends them to the driver."""
        generator, loader = self.samples_generator, self.eval_dataloader
        assert isinstance(generator, SampleGenerator) and loader is not None
        logs = {**logs, **evaluation_errors(generator.evaluated, loader)}
        self._events().send("eval", step=step, metrics=logs)
        return logs


class Trainer(_Reports, _EvaluationReports, _PPOTrainer):
    """The synchronous trainer."""

    def __init__(self, pretrain: str, strategy: HoldsFlags, *args: Any, **kwargs: Any) -> None:
        _seed(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)
        self._events().register("trainer")
        self._pool: EnginePool | None = None
        if self.args.rollout.replay_dir:
            self.samples_generator = Replay(self.args.rollout.replay_dir)
        else:
            generator, events = self.samples_generator, self._events()
            assert isinstance(generator, SamplesGenerator)
            self._pool = EnginePool.of(generator.vllm_engines, self.args, events)
            self.samples_generator = SampleGenerator(generator, self._pool, events, pretrain, ends_on_request=True)
        self.prompts_dataloader = DataPosition(self.prompts_dataloader, self.samples_generator)
        self._evaluated_at = -1
        self._best_restored = False
        self._known: dict[str, Any] | None = None

    def restart(self, *args: Any, **kwargs: Any) -> None:
        """Reinitialize in place, for the next run."""
        self.__dict__.clear()
        type(self).__init__(self, *args, **kwargs)

    def fit(self, global_step: int = 0) -> None:
        states = self.init_checkpoint_states()
        self._last_step, self._last_states = states["global_step"], dict(states)
        self._events().send("training", step=self._last_step)
        with self._loggers_kept_open():
            try:
                if self._last_step:
                    self._continue_from_checkpoint(states)
                elif self._evaluates_at_ends:
                    self._evaluate(self._last_step)
                super().fit(global_step)
                self._save_last()
                if self._evaluates_at_ends and self._last_step > self._evaluated_at:
                    self._evaluate(self._last_step)
            except Stopped as stopped:
                if stopped.args:
                    raise
                self._stop(self._last_step, self._last_states if self._last_step else None)  # during a rollout

    def train_step(self, rollout_samples: list[Experience], global_step: int) -> tuple[dict[str, Any], int]:
        status, self._last_step = super().train_step(rollout_samples, global_step)
        return status, self._last_step

    def broadcast_to_vllm(self) -> None:
        if self._pool is not None:  # a recording needs no weights
            self._pool.send_weights(super().broadcast_to_vllm)
        if self._known is not None:
            # Send the lines of the step that the run continues from: they are missing if the run ended before they were
            # written.
            step = self._known["global_step"]
            self._events().send("samples", step=step, samples=self._known["samples"], again=True)
            self._events().send("step", step=step, metrics=self._known["metrics"], again=True)
            self._known = None

    @torch.no_grad()
    def evaluate(self, global_step: int, **generate_kwargs: Any) -> dict[str, float]:
        assert self.eval_dataloader is not None
        self._events().send("phase", text=f"evaluating on {len(self.eval_dataloader.dataset)} prompts", long=True)
        with random_numbers_kept():
            logs = super().evaluate(global_step, **generate_kwargs)
            self._evaluated_at = global_step
            return self._report_evaluation(global_step, logs)

    @property
    def _evaluates_at_ends(self) -> bool:
        return self.eval_dataloader is not None and self.args.run.eval_at_ends

    def restore_best_checkpoint_state(self, checkpoint_states: dict[str, Any]) -> None:
        """Like OpenRLHF's, but only once: `fit` calls it again, when a better evaluation may already exist."""
        if not self._best_restored:
            super().restore_best_checkpoint_state(checkpoint_states)
        self._best_restored = True

    def _continue_from_checkpoint(self, states: dict[str, Any]) -> None:
        """Repeat what the interrupted run did between saving this checkpoint and its next step."""
        step = states["global_step"]
        self.restore_best_checkpoint_state(states)
        self._known = states
        due = self.eval_dataloader is not None and step % self.args.eval.steps == 0
        if due and states.get("checkpoint_metric_key") is None:  # a best checkpoint is saved after the evaluation
            self.broadcast_to_vllm()
            self.save_best_checkpoint(self._evaluate(step), step, states)

    def _evaluate(self, global_step: int) -> dict[str, float]:
        kwargs = {
            **self.generate_kwargs,
            "temperature": self.args.eval.temperature,
            "n_samples_per_prompt": self.args.eval.n_samples_per_prompt,
        }
        return self.evaluate(global_step, **kwargs)

    @contextmanager
    def _loggers_kept_open(self) -> Iterator[None]:
        """Keep the loggers open that OpenRLHF closes at the end of `fit`: the evaluation after it uses them, too."""
        loggers = [logger for logger in (self.wandb_logger, self.tensorboard_logger) if logger]
        with ExitStack() as stack:
            for logger in loggers:
                close = ON_OBJECTS[f"openrlhf.utils.logging_utils.{type(logger).__name__}.close"]
                stack.enter_context(replaced_on(close, logger, lambda: None))
            yield
        for logger in loggers:
            logger.close()


class TrainingActor(_Reports, _TrainingActor):
    """The training half of the asynchronous trainer.

    OpenRLHF's methods that call super() are redefined here, because Ray sends inherited methods by value, and their
    super() would refer to a copy of the class that this class is not derived from.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._events().register("trainer")

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        self._events().send("training", step=0)
        result = super().fit(*args, **kwargs)
        self._save_last()
        return result

    def broadcast_to_vllm(self) -> None:
        super().broadcast_to_vllm()


class GenerateSamplesActor(_EvaluationReports, _GenerateSamplesActor):
    """The rollout half of the asynchronous trainer; evaluations run here."""

    def __init__(self, pretrain: str, strategy: HoldsFlags, *args: Any, **kwargs: Any) -> None:
        _seed(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)
        # Not on request: the training half ends the run, because otherwise the step in progress would be lost.
        generator, events = self.samples_generator, self._events()
        assert isinstance(generator, SamplesGenerator)
        pool = EnginePool.of(generator.vllm_engines, generator.args, events)
        self.samples_generator = SampleGenerator(generator, pool, events, pretrain, ends_on_request=False)
        self.prompts_dataloader = DataPosition(self.prompts_dataloader, self.samples_generator)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            super().load_state_dict(state_dict)

    def _run_eval(self) -> dict[str, float]:
        with random_numbers_kept():
            logs = super()._run_eval()
            return self._report_evaluation(self._last_eval_step, logs)


def _reward(sample: Experience) -> float:
    """A sample's reward; 0 if it has none, which is not checked here."""
    return 0.0 if sample.rewards is None else sample.rewards[0].item()


def _non_finite(error: BaseException) -> str | None:
    """The non-finite quantity, if that is why the actors' update failed."""
    cause = getattr(error, "cause", error)
    return str(cause) if isinstance(cause, NonFiniteUpdate) else None
