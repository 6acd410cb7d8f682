"""Exceptions with a message for the user."""

import re
from collections.abc import Mapping
from typing import Any, Self


class UsageError(ValueError):
    """Bad input. The message names the flag (or file) at fault and how to fix it.

    The command line prints it without a traceback and exits with status 2. Rooms that know no flags, such as
    `megatron`, name the setting at fault, and write other settings in backticks: `config.setting_names` has the flags.
    """

    def __init__(self, flag: str, problem: str, fix: str) -> None:
        super().__init__(f"{flag}: {problem} {fix}")
        self.flag = flag
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.flag, self.problem, self.fix)  # so that it survives pickling

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same error with settings renamed: the one at fault, and those in backticks."""

        def rename(text: str) -> str:
            return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), text)

        return type(self)(names.get(self.flag, self.flag), rename(self.problem), rename(self.fix))


class NotThere(UsageError):
    """A file named by a flag does not exist yet: weights to be downloaded, data to be prepared."""


class Stopped(Exception):
    """The run was asked to stop and lost nothing. The message says after which step; it is empty if the interrupted
    work can be discarded."""


class NonFiniteBatch(RuntimeError):
    """A reward, loss or gradient norm is not finite, and --train.on_nonfinite is stop."""


class EngineMismatch(RuntimeError):
    """The engines' log-probabilities of their own samples differ from the actor's; the message says by how much and
    what to check. Raised before the update."""


class StepHung(RuntimeError):
    """No rank made progress for too long; the message says where each of them is."""


class WeightSyncFailed(RuntimeError):
    """An engine died or hung while the weights were sent to it; the message says which call it did not answer."""


class EngineStartFailed(RuntimeError):
    """A vLLM engine could not start; the message says which one and why, in one line."""


class WorkerLost(RuntimeError):
    """A process that the run needs is gone; the message says which one."""


WEIGHT_SYNC_HINT = (
    "What the engines did is in their logs in Ray's session directory. If they wait as well, look at the network "
    "between them and the actor: NCCL_SOCKET_IFNAME must name an interface that all machines share; NCCL_DEBUG=INFO "
    "shows more."
)
