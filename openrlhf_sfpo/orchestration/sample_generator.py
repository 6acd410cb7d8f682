"""OpenRLHF's sample generator for vLLM engines, with recovery from engine failures and a position that can be saved."""

import copy
import functools
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openrlhf.trainer.ppo_utils import experience, samples_generator

from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.orchestration.engine_pool import EnginePool
from openrlhf_sfpo.orchestration.evaluation import Evaluated
from openrlhf_sfpo.orchestration.recorded_samples import to_experience, to_record
from openrlhf_sfpo.orchestration.worthwhile import BatchSize, WorthwhilePrompts, without_equal_groups
from openrlhf_sfpo.rollout.batch_metrics import SAMPLED, attach
from openrlhf_sfpo.system.random_state import rng_state, set_rng_state
from openrlhf_sfpo.system.run_errors import Stopped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from openrlhf_sfpo.orchestration.openrlhf_types import Experience, PromptBatch, SamplesGenerator
else:
    Experience = experience.Experience
    SamplesGenerator = samples_generator.SamplesGenerator


@dataclass(frozen=True)
class Request:
    """A prompt for an engine."""

    prompt: str
    label: str
    image: Any


class SampleGenerator(SamplesGenerator):
    """OpenRLHF's sample generator; it also reports progress, resends the prompts of failed engines, and has a position
    in the data that can be saved.

    Args:
        generator: OpenRLHF's.
        pool: the engines.
        events: receives reports.
        pretrain: the model directory, for the tokenizer.
        ends_on_request: raise `Stopped` during a rollout if the run was asked to stop.

    Attributes:
        evaluated: the samples of the last evaluation.
    """

    def __init__(
        self, generator: SamplesGenerator, pool: EnginePool, events: Events, pretrain: str, ends_on_request: bool
    ) -> None:
        self.__dict__.update(vars(generator))
        missing = missing_start(generator.tokenizer, generator.prompts_dataloader.dataset.prompts[0])
        if missing:
            events.send("notice", text=missing)
        self.tokenizer = _TokenizerAt(pretrain, not self.args.data.disable_fast_tokenizer)
        self._events = events
        self._ends_on_request = ends_on_request
        self._next_question = 0.0
        self._pool = pool
        # OpenRLHF would wake engines and put them to sleep without checking which of them are alive.
        self.args = copy.copy(self.args)
        self.args.vllm = copy.copy(self.args.vllm)
        self.args.vllm.enable_sleep = False
        self._dataloader_iter = None
        self._sample_buffer = []
        self.evaluated = Evaluated([], 1)
        self._sampled = 0  # since the last batch
        self._worthwhile = WorthwhilePrompts.of(self.args)

    def generate_samples(self, **kwargs: Any) -> tuple[list[Experience], float | None, int, bool]:
        """Like OpenRLHF's; all samples of a batch carry its metrics (`batch_metrics`)."""
        self._events.send("phase", text="rollout")
        metrics: dict[str, float] = {}
        if self._worthwhile is None:
            samples, pass_rate, consumed, exhausted = super().generate_samples(**kwargs)
            if self.args.algo.drop_equal_groups:
                samples, dropped = without_equal_groups(samples, BatchSize.of(self.args))
                metrics = {"rollout/equal_groups": float(dropped)}
        else:
            pass_rate = None
            samples, consumed, exhausted = self._generate_worthwhile(self._worthwhile, **kwargs)
            if samples:
                metrics = self._worthwhile.end_batch()
        if self.args.rollout.deterministic:
            samples = in_lasting_order(samples, self.args.rollout.n_samples_per_prompt)
        if samples:
            attach(samples, {**metrics, SAMPLED: float(self._sampled)})
            self._sampled = 0
        elif consumed:
            text = f"no update: of the groups of {consumed} prompts too few had rewards that differ"
            self._events.send("notice", text=text)
        return samples, pass_rate, consumed, exhausted

    def _generate_worthwhile(self, worthwhile: WorthwhilePrompts, **kwargs: Any) -> tuple[list[Experience], int, bool]:
        """A batch of groups whose rewards differ, in rounds: (samples, prompts consumed, whether the data ended)."""
        if self._dataloader_iter is None:
            self._dataloader_iter = iter(self.prompts_dataloader)
        prompts, self._dataloader_iter = self._dataloader_iter, None
        batch = worthwhile.new_batch()
        while not batch.is_complete:
            wanted = batch.draw(prompts)
            batch.add(self._generate_vllm(iter(wanted), len(wanted), False, **kwargs)[0] if wanted else [])
        if not batch.exhausted:
            self._dataloader_iter = prompts
        return batch.samples, batch.consumed, batch.exhausted

    def generate_eval_samples(self, **kwargs: Any) -> list[Experience]:
        """Like OpenRLHF's, with as many samples in flight as in a rollout batch, and graded by the reward function's
        scores: rewards may depend on more than correctness.

        OpenRLHF sends --rollout.batch_size prompts at a time, which underuses the engines when an evaluation draws
        fewer samples per prompt than training does.
        """
        args = self.args
        wanted = args.rollout.batch_size * args.rollout.n_samples_per_prompt // kwargs["n_samples_per_prompt"]
        if args.eval.top_p is not None:
            kwargs["top_p"] = args.eval.top_p
        sampled = self._sampled
        larger = copy.copy(args)
        larger.rollout = copy.copy(args.rollout)
        larger.rollout.batch_size = max(args.rollout.batch_size, wanted)
        self.args = larger
        try:
            with self._pool.awake():
                samples = super().generate_eval_samples(**kwargs)
        finally:
            self.args, self._sampled = args, sampled
        for sample in samples:
            sample.rewards = sample.rewards if sample.scores is None else sample.scores
        self.evaluated = Evaluated(samples, kwargs["n_samples_per_prompt"])
        return samples

    def state_dict(self) -> dict[str, Any]:
        """The position in the data: the loader's state, the random state, and the samples not yet trained on."""
        return {
            "loader": self.prompts_dataloader.state_dict(),
            "rng": rng_state(),
            "buffer": [to_record(sample) for sample in self._sample_buffer],
            "greso": None if self._worthwhile is None else self._worthwhile.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position. At the end of an episode, no prompts of it are left."""
        self._sample_buffer = [to_experience(record) for record in state["buffer"]]
        at_end = bool(state["loader"].get("_iterator_finished"))
        if self._worthwhile is not None and state.get("greso") is not None:
            self._worthwhile.load_state_dict(state["greso"], at_end)
        if at_end:
            # The loader itself would start the episode over.
            self._dataloader_iter = None if self._sample_buffer else iter(())
        else:
            self.prompts_dataloader.load_state_dict(state["loader"])
            self._dataloader_iter = iter(self.prompts_dataloader)
        set_rng_state(state["rng"])  # creating an iterator draws random numbers

    def _generate_vllm(self, *args: Any, **kwargs: Any) -> tuple[list[Experience], int, bool]:
        with self._pool.awake():
            return self._generate(*args, **kwargs)

    def _generate(
        self, dataloader_iter: "Iterator[PromptBatch]", num_prompts: int, dynamic_filtering: bool, **kwargs: Any
    ) -> tuple[list[Experience], int, bool]:
        """Samples for `num_prompts` prompts (more are drawn to replace those that the filter drops)."""
        accepted: list[Experience] = []
        waiting, exhausted = _draw(dataloader_iter, num_prompts)
        consumed = len(waiting)
        dispatch = functools.partial(self._dispatch_to, **kwargs)
        for responses in self._pool.answers(waiting, dispatch, self._end_if_asked):
            samples = [self._process_response_into_experience(response, **kwargs) for response in responses]
            self._sampled += len(samples)
            if dynamic_filtering and not self._passes(samples):
                drawn, exhausted = _draw(dataloader_iter, 1)
                consumed += len(drawn)
                waiting += drawn
            else:
                accepted += samples
        return accepted, consumed, exhausted

    def _dispatch_to(self, engine: int, requests: list[Request], **kwargs: Any) -> list[Any]:
        """Send prompts to one engine; return Ray's references to the responses."""
        one = copy.copy(self)
        one.vllm_engines = [self.vllm_engines[engine]]
        columns = [[getattr(request, name) for request in requests] for name in ("prompt", "label", "image")]
        return one._dispatch_prompts_to_vllm(columns[0], columns[1], images=columns[2], **kwargs)

    def _end_if_asked(self) -> None:
        if self._ends_on_request and time.monotonic() >= self._next_question:  # not after every response
            self._next_question = time.monotonic() + 1.0
            if self._events.stop_requested():
                raise Stopped

    def _passes(self, samples: list[Experience]) -> bool:
        """Whether dynamic filtering keeps a prompt's samples, by their mean score. A non-finite one is kept, because
        the trainer decides what to do about it."""
        scores: list[float] = [sample.scores[0].item() for sample in samples if sample.scores is not None]
        if len(scores) < len(samples):
            return True
        mean = sum(scores) / len(scores)
        low, high = self.args.algo.dynamic_filtering_range
        return low < mean < high or not math.isfinite(mean)


def _draw(prompts: "Iterator[PromptBatch]", count: int) -> tuple[list[Request], bool]:
    """Up to `count` prompts, and whether the data ended before that."""
    drawn: list[Request] = []
    while len(drawn) < count:
        try:
            _, texts, labels, images = next(prompts)
        except StopIteration:
            return drawn, True
        drawn += [Request(*one) for one in zip(texts, labels, images, strict=True)]
    return drawn, False


class _TokenizerAt:
    """Unpickles as the model's tokenizer in another process.

    OpenRLHF sends its tokenizer with every prompt, and unpickling one takes 0.2 s or more. This one is loaded once per
    process.
    """

    def __init__(self, pretrain: str, use_fast: bool) -> None:
        self._arguments = (pretrain, use_fast)

    def __reduce__(self) -> tuple[Any, ...]:
        return _tokenizer_at, self._arguments


@functools.cache
def _tokenizer_at(pretrain: str, use_fast: bool) -> Any:
    from openrlhf.utils.utils import get_tokenizer

    return get_tokenizer(pretrain, None, "left", use_fast=use_fast)


def missing_start(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str | None:
    """A warning if the model expects a token at the start of a text that nothing adds: OpenRLHF leaves that to the chat
    template.

    Args:
        tokenizer: the model's.
        prompt: one of the data set's prompts, as the engines get it.
    """
    start = tokenizer.bos_token
    by_itself, as_sent = (tokenizer(prompt, add_special_tokens=adds)["input_ids"][:1] for adds in (True, False))
    if start is None or by_itself != [tokenizer.bos_token_id] or as_sent == by_itself:
        return None
    return (
        f"the model's tokenizer begins a text with {start}, and the prompts do not: "
        f"--data.input_template '{start}{{}}' or --data.apply_chat_template adds it"
    )


def in_lasting_order(samples: list[Experience], group_size: int) -> list[Experience]:
    """Sort groups of samples, which arrive in the order in which engines finish, by their content alone.

    The key is a hash of the prompt rather than its text, because similar prompts must not end up in the same train
    batch. If a prompt occurs twice, its groups stay whole and are ordered by their responses.
    """

    def content(group: list[Experience]) -> tuple[bytes, list[list[int]]]:
        prompt = hashlib.sha256(group[0].prompts[0].encode()).digest()
        return prompt, [sample.sequences.flatten().tolist() for sample in group]

    groups = [samples[start : start + group_size] for start in range(0, len(samples), group_size)]
    return [sample for group in sorted(groups, key=content) for sample in group]
