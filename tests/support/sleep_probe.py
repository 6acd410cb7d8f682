"""Run as a program: a real engine that sleeps and wakes up, as JSON on the last line.

    python sleep_probe.py MODEL OTHER

A RolloutEngine of MODEL, without Ray, sleeps at level 1, then at level 2, and gets the weights of MODEL again. Then an
update with those of OTHER is aborted after the first bucket, and the weights of MODEL arrive complete. Finally the
weights of OTHER arrive in the middle of a response.
"""

import asyncio
import json
import os
import sys
from typing import Any

os.environ.update(VLLM_LOGGING_LEVEL="WARNING", RAY_ADDRESS="nobody connects to it")
PROMPT = [3, 77, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46]
CACHE_BYTES = 256 * 2**20


class Client:
    """vLLM's control calls, from the thread of the sender to the engine's event loop."""

    def __init__(self, engine: Any, loop: asyncio.AbstractEventLoop, buckets: int | None = None) -> None:
        self._engine, self._loop, self._left = engine, loop, buckets

    def _call(self, name: str, *arguments: Any) -> None:
        asyncio.run_coroutine_threadsafe(getattr(self._engine, name)(*arguments), self._loop).result(120)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        self._call("init_weight_transfer_engine", WeightTransferInitRequest(init_info=init_info))

    def start_weight_update(self) -> None:
        self._call("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        if self._left == 0:
            raise InterruptedError
        self._left = self._left and self._left - 1
        self._call("update_weights", WeightTransferUpdateRequest(update_info=update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("finish_weight_update")


def send(engine: Any, loop: asyncio.AbstractEventLoop, path: str, buckets: int | None = None) -> None:
    from engine_probe import source_of
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

    from openrlhf_sfpo.rollout.shared_memory import SharedMemoryTrainerInitInfo

    info = SharedMemoryTrainerInitInfo(bucket_bytes=300_000, rank=0)
    sender = WeightTransferTrainerFactory.trainer_init(
        info, client=Client(engine, loop, buckets), source=source_of(path)
    )
    try:
        sender.send_weights()
    except InterruptedError:
        assert buckets is not None


def storage_bytes(worker: Any) -> dict[str, int]:
    """Bytes of the worker's weights and key/value caches. Runs in vLLM's process."""
    found = {}
    for name, tensors in (("weights", worker.get_model().parameters()), ("kv_cache", worker.model_runner.kv_caches)):
        storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}
        found[name] = sum(storage.nbytes() for storage in storages.values())
    return found


async def partial_answer(engine: Any, model: str, other: str) -> dict[str, Any]:
    """Log-probabilities of a response that began with one model's weights and continued with another's, and those that
    each of the two gives to all of it."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    loop = asyncio.get_running_loop()
    drawn: list[Any] = []
    params = SamplingParams(max_tokens=40, logprobs=1, seed=1, detokenize=False, ignore_eos=True)

    async def draw() -> None:
        async for output in engine.llm.generate(TokensPrompt(prompt_token_ids=PROMPT), params, request_id="partial"):
            drawn.append(output.outputs[0])

    task = asyncio.create_task(draw())
    while not drawn or len(drawn[-1].token_ids) < 8:
        await asyncio.sleep(0)
    await engine.pause_generation()
    before = len(drawn[-1].token_ids)
    await asyncio.to_thread(send, engine, loop, other)
    assert len(drawn[-1].token_ids) == before
    await engine.resume_generation()
    await task
    tokens = list(drawn[-1].token_ids)
    result: dict[str, Any] = {
        "before": before,
        "answer": [entry[token].logprob for token, entry in zip(tokens, drawn[-1].logprobs, strict=True)],
    }
    for name, path in (("other", other), ("model", model)):
        await asyncio.to_thread(send, engine, loop, path)
        await engine.reset_prefix_cache()
        scored = await engine.generate(
            PROMPT + tokens, SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        )
        places = zip(scored.prompt_logprobs[len(PROMPT) :], tokens, strict=True)
        result[name] = [entry[token].logprob for entry, token in places]
    return result


async def start(model: str) -> Any:
    from openrlhf_sfpo.orchestration.engine import RolloutEngine

    engine = RolloutEngine.__new__(RolloutEngine)
    await engine.__init__(  # type: ignore[misc]  # as Ray does it
        model=model,
        num_gpus=1,
        device="cpu",
        weight_backend="shared_memory",
        sleep_level=1,
        kv_cache_bytes=CACHE_BYTES,
        engine_dtype="float32",
        response_seed=1,
        finite_rewards=True,
        reward_timeout=0,
        tensor_parallel_size=1,
        enable_sleep_mode=True,
        enforce_eager=True,
        skip_tokenizer_init=True,
        enable_prefix_caching=True,
        max_model_len=64,
    )
    return engine


async def main(model: str, other: str) -> dict[str, Any]:
    import psutil
    from vllm import SamplingParams

    engine = await start(model)
    loop = asyncio.get_running_loop()
    seen: list[dict[str, Any]] = []

    async def look(what: str, answers: bool = True) -> None:
        await engine.heartbeat()  # it answers in any state
        here = psutil.Process()
        memory = sum(one.memory_info().rss for one in [here, *here.children(recursive=True)])
        (held,) = await engine.llm.collective_rpc(storage_bytes)
        state = {"what": what, "memory": memory, "lacks": await engine.lacks_weights(), **held}
        if answers:
            params = SamplingParams(max_tokens=4, logprobs=1, temperature=0.0, detokenize=False, ignore_eos=True)
            answer = (await engine.generate(PROMPT, params)).outputs[0]
            state["answer"] = [
                (token, entry[token].logprob) for token, entry in zip(answer.token_ids, answer.logprobs, strict=True)
            ]
        seen.append(state)

    await look("started")
    await look("used")
    await engine.sleep()
    await look("asleep at 1", answers=False)
    await engine.wake_up(tags=["weights"])
    await look("weights awake", answers=False)
    await engine.wake_up()
    await look("awake")
    engine._sleep_level = 2
    await engine.sleep()
    await look("asleep at 2", answers=False)
    await engine.wake_up()
    await look("without weights", answers=False)
    try:
        await engine.generate(PROMPT, SamplingParams(max_tokens=1, detokenize=False))
        refusal = "none"
    except RuntimeError as error:
        refusal = str(error)
    await asyncio.to_thread(send, engine, loop, model)
    await look("weights sent")
    await asyncio.to_thread(send, engine, loop, other, 1)
    await asyncio.to_thread(send, engine, loop, model)
    await look("sent again after half of others")
    # With seeds of their own, and together longer than one step of the engine.
    params = [SamplingParams(max_tokens=2, seed=seed, detokenize=False, ignore_eos=True) for seed in range(160)]
    prompts = [[seed % 50, *PROMPT * 4] for seed in range(160)]
    drawn = await asyncio.gather(*(engine.generate(*one) for one in zip(prompts, params, strict=True)))
    many = [list(one.outputs[0].token_ids) for one in drawn]
    partial = await partial_answer(engine, model, other)
    engine.llm.shutdown()
    return {"seen": seen, "refusal": refusal, "many": many, "partial": partial}


if __name__ == "__main__":
    from openrlhf_sfpo.rollout.environment import cpu_environment
    from openrlhf_sfpo.system import flash_attn_stub

    os.environ.update(cpu_environment(eager=True))
    flash_attn_stub.install_if_missing()
    result = asyncio.run(main(sys.argv[1], sys.argv[2]))
    print(json.dumps(result))
