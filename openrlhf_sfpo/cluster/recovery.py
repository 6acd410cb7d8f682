"""Whether restarting a run after a failure could help."""

import re

from openrlhf_sfpo.cluster.failures import MACHINE_GONE, causes, failed_to_start, of_ray, reason
from openrlhf_sfpo.system.run_errors import StepHung, WeightSyncFailed, WorkerLost

# gloo has no exception of its own: a lost connection is a plain RuntimeError that begins with a line of its transport.
_GLOO_TRANSPORT = re.compile(r"\[[^\]]*\bgloo/transport/")


def may_recover(error: BaseException) -> bool:
    """Whether a restart could help: a process, machine or connection failed. Errors in the program, its data or its
    environment would occur again."""
    import torch

    kinds = (
        StepHung,
        WeightSyncFailed,
        WorkerLost,
        torch.distributed.DistError,
        *of_ray("RayActorError", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "ObjectLostError"),
    )
    chain = list(causes(error))
    if any(failed_to_start(cause) for cause in chain):
        return False
    for cause in chain:
        if isinstance(cause, kinds):
            return True
        if type(cause) is RuntimeError and _GLOO_TRANSPORT.match(str(cause)):
            return True
    return False


def is_death(error: BaseException) -> bool:
    """Whether a process died, as opposed to a lost machine or connection, or a step that hung."""
    kinds = (WorkerLost, *of_ray("RayActorError", "WorkerCrashedError", "OutOfMemoryError"))
    return any(isinstance(cause, kinds) for cause in causes(error)) and MACHINE_GONE not in reason(error)


class Repetitions:
    """Detects that processes die repeatedly in the same way, without progress in between."""

    def __init__(self) -> None:
        self._before: tuple[str, int] | None = None

    def again(self, error: BaseException, step: int) -> bool:
        """Record a failure; return whether the same process died in the same way at the same step as last time.

        Args:
            error: the failure.
            step: the last finished step.
        """
        if not is_death(error):
            self._before = None
            return False
        found = (re.sub(r"\d+", "#", reason(error)), step)
        repeated, self._before = found == self._before, found
        return repeated
