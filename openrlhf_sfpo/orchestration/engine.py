"""OpenRLHF's vLLM engine actor with vLLM's native weight transfer, log-probabilities, and rewards that do not fail
silently. Generation is OpenRLHF's own."""

from typing import Any

import torch
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

from openrlhf_sfpo.cpus import usable_cpus
from openrlhf_sfpo.rollout.plugin import register
from openrlhf_sfpo.rollout.weight_sync import backend_for
from openrlhf_sfpo.tasks.rewards import CheckedReward

# Ray forbids subclassing the decorated class; this is the class that was decorated.
_Undecorated = RolloutRayActor.__ray_metadata__.modified_class.__ray_actor_class__


class RewardFailure(RuntimeError):
    """A reward could not be computed; the message has the reason."""


class RolloutEngine(_Undecorated):
    """One vLLM engine.

    Args:
        device: where the engine runs, "cpu" or "cuda".
        kv_cache_bytes: size of the key/value cache on CPU.
        engine_dtype: "bfloat16" or "float32".
        remote_rm_url: as OpenRLHF's, and also a built-in reward's name, FILE.py:FUNCTION or MODULE:FUNCTION.
    """

    async def __init__(
        self,
        *args: Any,
        device: str,
        kv_cache_bytes: int,
        engine_dtype: str,
        remote_rm_url: Any = None,
        **kwargs: Any,
    ) -> None:
        register()
        specs = [remote_rm_url] if isinstance(remote_rm_url, str) else list(remote_rm_url or [])
        is_function = bool(specs) and specs != ["agent"] and not specs[0].startswith(("http://", "https://"))
        kwargs["weight_transfer_config"] = {"backend": backend_for(device)}
        kwargs["dtype"] = engine_dtype
        # Always asked for: every step compares them with the actor's own.
        kwargs.update(logprobs_mode="processed_logprobs", max_logprobs=1)
        if device == "cpu":
            kwargs["kv_cache_memory_bytes"] = kv_cache_bytes
        await super().__init__(*args, remote_rm_url=None if is_function else remote_rm_url, **kwargs)
        self._reward: CheckedReward | None = None
        if is_function and not kwargs.get("agent_func_path"):
            self._reward = CheckedReward(specs[0])
            self.executor.reward_func = self._reward
            self.executor.reward_endpoints = specs
        self._wants_reward = bool(getattr(self.executor, "reward_endpoints", None))

    async def generate_responses(self, prompt: str, label: str, sampling_params: Any, **kwargs: Any) -> Any:
        """As OpenRLHF's, with log-probabilities, and with an error where OpenRLHF would leave the reward out."""
        sampling_params.logprobs = 1
        responses = await super().generate_responses(prompt, label, sampling_params, **kwargs)
        if self._reward is not None and self._reward.failure is not None:
            raise RewardFailure(self._reward.failure)
        rewards = [response["reward"] for response in responses]
        if self._wants_reward and any(reward is None for reward in rewards):
            raise RewardFailure("The reward server did not answer; OpenRLHF's log of this engine says why.")
        for reward in rewards:
            if reward is not None and not torch.as_tensor(reward, dtype=torch.float32).isfinite().all():
                raise RewardFailure(f"A reward is {reward}; rewards must be finite numbers.")
        return responses

    async def restart(self, seed: int) -> None:
        """Be as after the start, but for the weights: no cached prefixes, random numbers from `seed`."""
        await self.llm.reset_prefix_cache()
        await self.llm.collective_rpc(_seed_worker, args=(seed,))

    async def init_weight_transfer_engine(self, request: Any) -> None:
        await self.llm.init_weight_transfer_engine(request)

    async def start_weight_update(self) -> None:
        await self.llm.start_weight_update()

    async def update_weights(self, request: Any) -> None:
        await self.llm.update_weights(request)

    async def finish_weight_update(self) -> None:
        await self.llm.finish_weight_update()


def _seed_worker(worker: Any, seed: int) -> None:
    from vllm.utils.torch_utils import set_random_seed

    set_random_seed(seed)


class EngineClass:
    """Stands for OpenRLHF's engine class where `create_vllm_engines` uses it: `.options(...).remote(...)`.

    Args:
        env: environment variables of the engine processes.
        extra: what `RolloutEngine` takes beside OpenRLHF's arguments.
    """

    def __init__(self, env: dict[str, str], **extra: Any) -> None:
        import ray

        self._actor_class = ray.remote(RolloutEngine)
        self._extra = extra
        self._env = env
        self._options: dict[str, Any] = {}

    def options(self, **options: Any) -> "EngineClass":
        self._options = {**options, "runtime_env": {"env_vars": self._env}}
        return self

    def remote(self, **kwargs: Any) -> Any:
        return self._actor_class.options(**self._options).remote(**kwargs, **self._extra)


def engine_env(device: str, eager: bool, verbose: bool) -> dict[str, str]:
    """Environment of the engine processes: vLLM takes its CPU settings from there and nowhere else."""
    env = {"VLLM_LOGGING_LEVEL": "INFO" if verbose else "WARNING"}
    if device == "cpu":
        # Rollout and training take turns, so the engine may use every core, and must not be bound to some.
        env.update(VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS=str(usable_cpus()))
        if eager:
            # vLLM still compiles a few helpers of its sampler, which costs the first rollout some twenty seconds.
            env["TORCH_COMPILE_DISABLE"] = "1"
    return env
