"""Log-probabilities of sequences, one at a time, from the actor and from vLLM, for many models in one process."""

import json
import os
import sys
from typing import Any

import torch


def of_actor(paths: list[str], sequences: list[list[int]]) -> list[list[torch.Tensor] | str]:
    """From the Megatron actor, on one rank. A string says why there are none."""
    import jobs

    from openrlhf_sfpo.megatron.data.batching import Sample

    samples = [Sample(torch.tensor(tokens), torch.ones(len(tokens) - 1, dtype=torch.bool)) for tokens in sequences]
    found: list[list[torch.Tensor] | str] = []
    for path in paths:
        try:
            actor = jobs.make_actor(path, (1, 1, 1), train=False)
            found.append(actor.forward(samples))
            actor.close()
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def of_transformers(path: str, sequences: list[list[int]]) -> list[torch.Tensor]:
    """From transformers' own model, fp32."""
    import reference

    model = reference.load(path)
    with torch.no_grad():
        logits = [model(torch.tensor([tokens])).logits[0, :-1].float() for tokens in sequences]
    return [
        torch.log_softmax(one, -1).gather(1, torch.tensor(tokens[1:])[:, None]).squeeze(1)
        for one, tokens in zip(logits, sequences, strict=True)
    ]


def of_engine(path: str, sequences: list[list[int]], max_len: int) -> list[torch.Tensor]:
    """From a vLLM engine in this process."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    from openrlhf_sfpo.rollout.environment import executor

    llm = LLM(
        model=path,
        dtype="float32",
        max_model_len=max_len,
        enforce_eager=True,
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=2**26,
        disable_log_stats=True,
        **executor(1),
    )
    outputs = llm.generate(
        [TokensPrompt(prompt_token_ids=tokens) for tokens in sequences],
        SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False),
        use_tqdm=False,
    )
    return [
        torch.tensor(
            [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], tokens[1:], strict=True)]
        )
        for output, tokens in zip(outputs, sequences, strict=True)
    ]


def engine_main() -> None:
    """Read a job from stdin, a JSON object: paths, sequences, the max_lens of the models, and the output file. Write
    to it what `of_engine` returns for each model, or the error as text."""
    job: dict[str, Any] = json.load(sys.stdin)
    found: list[Any] = []
    for path, max_len in zip(job["paths"], job["max_lens"], strict=True):
        try:
            found.append(of_engine(path, job["sequences"], max_len))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
        torch.save(found, job["output"])


if __name__ == "__main__":
    from openrlhf_sfpo.rollout.environment import cpu_environment

    os.environ.update(cpu_environment(eager=True))
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR")
    engine_main()
