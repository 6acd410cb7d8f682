"""Sampling responses from a model with vLLM, outside of a training run."""

import functools
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from openrlhf_sfpo.rollout.environment import HUGGING_FACE_FILES, cpu_environment, executor
from openrlhf_sfpo.system import loopback, search_path
from openrlhf_sfpo.system.scratch import Scratch
from openrlhf_sfpo.tasks.responses import ResponseDecoder, ended_by_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm.outputs import CompletionOutput


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters.

    Attributes:
        samples: responses to each prompt.
        temperature: 0 always takes the likeliest token.
        top_p: sample from the likeliest tokens with this total probability.
        max_new_tokens: length limit of responses.
        seed: the engine's seed.
    """

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Engine:
    """Settings of the vLLM engine.

    Attributes:
        dtype: "auto" means bfloat16, or float32 without a GPU.
        tensor_parallel_size: GPUs over which the model is split.
        gpu_memory_utilization: fraction of the GPU's memory that it may use.
        kv_cache_mb: size of the key/value cache without a GPU.
        trust_remote_code: run code that comes with the model.
    """

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_mb: int = 1024
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Response:
    """A response: its text without special tokens, its length in tokens, whether it was truncated, and its final token
    as text."""

    text: str
    tokens: int
    truncated: bool
    ending: str = ""


def sample(
    model: str, prompts: list[list[int]], sampling: Sampling, engine: Engine, progress: TextIO | None = None
) -> list[list[Response]]:
    """Sample responses.

    Args:
        model: Hugging Face directory or name.
        prompts: each prompt's token ids.
        sampling: how to sample.
        engine: the engine's settings.
        progress: stream for a progress bar.

    Returns:
        `sampling.samples` responses for each prompt.
    """
    import torch

    scratch = Scratch()  # until the process exits, as vLLM does
    os.environ.update({**loopback.environment(), **scratch.environment(), **search_path.ENVIRONMENT})
    tempfile.tempdir = None  # Python has already read TMPDIR
    cuda = torch.cuda.is_available()
    options: dict[str, Any] = {"gpu_memory_utilization": engine.gpu_memory_utilization}
    if not cuda:
        os.environ.update(cpu_environment(eager=True))
        options = {"kv_cache_memory_bytes": engine.kv_cache_mb * 2**20, "enforce_eager": True}
        options.update(executor(engine.tensor_parallel_size))
    options.update(HUGGING_FACE_FILES)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from tqdm import tqdm
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(
        model=model,
        dtype=("bfloat16" if cuda else "float32") if engine.dtype == "auto" else engine.dtype,
        seed=sampling.seed,
        tensor_parallel_size=engine.tensor_parallel_size,
        trust_remote_code=engine.trust_remote_code,
        max_model_len=max(map(len, prompts)) + sampling.max_new_tokens,
        **options,
    )
    outputs = llm.generate(
        [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
        SamplingParams(
            n=sampling.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            detokenize=False,  # the whole response is decoded below, as in training
        ),
        use_tqdm=functools.partial(tqdm, file=progress) if progress else False,
    )
    # HUGGING_FACE_FILES makes vLLM use transformers' tokenizer; vLLM's signature names only the base class.
    decode = ResponseDecoder(cast("PreTrainedTokenizerBase", llm.get_tokenizer()))
    return [
        [_response(decode, prompt, part) for part in output.outputs]
        for prompt, output in zip(prompts, outputs, strict=True)
    ]


def _response(decode: ResponseDecoder, prompt: list[int], output: "CompletionOutput") -> Response:
    ended = ended_by_token(output)
    text = decode(prompt, output.token_ids, ended).text
    ending = decode.ending(output.token_ids[-1]) if ended else ""
    return Response(text, len(output.token_ids), output.finish_reason == "length", ending)
