"""Environment of a process that runs vLLM on CPU: vLLM takes its CPU settings from there and nowhere else."""

from openrlhf_sfpo.cpus import usable_cpus


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
