"""What a vLLM engine is told before it starts: which files to read, and on CPU the settings of its process, which vLLM
takes from the environment and nowhere else."""

from typing import Any

from openrlhf_sfpo.system.cpus import usable_cpus

# Where a directory also has consolidated.safetensors, as Mistral's have, vLLM would read these, params.json and another
# tokenizer in place of the files that the actor reads.
HUGGING_FACE_FILES = {"load_format": "hf", "config_format": "hf", "tokenizer_mode": "hf"}


def cpu_environment(eager: bool) -> dict[str, str]:
    """The variables to set before vLLM is imported.

    Args:
        eager: whether the engine runs with `enforce_eager`.
    """
    # Rollout and training take turns, so the engine may use every core, and must not be bound to some.
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(usable_cpus())}
    if eager:
        # vLLM still compiles a few helpers of its sampler, which costs the first rollout some twenty seconds.
        environment["TORCH_COMPILE_DISABLE"] = "1"
    return environment


def executor(tensor_parallel_size: int) -> dict[str, Any]:
    """What to ask vLLM for, so that a model on one rank runs in its engine process on CPU as it does on GPUs.

    vLLM starts a worker process there, because it binds the worker's threads to cores, which `cpu_environment` keeps it
    from. The name "uni" it overrides, the class it takes. A process less to start, and no messages for each token,
    of which one in some thousand gets lost and costs 5 s until vLLM looks again (vllm-project/vllm#45224).
    """
    if tensor_parallel_size != 1:
        return {}
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    return {"distributed_executor_backend": UniProcExecutor}
