"""What vLLM runs in each of its processes (entry point `vllm.general_plugins`): makes our transfer engine known."""

SHARED_MEMORY = "shared_memory"


def register() -> None:
    """Register the shared-memory weight-transfer engine with vLLM, on both sides. May be called more than once."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory

    module = "openrlhf_sfpo.rollout.shared_memory"
    for factory, class_name in (
        (WeightTransferEngineFactory, "SharedMemoryEngine"),
        (WeightTransferTrainerFactory, "SharedMemoryTrainerEngine"),
    ):
        if SHARED_MEMORY not in factory._registry:
            factory.register_engine(SHARED_MEMORY, module, class_name)
