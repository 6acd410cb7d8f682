"""Run as a program: log-probabilities from vLLM engines, before and after a weight transfer, as JSON on the last line.

    python engine_probe.py MODEL OTHER BUCKET_BYTES

Loads MODEL, sends it the weights of OTHER (another model of the same shape) in buckets, and loads OTHER afresh.
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.update(
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    TORCH_COMPILE_DISABLE="1",
)
PROMPT = [3, 77, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46]


def log_probs(engine: Any) -> list[float]:
    """The engine's log-probability of each token of PROMPT but the first."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=1.0, detokenize=False)
    (output,) = engine.generate([{"prompt_token_ids": PROMPT}], params, use_tqdm=False)
    return [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], PROMPT[1:], strict=True)]


def start(path: str) -> Any:
    from vllm import LLM

    return LLM(
        path,
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=1 << 26,
        max_model_len=64,
        weight_transfer_config={"backend": "shared_memory"},
    )


class Direct:
    """vLLM's control calls, straight to an engine in this process; records them."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.calls: list[str] = []

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    def start_weight_update(self) -> None:
        self.calls.append("start")
        self._engine.start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self.calls.append("update")
        self._engine.update_weights(WeightTransferUpdateRequest(update_info=update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append("finish")
        self._engine.finish_weight_update()


def source_of(path: str) -> Any:
    """The tensors of a Hugging Face directory as a vLLM `WeightSource`."""
    from safetensors.torch import load_file
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    tensors = load_file(Path(path) / "model.safetensors")

    class Files(WeightSource):
        def metadata(self) -> list[Any]:
            return [ParamMeta(name, tensor.dtype, list(tensor.shape)) for name, tensor in tensors.items()]

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            return iter(tensors.items())

    return Files()


def main(model: str, other: str, bucket_bytes: int) -> None:
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

    from openrlhf_sfpo.rollout import plugin
    from openrlhf_sfpo.rollout.shared_memory import SharedMemoryTrainerInitInfo

    plugin.register()
    plugin.register()  # vLLM may load plugins more than once in a process
    engine = start(model)
    client = Direct(engine)
    result: dict[str, Any] = {"before": log_probs(engine)}
    sender = WeightTransferTrainerFactory.trainer_init(
        SharedMemoryTrainerInitInfo(bucket_bytes=bucket_bytes, rank=0), client=client, source=source_of(other)
    )
    sender.send_weights()
    result["after"] = log_probs(engine)
    result["calls"] = list(client.calls)
    sender.send_weights()
    result["again"] = log_probs(engine)
    result["left_behind"] = [path.name for path in Path("/dev/shm").glob("openrlhf_sfpo_weights_*")]
    del engine, client, sender
    gc.collect()
    result["fresh"] = log_probs(start(other))
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
