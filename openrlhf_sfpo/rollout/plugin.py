"""vLLM runs this in each of its processes (entry point `vllm.general_plugins`): it registers our transfer engine, keeps
sockets off the network, and on CPU makes idle processes wait without spinning and engines able to sleep."""

import logging

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.loopback import keep_stores_on_loopback
from openrlhf_sfpo.system.replaced_names import RELIED_ON, REPLACEMENTS
from openrlhf_sfpo.system.replacements import check_library
from openrlhf_sfpo.system.replacements import install as replace
from openrlhf_sfpo.system.scratch import name_shared_memory

SHARED_MEMORY = "shared_memory"


def register() -> None:
    """Prepare a vLLM process: the entry point.

    Every vLLM process of this Python environment calls it, those of other programs too, and would not start if it
    raised. So a vLLM of another version is left as it is; the engines of a run call `prepare_vllm` before that.
    """
    try:
        prepare_vllm()
    except (ImportError, UsageError) as error:
        logging.getLogger(__name__).warning("openrlhf_sfpo leaves this vLLM as it is: %s", error)


def prepare_vllm() -> None:
    """Prepare a vLLM process, or one that sends weights to vLLM. May be called more than once.

    Raises:
        ImportError, UsageError: vLLM or torch has another version, without what this replaces or relies on.
    """
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory
    from vllm.platforms import current_platform

    check_library("vllm", RELIED_ON)
    keep_stores_on_loopback()
    name_shared_memory()
    module = "openrlhf_sfpo.rollout.shared_memory"
    for factory, class_name in (
        (WeightTransferEngineFactory, "SharedMemoryEngine"),
        (WeightTransferTrainerFactory, "SharedMemoryTrainerEngine"),
    ):
        if SHARED_MEMORY not in factory._registry:
            factory.register_engine(SHARED_MEMORY, module, class_name)
    if current_platform.is_cpu():
        _wait_without_spinning()
        _sleep_on_cpu()


def _wait_without_spinning() -> None:
    """vLLM's processes wait for each other by spinning, for up to a second after the last message. If rollout and
    training share processors, training loses that second.

    When not spinning they wait for a notification, which sometimes gets lost (vllm-project/vllm#45224). vLLM then polls
    for the message only after 5 s: there would be such a pause in most minutes of a run. Polling more often is cheap.
    """
    shm_broadcast = "vllm.distributed.device_communicators.shm_broadcast"
    replace(REPLACEMENTS[f"{shm_broadcast}.SpinCondition.__init__.__defaults__"], (0.0,))
    replace(REPLACEMENTS[f"{shm_broadcast}.SHM_READER_RECHECK_INTERVAL_MS"], 50)


def _sleep_on_cpu() -> None:
    """vLLM's CPU worker ignores sleep. This makes it free what it frees on a GPU."""
    from openrlhf_sfpo.rollout import cpu_sleep

    replace(REPLACEMENTS["vllm.v1.worker.cpu_worker.CPUWorker.sleep"], cpu_sleep.sleep)
    replace(REPLACEMENTS["vllm.v1.worker.cpu_worker.CPUWorker.wake_up"], cpu_sleep.wake_up)
