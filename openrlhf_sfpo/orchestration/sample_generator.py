"""Where rollouts come from: vLLM engines that are looked after, or a recording. Both know their place in the data."""

import copy
import functools
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.orchestration.engine_pool import EnginePool, is_engine_failure
from openrlhf_sfpo.rollout.recording import RolloutRecord, load_rollouts, record_files
from openrlhf_sfpo.rollout.staleness import STAMP
from openrlhf_sfpo.system.errors import Stopped
from openrlhf_sfpo.system.random_state import rng_state, set_rng_state
from openrlhf_sfpo.system.statistics import standard_errors

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Request:
    """A prompt that an engine was asked to answer."""

    prompt: str
    label: str
    image: Any
    engine: int = -1


class Rollouts(SamplesGenerator):
    """OpenRLHF's samples generator, which also announces what it does, restarts engines that fail, and has a place in
    the data that can be saved.

    Args:
        generator: OpenRLHF's.
        events: who is told.
        pretrain: the model directory, for its tokenizer.
        ends_on_request: raise `Stopped` in the middle of a rollout if the run shall end.
    """

    def __init__(self, generator: SamplesGenerator, events: Events, pretrain: str, ends_on_request: bool) -> None:
        vars(self).update(vars(generator))
        missing = missing_start(generator.tokenizer, generator.prompts_dataloader.dataset.prompts[0])
        if missing:
            events.send("notice", text=missing)
        self.tokenizer = _TokenizerAt(pretrain, not self.args.data.disable_fast_tokenizer)
        self._events = events
        self._ends_on_request = ends_on_request
        sleeps = self.args.vllm.enable_sleep
        limits = self.args.rollout
        self._pool = EnginePool(
            self.vllm_engines, limits.engine_timeout, events, sleeps, start_timeout=limits.engine_start_timeout
        )
        self._awake = False
        # OpenRLHF would wake engines and put them to sleep without a look at which of them are alive.
        self.args = copy.copy(self.args)
        self.args.vllm = copy.copy(self.args.vllm)
        self.args.vllm.enable_sleep = False
        self._dataloader_iter: Any = None
        self._sample_buffer: list[Experience] = []
        self._eval_samples: list[Experience] = []
        self._eval_samples_per_prompt = 1

    def generate_samples(self, **kwargs: Any) -> Any:
        self._events.send("phase", text="rollout")
        samples, *rest = super().generate_samples(**kwargs)
        if self.args.rollout.deterministic:
            samples = in_lasting_order(samples, self.args.rollout.n_samples_per_prompt)
        return samples, *rest

    def generate_eval_samples(self, **kwargs: Any) -> list[Experience]:
        """As OpenRLHF's, with as many samples in flight as a rollout batch has, and graded by the reward function's
        scores: rewards may pay for more than right answers.

        OpenRLHF sends --rollout.batch_size prompts at a time, which starves the engines when an evaluation draws fewer
        samples from each prompt than training does.
        """
        args = self.args
        wanted = args.rollout.batch_size * args.rollout.n_samples_per_prompt // kwargs["n_samples_per_prompt"]
        self._eval_samples_per_prompt = kwargs["n_samples_per_prompt"]
        if args.eval.top_p is not None:
            kwargs["top_p"] = args.eval.top_p
        larger = copy.copy(args)
        larger.rollout = copy.copy(args.rollout)
        larger.rollout.batch_size = max(args.rollout.batch_size, wanted)
        self.args = larger
        try:
            with self._engines_awake():
                self._eval_samples = super().generate_eval_samples(**kwargs)
        finally:
            self.args = args
        for sample in self._eval_samples:
            sample.rewards = sample.rewards if sample.scores is None else sample.scores
        return self._eval_samples

    def report_evaluation(
        self, step: int, logs: dict[str, float], eval_dataloader: "DataLoader[Any]"
    ) -> dict[str, float]:
        """The metrics of the evaluation just made, `logs`, with their standard errors; announced as well."""
        logs = {**logs, **evaluation_errors(self._eval_samples, self._eval_samples_per_prompt, eval_dataloader)}
        self._events.send("eval", step=step, metrics=logs)
        return logs

    def send_weights(self, broadcast: Callable[[], None]) -> None:
        """Send the weights: by `broadcast`, or with the restart of engines that have failed since the rollouts."""
        self._pool.look_at_all()
        if self._pool.all_well:
            self._pool.deliver(broadcast, resting=True)
        else:
            self._pool.restore(resting=True)

    @contextmanager
    def _engines_awake(self) -> Iterator[None]:
        """Around what asks the engines for responses."""
        if self._awake:
            yield
            return
        self._pool.wake_up()
        self._awake = True
        try:
            yield
        finally:
            self._awake = False
            self._pool.put_to_sleep()

    def state_dict(self) -> dict[str, Any]:
        """The place in the data: what comes next, and what was sampled and not yet trained on."""
        return {
            "loader": self.prompts_dataloader.state_dict(),
            "rng": rng_state(),
            "buffer": [to_record(sample) for sample in self._sample_buffer],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called. At the end of an episode nothing of it is left."""
        self._sample_buffer = [to_experience(record) for record in state["buffer"]]
        if state["loader"].get("_iterator_finished"):
            # The loader itself would begin the episode again.
            self._dataloader_iter = None if self._sample_buffer else iter(())
        else:
            self.prompts_dataloader.load_state_dict(state["loader"])
            self._dataloader_iter = iter(self.prompts_dataloader)
        set_rng_state(state["rng"])  # making an iterator draws from them

    def _generate_vllm(self, *args: Any, **kwargs: Any) -> tuple[list[Experience], int, bool]:
        with self._engines_awake():
            return self._generate(*args, **kwargs)

    def _generate(
        self, dataloader_iter: Iterator[Any], num_prompts: int, dynamic_filtering: bool, **kwargs: Any
    ) -> tuple[list[Experience], int, bool]:
        """Samples for `num_prompts` prompts (more are drawn for those that the filter leaves out).

        What an engine owes when it fails waits until the others have answered; then all engines get the weights and the
        prompts are sent again.
        """
        accepted: list[Experience] = []
        waiting, exhausted = _draw(dataloader_iter, num_prompts)
        consumed = len(waiting)
        pending: dict[Any, Request] = {}
        next_question = 0.0
        self._pool.look_at_all()
        while waiting or pending:
            if waiting and (not pending or self._pool.all_well):
                if not self._pool.all_well:
                    self._pool.restore()
                sent, waiting = self._send(waiting, pending, **kwargs)
                pending |= sent
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
            for ref in ready:
                request = pending.pop(ref)
                try:
                    responses = ray.get(ref)
                except Exception as error:
                    if not is_engine_failure(error):
                        raise
                    self._pool.failed(request.engine, error)
                    waiting.append(request)
                    continue
                samples = [self._process_response_into_experience(response, **kwargs) for response in responses]
                if dynamic_filtering and not self._passes(samples):
                    drawn, exhausted = _draw(dataloader_iter, 1)
                    consumed += len(drawn)
                    waiting += drawn
                else:
                    accepted += samples
            self._pool.check()
            if self._ends_on_request and time.monotonic() >= next_question:  # and not with every response
                next_question = time.monotonic() + 1.0
                if self._events.stop_requested():
                    raise Stopped
        self._pool.batch_is_complete()
        return accepted, consumed, exhausted

    def _send(
        self, requests: list[Request], pending: dict[Any, Request], **kwargs: Any
    ) -> tuple[dict[Any, Request], list[Request]]:
        """Send prompts to the engines, to each as many as evens out what they have to do; return what is under way, and
        what was meant for an engine that turned out to be dead."""
        load = Counter(request.engine for request in pending.values())
        shares: dict[int, list[Request]] = {index: [] for index in range(len(self.vllm_engines))}
        for request in requests:
            index = min(shares, key=lambda one: load[one])
            load[index] += 1
            shares[index].append(Request(request.prompt, request.label, request.image, index))
        sent: dict[Any, Request] = {}
        unsent: list[Request] = []
        for index, share in shares.items():
            one = copy.copy(self)
            one.vllm_engines = [self.vllm_engines[index]]
            columns = [[getattr(request, name) for request in share] for name in ("prompt", "label", "image")]
            try:
                refs = one._dispatch_prompts_to_vllm(columns[0], columns[1], images=columns[2], **kwargs)
                sent |= dict(zip(refs, share, strict=True))
            except Exception as error:
                if not is_engine_failure(error):
                    raise
                self._pool.failed(index, error)
                unsent += share
        return sent, unsent

    def _passes(self, samples: list[Experience]) -> bool:
        """Whether dynamic filtering keeps a prompt's samples: by their mean score. One that is not finite is kept: the
        trainer decides what to do about it."""
        if any(sample.scores is None for sample in samples):
            return True
        mean = sum(sample.scores[0].item() for sample in samples) / len(samples)
        low, high = self.args.algo.dynamic_filtering_range
        return low < mean < high or not math.isfinite(mean)


def _draw(prompts: Iterator[Any], count: int) -> tuple[list[Request], bool]:
    """Up to `count` prompts, and whether there were fewer left."""
    drawn: list[Request] = []
    while len(drawn) < count:
        try:
            _, texts, labels, images = next(prompts)
        except StopIteration:
            return drawn, True
        drawn += [Request(*one) for one in zip(texts, labels, images, strict=True)]
    return drawn, False


class DataPosition:
    """Stands for the prompts' loader where OpenRLHF saves and restores it, and answers for the generator, which also
    knows the random numbers and the samples that are left over.

    Args:
        loader: OpenRLHF's.
        generator: `Rollouts` or `Replay`.
    """

    def __init__(self, loader: Any, generator: Any) -> None:
        self._loader = loader
        self.state_dict = generator.state_dict
        self.load_state_dict = generator.load_state_dict

    def __len__(self) -> int:
        return len(self._loader)


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
        self._next = 0

    def generate_samples(self, **kwargs: Any) -> tuple[list[Experience], float | None, int, bool]:
        """One recorded batch: (samples, filter pass rate, prompts consumed, whether it was the last)."""
        if self._next == len(self._files):
            return [], None, 0, True
        samples = [to_experience(record) for record in load_rollouts(self._files[self._next])]
        self._next += 1
        for sample in samples:
            sample.info.pop(STAMP, None)  # counts another run's updates
        prompts = len({sample.prompts[0] for sample in samples})
        return samples, None, prompts, self._next == len(self._files)

    def state_dict(self) -> dict[str, Any]:
        """The place in the recording."""
        return {"batches": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        self._next = state["batches"]


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


def missing_start(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str | None:
    """What to say if the model expects a token at the start of a text that nobody adds: OpenRLHF leaves that to the
    chat template.

    Args:
        tokenizer: the model's.
        prompt: one of the data set's, as the engines get it.
    """
    start = tokenizer.bos_token
    by_itself, as_sent = (tokenizer(prompt, add_special_tokens=adds)["input_ids"][:1] for adds in (True, False))
    if start is None or by_itself != [tokenizer.bos_token_id] or as_sent == by_itself:
        return None
    return (
        f"the model's tokenizer begins a text with {start}, and the prompts do not: "
        f"--data.input_template '{start}{{}}' or --data.apply_chat_template adds it"
    )


def evaluation_errors(
    samples: list[Experience], per_prompt: int, eval_dataloader: "DataLoader[Any]"
) -> dict[str, float]:
    """Standard errors of each data source's pass1, named as OpenRLHF names its evaluation metrics. Copies of a prompt
    are one prompt with the samples of all of them."""
    source_of = {
        prompt: source
        for sources, prompts, *_ in eval_dataloader
        for source, prompt in zip(sources, prompts, strict=True)
    }
    scores: dict[str, dict[str, list[float]]] = {}
    for start in range(0, len(samples), per_prompt):
        group = samples[start : start + per_prompt]
        prompt = group[0].prompts[0]
        of_prompt = scores.setdefault(source_of.get(prompt, "unknown"), {}).setdefault(prompt, [])
        of_prompt += [sample.rewards[0].item() for sample in group]
    errors = {}
    for source, by_prompt in scores.items():
        errors[f"eval_{source}_prompts"] = float(len(by_prompt))
        for name, value in standard_errors(list(by_prompt.values())).items():
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
