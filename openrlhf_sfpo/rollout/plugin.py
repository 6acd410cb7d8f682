"""What vLLM runs in each of its processes (entry point `vllm.general_plugins`): makes our transfer engine known, and on
CPU lets idle processes sleep."""

SHARED_MEMORY = "shared_memory"


def register() -> None:
    """Register the shared-memory weight-transfer engine with vLLM, on both sides. May be called more than once."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory
    from vllm.platforms import current_platform

    module = "openrlhf_sfpo.rollout.shared_memory"
    for factory, class_name in (
        (WeightTransferEngineFactory, "SharedMemoryEngine"),
        (WeightTransferTrainerFactory, "SharedMemoryTrainerEngine"),
    ):
        if SHARED_MEMORY not in factory._registry:
            factory.register_engine(SHARED_MEMORY, module, class_name)
    if current_platform.is_cpu():
        _wait_without_spinning()


def _wait_without_spinning() -> None:
    """vLLM's processes wait for each other in a loop without sleep, and go on with that for a second after the last
    message. Where rollout and training have the same processors that second is taken from the training."""
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    names = SpinCondition.__init__.__code__.co_varnames[: SpinCondition.__init__.__code__.co_argcount]
    assert names[-1] == "busy_loop_s", f"vLLM's SpinCondition now takes {names}"
    SpinCondition.__init__.__defaults__ = (0.0,)
