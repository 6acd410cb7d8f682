"""OpenRLHF's trainers with a run directory: recording, replaying, evaluation before and after, events.

Each class only adds around the methods of OpenRLHF's; what they do is unchanged.
"""

import copy
import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_sfpo.orchestration.events import Events
from openrlhf_sfpo.orchestration.undecorated import undecorated
from openrlhf_sfpo.report.statistics import standard_errors
from openrlhf_sfpo.rollout.recording import RolloutRecord, load_rollouts, record_files, save_rollouts


def _seed(args: Any) -> None:
    """Make --train.seed decide the order of the prompts. OpenRLHF seeds the processes of the actors, not the one that
    shuffles, whose order would be the same for every seed."""
    transformers.set_seed(args.train.seed)


class _Reports:
    """What both trainers add around BasePPOTrainer's methods."""

    args: Any
    tokenizer: Any

    def train_step(self, rollout_samples: list[Experience], global_step: int) -> tuple[dict[str, Any], int]:
        events = self._events()
        if self.args.rollout.record_dir:
            save_rollouts(self.args.rollout.record_dir, global_step + 1, [to_record(s) for s in rollout_samples])
        count = self.args.run.samples_per_step
        # Spread over the batch: samples of one prompt are neighbours.
        shown = rollout_samples[:: max(1, len(rollout_samples) // max(1, count))][:count]
        events.send("samples", step=global_step + 1, samples=[self._show(sample) for sample in shown])
        return super().train_step(rollout_samples, global_step)

    def save_logs_and_checkpoints(
        self, global_step: int, logs_dict: dict[str, Any] | None = None, client_states: Any = None
    ) -> None:
        super().save_logs_and_checkpoints(global_step, logs_dict, client_states)
        metrics = {key: value for key, value in (logs_dict or {}).items() if key != "generated_samples"}
        self._events().send("step", step=global_step, metrics=metrics)

    def _events(self) -> Events:
        if not hasattr(self, "_event_sender"):
            self._event_sender = Events()
        return self._event_sender

    def _show(self, sample: Experience) -> dict[str, Any]:
        text = self.tokenizer.decode(sample.sequences[0], skip_special_tokens=False)
        prompt = sample.prompts[0]
        return {
            "prompt": prompt,
            "response": text.removeprefix(prompt),
            "label": sample.labels[0],
            "reward": sample.rewards[0].item() if sample.rewards is not None else None,
            "truncated": bool(sample.truncated[0]),
        }


class Trainer(_Reports, undecorated(ppo_trainer.PPOTrainer)):
    """The synchronous trainer."""

    def __init__(self, pretrain: str, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _seed(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)
        if self.args.rollout.replay_dir:
            self.samples_generator = Replay(self.args.rollout.replay_dir)
        else:
            self.samples_generator = _Watched(self.samples_generator, self._events(), pretrain)
        self._evaluated_at = -1

    def restart(self, *args: Any, **kwargs: Any) -> None:
        """Be a new trainer for the next run."""
        vars(self).clear()
        self.__init__(*args, **kwargs)

    def fit(self, global_step: int = 0) -> None:
        at_ends = self.eval_dataloader is not None and self.args.run.eval_at_ends
        if at_ends:
            self._evaluate(global_step)
        with self._loggers_kept_open():
            super().fit(global_step)
            if at_ends and self._last_step > self._evaluated_at:
                self._evaluate(self._last_step)

    def train_step(self, rollout_samples: list[Experience], global_step: int) -> tuple[dict[str, Any], int]:
        status, self._last_step = super().train_step(rollout_samples, global_step)
        return status, self._last_step

    @torch.no_grad()
    def evaluate(self, global_step: int, **generate_kwargs: Any) -> dict[str, float]:
        self._events().send("phase", text=f"evaluating on {len(self.eval_dataloader.dataset)} prompts", long=True)
        logs = super().evaluate(global_step, **generate_kwargs)
        self._evaluated_at = global_step
        return self.samples_generator.report_evaluation(global_step, logs, self.eval_dataloader)

    _last_step = 0

    def _evaluate(self, global_step: int) -> None:
        kwargs = {
            **self.generate_kwargs,
            "temperature": self.args.eval.temperature,
            "n_samples_per_prompt": self.args.eval.n_samples_per_prompt,
        }
        self.evaluate(global_step, **kwargs)

    @contextmanager
    def _loggers_kept_open(self) -> Iterator[None]:
        """OpenRLHF closes its loggers at the end of `fit`; the evaluation after it logs as well."""
        loggers = [logger for logger in (self.wandb_logger, self.tensorboard_logger) if logger]
        for logger in loggers:
            logger.close = lambda: None
        yield
        for logger in loggers:
            del logger.close
            logger.close()


class TrainingActor(_Reports, undecorated(ppo_trainer_async.TrainingActor)):
    """The training half of the asynchronous trainer.

    OpenRLHF's methods that call super() are repeated here, because Ray sends inherited methods by value, and their
    super() would then mean a copy of the class that this one does not derive from.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def broadcast_to_vllm(self) -> None:
        super().broadcast_to_vllm()


class GenerateSamplesActor(undecorated(ppo_trainer_async.GenerateSamplesActor)):
    """The rollout half of the asynchronous trainer; evaluations run here."""

    def __init__(self, pretrain: str, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _seed(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)
        self.samples_generator = _Watched(self.samples_generator, Events(), pretrain)

    def _run_eval(self) -> dict[str, float]:
        logs = super()._run_eval()
        return self.samples_generator.report_evaluation(self._last_eval_step, logs, self.eval_dataloader)


class _Watched:
    """A samples generator that announces what it does, adds errors to evaluations and sends no tokenizers."""

    def __init__(self, generator: Any, events: Events, pretrain: str) -> None:
        self._generator = generator
        generator.tokenizer = _TokenizerAt(pretrain, not generator.args.data.disable_fast_tokenizer)
        self._events = events
        self._eval_samples: list[Experience] = []
        self._eval_samples_per_prompt = 1

    def generate_samples(self, **kwargs: Any) -> Any:
        self._events.send("phase", text="rollout")
        samples, *rest = self._generator.generate_samples(**kwargs)
        rollout = self._generator.args.rollout
        if rollout.deterministic:
            samples = in_lasting_order(samples, rollout.n_samples_per_prompt)
        return samples, *rest

    def generate_eval_samples(self, **kwargs: Any) -> list[Experience]:
        """As OpenRLHF's, with as many samples in flight as a rollout batch has.

        OpenRLHF sends --rollout.batch_size prompts at a time, which starves the engines when an evaluation draws fewer
        samples from each prompt than training does.
        """
        args = self._generator.args
        wanted = args.rollout.batch_size * args.rollout.n_samples_per_prompt // kwargs["n_samples_per_prompt"]
        self._eval_samples_per_prompt = kwargs["n_samples_per_prompt"]
        larger = copy.copy(args)
        larger.rollout = copy.copy(args.rollout)
        larger.rollout.batch_size = max(args.rollout.batch_size, wanted)
        self._generator.args = larger
        try:
            self._eval_samples = self._generator.generate_eval_samples(**kwargs)
        finally:
            self._generator.args = args
        return self._eval_samples

    def report_evaluation(self, step: int, logs: dict[str, float], eval_dataloader: Any) -> dict[str, float]:
        """The metrics of the evaluation just made, `logs`, with their standard errors; announced as well."""
        logs = {**logs, **evaluation_errors(self._eval_samples, self._eval_samples_per_prompt, eval_dataloader)}
        self._events.send("eval", step=step, metrics=logs)
        return logs


class _TokenizerAt:
    """Arrives in another process as the model's tokenizer.

    OpenRLHF sends its tokenizer along with every prompt, and unpickling one takes 0.2 s and more. This one is loaded
    there once.
    """

    def __init__(self, pretrain: str, use_fast: bool) -> None:
        self._arguments = (pretrain, use_fast)

    def __reduce__(self) -> tuple[Any, ...]:
        return _tokenizer_at, self._arguments


@functools.cache
def _tokenizer_at(pretrain: str, use_fast: bool) -> Any:
    from openrlhf.utils.utils import get_tokenizer

    return get_tokenizer(pretrain, None, "left", use_fast=use_fast)


class Replay:
    """A samples generator that reads recorded batches instead of asking an engine."""

    def __init__(self, directory: str) -> None:
        self._files = record_files(directory)

    def generate_samples(self, **kwargs: Any) -> tuple[list[Experience], float | None, int, bool]:
        """One recorded batch: (samples, filter pass rate, prompts consumed, whether it was the last)."""
        if not self._files:
            return [], None, 0, True
        samples = [to_experience(record) for record in load_rollouts(self._files.pop(0))]
        prompts = len({sample.prompts[0] for sample in samples})
        return samples, None, prompts, not self._files


def to_record(sample: Experience) -> RolloutRecord:
    """One fresh rollout (a batch of one, without padding) as it is written to disk."""
    log_probs = sample.rollout_log_probs
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
    """The reverse of `to_record`."""
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


def evaluation_errors(samples: list[Experience], per_prompt: int, eval_dataloader: Any) -> dict[str, float]:
    """Standard errors of each data source's pass1, named as OpenRLHF names its evaluation metrics."""
    source_of = {
        prompt: source
        for sources, prompts, *_ in eval_dataloader
        for source, prompt in zip(sources, prompts, strict=True)
    }
    scores: dict[str, list[list[float]]] = {}
    for start in range(0, len(samples), per_prompt):
        group = samples[start : start + per_prompt]
        source = source_of.get(group[0].prompts[0], "unknown")
        scores.setdefault(source, []).append([sample.rewards[0].item() for sample in group])
    errors = {}
    for source, by_prompt in scores.items():
        errors[f"eval_{source}_prompts"] = float(len(by_prompt))
        for name, value in standard_errors(by_prompt).items():
            errors[f"eval_{source}_pass1_{name}"] = value
    return errors


def in_lasting_order(samples: list[Experience], group_size: int) -> list[Experience]:
    """Groups of samples, which come in the order in which the engines finished, in an order of their content.

    By a hash of the prompt, and no order of the text, because similar prompts must not end up in the same train batch.
    A prompt may be there twice: its groups stay whole, and their responses decide.
    """

    def content(group: list[Experience]) -> tuple[bytes, list[list[int]]]:
        prompt = hashlib.sha256(group[0].prompts[0].encode()).digest()
        return prompt, [sample.sequences.flatten().tolist() for sample in group]

    groups = [samples[start : start + group_size] for start in range(0, len(samples), group_size)]
    return [sample for group in sorted(groups, key=content) for sample in group]
