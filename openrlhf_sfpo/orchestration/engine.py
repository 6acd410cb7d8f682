"""OpenRLHF's vLLM engine actor with vLLM's native weight transfer, log-probabilities, and rewards that never fail
silently. Generation is OpenRLHF's own."""

import copy
import functools
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from openrlhf.trainer.ray import vllm_engine
from openrlhf.utils import agent

from openrlhf_sfpo.cluster.mailbox import Events
from openrlhf_sfpo.orchestration.engine_starts import start_reported
from openrlhf_sfpo.orchestration.ray_classes import unwrap_ray_class
from openrlhf_sfpo.orchestration.response_rewards import SAMPLED, post_response, reward_response
from openrlhf_sfpo.rollout.environment import HUGGING_FACE_FILES, cpu_environment, executor
from openrlhf_sfpo.rollout.plugin import prepare_vllm
from openrlhf_sfpo.rollout.staleness import stamp
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS
from openrlhf_sfpo.system.replacements import install_on
from openrlhf_sfpo.tasks.responses import ResponseDecoder, ended_by_token
from openrlhf_sfpo.tasks.reward_files import attribute, load_file
from openrlhf_sfpo.tasks.rewards import CheckedReward, is_url

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.worker.gpu_worker import Worker

    from openrlhf_sfpo.orchestration.openrlhf_types import RolloutRayActor as _RolloutRayActor
    from openrlhf_sfpo.orchestration.openrlhf_types import SingleTurnAgentExecutor
else:
    _RolloutRayActor = unwrap_ray_class(vllm_engine.RolloutRayActor)
    SingleTurnAgentExecutor = agent.SingleTurnAgentExecutor

_EXECUTOR = "openrlhf.utils.agent.SingleTurnAgentExecutor"


class RewardFailure(RuntimeError):
    """A reward could not be computed; the message has the reason."""


class RolloutEngine(_RolloutRayActor):
    """One vLLM engine.

    Args:
        device: the engine's device, "cpu" or "cuda".
        weight_backend: the backend of vLLM's weight transfer; see `weight_sync.backend_for`.
        sleep_level: whether `sleep` moves the weights to host memory (1) or discards them (2).
        kv_cache_bytes: size of the key/value cache on CPU.
        engine_dtype: "bfloat16" or "float32".
        response_seed: derive each response's seed from this one; None uses the engine's own random state.
        finite_rewards: raise on a non-finite reward, instead of leaving that to the trainer.
        reward_timeout: seconds that a reward function may take per response; 0 for no limit.
        index: which of the run's engines this is.
        remote_rm_url: OpenRLHF's argument; also accepts a built-in reward's name, FILE.py:FUNCTION or MODULE:FUNCTION.
        agent_func_path: OpenRLHF's argument.
    """

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, *args: Any, index: int = 0, **kwargs: Any
    ) -> None:
        with start_reported(index, Events()):
            await self._start(*args, **kwargs)

    async def _start(
        self,
        *args: Any,
        device: str,
        weight_backend: str,
        sleep_level: int,
        kv_cache_bytes: int,
        engine_dtype: str,
        response_seed: int | None,
        finite_rewards: bool,
        reward_timeout: float,
        remote_rm_url: str | list[str] | None = None,
        agent_func_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        prepare_vllm()
        self._response_seeds = ResponseSeeds(response_seed) if response_seed is not None else None
        specs = [remote_rm_url] if isinstance(remote_rm_url, str) else list(remote_rm_url or [])
        is_function = bool(specs) and specs != ["agent"] and not is_url(specs[0])
        kwargs["weight_transfer_config"] = {"backend": weight_backend}
        self._sleep_level = sleep_level
        self._asleep: set[str] = set()
        self._lacks_weights = self._updating = False
        self._updates: int | None = None  # the weights' version; None until the policy reports it
        kwargs["dtype"] = engine_dtype
        kwargs.update(HUGGING_FACE_FILES)
        # Always requested: every step compares them with the actor's own.
        kwargs.update(logprobs_mode="processed_logprobs", max_logprobs=1)
        if device == "cpu":
            kwargs["enable_sleep_mode"] = False  # vLLM refuses it on CPU; `cpu_sleep` does not need it
            kwargs["kv_cache_memory_bytes"] = kv_cache_bytes
            if response_seed is not None:
                # After a prefill that does not fit one step, vLLM sets the request's generator back, which torch's
                # generators on CPUs cannot do: the engine dies.
                kwargs["enable_chunked_prefill"] = False
            kwargs.update(executor(kwargs["tensor_parallel_size"]))
        await super().__init__(*args, remote_rm_url=None if is_function else remote_rm_url, **kwargs)
        self._reward: CheckedReward | None = None
        self._finite_rewards = finite_rewards
        self._decoder: ResponseDecoder | None = None
        if agent_func_path:
            self.executor = attribute(load_file(agent_func_path), agent_func_path, "AgentExecutor")()
        elif is_function:
            self._reward = CheckedReward(specs[0], finite_rewards, reward_timeout)
            graded = functools.partial(reward_response, self._reward)
            install_on(ON_OBJECTS[f"{_EXECUTOR}.reward_func"], self.executor, graded)
            self.executor.reward_endpoints = specs
        elif specs:
            posted = functools.partial(post_response, self.executor._fetch_rewards_via_http)
            install_on(ON_OBJECTS[f"{_EXECUTOR}._fetch_rewards_via_http"], self.executor, posted)
        self._wants_reward = bool(getattr(self.executor, "reward_endpoints", None))

    async def generate_responses(
        self,
        prompt: str,
        label: str,
        sampling_params: "SamplingParams",
        max_length: int,
        hf_tokenizer: "PreTrainedTokenizerBase",
        num_samples: int = 1,
        images: object = None,
    ) -> list[dict[str, Any]]:
        """Like OpenRLHF's, with log-probabilities.

        Raises:
            RewardFailure: where OpenRLHF would omit the reward, or a reward is not finite.
        """
        sampling_params.logprobs = 1
        if isinstance(self.executor, SingleTurnAgentExecutor) and not sampling_params.stop:
            # This executor decodes the tokens of the finished response itself. vLLM would detokenize every token and
            # every log-probability along the way, which takes a quarter of its front end's time.
            sampling_params.detokenize = False
        if self._response_seeds is not None:
            _seeds.set(self._response_seeds.for_prompt(prompt))
        if self._wants_reward and self._decoder is None:
            self._decoder = ResponseDecoder(hf_tokenizer)
        updates = self._updates
        responses = await super().generate_responses(
            prompt, label, sampling_params, max_length, hf_tokenizer, num_samples, images
        )
        if updates is not None:
            stamp(responses, updates)
        if self._reward is not None and self._reward.failure is not None:
            raise RewardFailure(self._reward.failure)
        rewards = [response["reward"] for response in responses]
        if self._wants_reward and any(reward is None for reward in rewards):
            raise RewardFailure("The reward server did not answer; OpenRLHF's log of this engine says why.")
        for reward in rewards if self._finite_rewards else []:
            if reward is not None and not torch.as_tensor(reward, dtype=torch.float32).isfinite().all():
                raise RewardFailure(f"A reward is {reward}; rewards must be finite numbers.")
        return responses

    async def generate(
        self, prompt_token_ids: list[int], sampling_params: "SamplingParams", multi_modal_data: object = None
    ) -> "RequestOutput":
        """Like OpenRLHF's, with this response's seed, if any. Called once per response."""
        if self._lacks_weights:
            raise RuntimeError("this engine slept at level 2 (--vllm.sleep_level) and was not sent the weights since")
        seeds = _seeds.get(None)
        if seeds is not None:
            sampling_params = copy.copy(sampling_params)
            sampling_params.seed = next(seeds)
        result = await super().generate(prompt_token_ids, sampling_params, multi_modal_data)
        if self._decoder is not None:
            output = result.outputs[0]
            SAMPLED.set(self._decoder(prompt_token_ids, output.token_ids, ended_by_token(output)))
        return result

    async def restart(self, seed: int, index: int) -> None:
        """Reset everything except the weights: drop cached prefixes, and seed the random state from the run's seed.

        Args:
            seed: --train.seed.
            index: which of the run's engines this is.
        """
        await self.llm.reset_prefix_cache()
        await self.llm.collective_rpc(_seed_worker, args=(seed + index,))
        if self._response_seeds is not None:
            self._response_seeds = ResponseSeeds(seed)

    async def init_weight_transfer_engine(self, request: object) -> None:
        await self.llm.init_weight_transfer_engine(request)

    async def start_weight_update(self) -> None:
        if self._updating:  # the last update was aborted; vLLM requires it to be finished first
            await self.llm.finish_weight_update()
        self._updating = True
        await self.llm.start_weight_update()

    async def update_weights(self, request: object) -> None:
        try:
            await self.llm.update_weights(request)
        except BaseException:
            self._updating = False  # vLLM has ended the update, too
            raise

    async def finish_weight_update(self) -> None:
        await self.llm.finish_weight_update()
        self._lacks_weights = self._updating = False

    async def sleep(self) -> None:  # type: ignore[override]  # the level is a flag; callers give none
        """Free the GPU memory of the weights and the key/value cache, including cached prefixes, until `wake_up`."""
        if not self._asleep:
            await self.llm.sleep(level=self._sleep_level)
            self._asleep = {"weights", "kv_cache"}
            self._lacks_weights = self._sleep_level == 2

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Like OpenRLHF's, for those tags that are asleep."""
        for tag in tags or ("weights", "kv_cache"):
            if tag in self._asleep:
                await self.llm.wake_up(tags=[tag])
                self._asleep.discard(tag)

    async def lacks_weights(self) -> bool:
        """Whether sleep discarded the weights, so that they must be sent before this engine can answer."""
        return self._lacks_weights

    async def weights_are(self, number: int) -> None:
        """Record the weights' version: the number of updates of the policy."""
        self._updates = number
        if self._response_seeds is not None:
            self._response_seeds.weights_are(number)

    async def heartbeat(self) -> int:
        """Return this process's PID once vLLM's engine process (possibly another one) has answered."""
        await self.llm.is_sleeping()
        return os.getpid()

    def processes(self) -> tuple[str, dict[int, float]]:
        """The node, and the PIDs and start times of this actor and all its descendants."""
        import psutil
        import ray

        mine = psutil.Process()
        family = [mine, *mine.children(recursive=True)]
        return ray.get_runtime_context().get_node_id(), {process.pid: process.create_time() for process in family}


# The seeds of the responses to one prompt. The subtasks, one for each response, inherit the same iterator.
_seeds: ContextVar[Iterator[int]] = ContextVar("response_seeds")


class ResponseSeeds:
    """One seed per response, derived from the run's seed, the weights' version, the prompt, how often it was asked
    since the last update, and the response's index; independent of timing and engine."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._weights = 0
        self._asked: Counter[str] = Counter()

    def weights_are(self, number: int) -> None:
        """Record that weights of this version have been sent."""
        self._weights = number
        self._asked.clear()

    def for_prompt(self, prompt: str) -> Iterator[int]:
        """The seeds of the responses to a prompt, an endless iterator."""
        request = (self._seed, self._weights, prompt, self._asked[prompt])
        self._asked[prompt] += 1
        return (_seed_of(*request, number) for number in itertools.count())


def _seed_of(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6])


def _seed_worker(worker: "Worker", seed: int) -> None:
    from vllm.utils.torch_utils import set_random_seed

    set_random_seed(seed)


class EngineClass:
    """Replaces OpenRLHF's engine class in `create_vllm_engines`, which calls `.options(...).remote(...)`.

    Args:
        env: environment variables for the engine processes.
        extra: arguments of `RolloutEngine` in addition to OpenRLHF's.
    """

    def __init__(self, env: dict[str, str], **extra: Any) -> None:
        import ray

        self._actor_class = ray.remote(RolloutEngine)
        self._extra = extra
        self._env = env
        self._options: dict[str, Any] = {}
        self._started = 0

    def options(self, **options: Any) -> "EngineClass":
        # Ray restarts a dead engine under the same handle, but with the model's first weights. Its prompts are sent
        # again only once it has the current weights, by `engine_pool.EnginePool` and not by Ray.
        lasting = {"max_restarts": -1, "max_task_retries": 0}
        self._options = {**options, **lasting, "runtime_env": {"env_vars": self._env}}
        return self

    def remote(self, **kwargs: Any) -> Any:
        index, self._started = self._started, self._started + 1
        return self._actor_class.options(**self._options).remote(**kwargs, **self._extra, index=index)


def engine_env(device: str, eager: bool) -> dict[str, str]:
    """Environment variables for the engine processes."""
    level = {"VLLM_LOGGING_LEVEL": "INFO"}  # goes to Ray's files, from which the progress of a start is read
    return {**level, **cpu_environment(eager)} if device == "cpu" else level
