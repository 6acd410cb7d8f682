"""Settings of a vLLM engine before its start: which files to read, and on CPU the process settings that vLLM takes only
from the environment."""

from typing import Any

from openrlhf_sfpo.system.cpus import usable_cpus

# If a directory also has consolidated.safetensors, as Mistral's do, vLLM would read that, params.json and another
# tokenizer instead of the files that the actor reads.
HUGGING_FACE_FILES = {"load_format": "hf", "config_format": "hf", "tokenizer_mode": "hf"}


def cpu_environment(eager: bool) -> dict[str, str]:
    """The variables to set before vLLM is imported.

    Args:
        eager: whether the engine uses `enforce_eager`.
    """
    # Rollout and training take turns, so the engine may use every core, and must not be pinned to some.
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(usable_cpus())}
    if eager:
        # Otherwise vLLM compiles a few helpers of its sampler, which takes twenty seconds in the first rollout.
        environment["TORCH_COMPILE_DISABLE"] = "1"
    return environment


def executor(tensor_parallel_size: int) -> dict[str, Any]:
    """vLLM's settings that run a single-rank model inside the engine process on CPU, as on GPUs.

    On CPU vLLM starts a worker process, because it pins the worker's threads to cores, which `cpu_environment`
    prevents. vLLM overrides the name "uni" but accepts the class. This saves a process, and the messages for each
    token, of which one in a thousand is lost and costs 5 s until vLLM polls again (vllm-project/vllm#45224).
    """
    if tensor_parallel_size != 1:
        return {}
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    return {"distributed_executor_backend": UniProcExecutor}
