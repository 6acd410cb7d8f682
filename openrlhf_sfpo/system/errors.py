"""Exceptions that are meant for the person at the keyboard."""

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
        return type(self), (self.flag, self.problem, self.fix)  # arrives whole from another process

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same error with other names for settings: for the one at fault, and for those in backticks."""

        def rename(text: str) -> str:
            return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), text)

        return type(self)(names.get(self.flag, self.flag), rename(self.problem), rename(self.fix))


class NotThere(UsageError):
    """A file that the flags name is not there, or not yet: weights to be downloaded, data to be prepared."""


class Stopped(Exception):
    """The run was asked to stop, and nothing is lost by that; the message says after which step. Without a message, the
    request came in the middle of something that need not be finished."""


class NonFiniteBatch(RuntimeError):
    """A reward, loss or gradient norm is not a finite number, and the run was told to stop then."""


class EngineMismatch(RuntimeError):
    """The engines' log-probabilities of their own samples are not the actor's; the message says how far they are off
    and what to look at. Raised before the update."""


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
