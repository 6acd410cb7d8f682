"""Why a run failed, in one line, and whether a restart could help."""

import re
import sys
import traceback
from collections.abc import Iterator

from openrlhf_sfpo.system.errors import StepHung, WeightSyncFailed, WorkerLost

_LONGEST = 400  # characters of another package's message that are shown
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")
# The line of a traceback that names the exception: "package.module.SomeError: what is wrong", or without a message.
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*\.?[A-Z]\w*(:\s.*)?$")
_TRACEBACK = "Traceback (most recent call last):"
_MACHINE_GONE = "its machine is gone"
# gloo has no exception of its own: a lost connection is a plain RuntimeError that begins with a line of its transport.
_GLOO_TRANSPORT = re.compile(r"\[[^\]]*\bgloo/transport/")
# vLLM's message, and ours, about an engine process that ended while it started. A negative status is a signal's number.
_KILLED_CORE = re.compile(r"Failed core proc\(s\): \{[^}]*: -(\d+)|its process was killed by signal (\d+)")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes. Ray wraps an actor's exception once for each actor it passes through."""
    found: BaseException | None = error
    seen: set[int] = set()
    while isinstance(found, BaseException) and id(found) not in seen:
        seen.add(id(found))
        yield found
        cause = getattr(found, "cause", None)
        found = cause if isinstance(cause, BaseException) else found.__cause__


def root_of(error: BaseException) -> BaseException:
    """The innermost exception."""
    *_, innermost = causes(error)
    return innermost


def reason(error: BaseException) -> str:
    """Why a run failed, in one line, without traceback and colors. For exceptions of other packages, the class is
    named."""
    root = root_of(error)
    text = plain(str(root))
    if type(root).__module__.startswith("openrlhf_sfpo"):
        return summary(text) or type(root).__name__
    if isinstance(root, _of_ray("RayActorError")):
        line = exception_line(text) if failed_to_start(root) else _lost(text)
    elif isinstance(root, _of_ray("RayError")) and '  File "' in text:  # the exception itself could not be pickled
        line = exception_line(text)
    else:
        line = f"{type(root).__name__}: {summary(text)}".removesuffix(": ")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def details(error: BaseException) -> list[str]:
    """The further lines of a message that this package wrote for users, such as the traceback of the user's own reward
    function."""
    root = root_of(error)
    if not type(root).__module__.startswith("openrlhf_sfpo"):
        return []
    return plain(str(root)).strip().splitlines()[1:]


def full_text(error: BaseException) -> str:
    """Everything known about a failure, for a file, including exceptions that led to a better explanation."""
    parts = traceback.format_exception(error)
    if error.__suppress_context__ and error.__context__ is not None:
        parts += ["\nwhich was raised in place of:\n\n", *traceback.format_exception(error.__context__)]
    return plain("".join(parts))


def plain(text: str) -> str:
    """Text without a terminal's color codes."""
    return _ANSI.sub("", text)


def summary(message: str) -> str:
    """The line of an exception's message that states the problem."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    if _TRACEBACK in lines:
        return (
            f"{lines[0].rstrip(':')}: {exception_line(message)}" if lines[0] != _TRACEBACK else exception_line(message)
        )
    if re.match(r"\d+ validation errors? for ", lines[0]) and len(lines) > 1:  # pydantic's; what is wrong comes next
        return re.sub(r" \[type=.*", "", lines[1]).removeprefix("Value error, ")
    if lines[0].endswith(":") and len(lines) > 1:
        return f"{lines[0]} {lines[1]}"
    return lines[0]


def exception_line(text: str) -> str:
    """The line in a printed traceback with the exception's class and message."""
    lines = text.strip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith((" ", "\t"))]
    for number in range(frames[-1] + 1 if frames else 0, len(lines)):
        name, _, message = lines[number].partition(": ")
        if _EXCEPTION.match(name):
            found = summary("\n".join([message, *lines[number + 1 :]]))
            return f"{name.rpartition('.')[2]}: {found}".removesuffix(": ")
    # A message with indented lines, such as pydantic's: the class is further up.
    for number in reversed(range(len(lines))):
        name, colon, message = lines[number].partition(": ")
        if colon and _EXCEPTION.match(name) and not lines[number].startswith((" ", "\t")):
            found = summary("\n".join([message, *lines[number + 1 :]]))
            return f"{name.rpartition('.')[2]}: {found}".removesuffix(": ")
    return lines[-1].strip() if lines else "unknown reason"


def _lost(text: str) -> str:
    """Ray's message about an actor whose process died, in one line."""
    fields = dict(re.findall(r"^\s*(class_name|pid|ip): (.*)$", text, flags=re.MULTILINE))
    where = f" (process {fields['pid']} on {fields['ip']})" if {"pid", "ip"} <= fields.keys() else ""
    who = fields.get("class_name", "an actor").rpartition(".")[2]
    why = "it was killed, ran out of memory, or crashed"
    status = re.search(r"exits with an exit code ([1-9]\d*)", text)
    if "receives a SIGTERM" in text:
        why = "it received SIGTERM"
    elif "running low on memory" in text:
        why = "the machine ran low on memory, and Ray killed it"
    elif status:
        why = f"it exited with status {status.group(1)}"
    elif re.search(r"node has died|node was terminated|marked dead", text):
        why = _MACHINE_GONE
    return f"the process of {who}{where} ended unexpectedly: {why}"


def killing_signal(text: str) -> int | None:
    """The signal that killed vLLM's engine process during its start, if the message says so."""
    found = _KILLED_CORE.search(text)
    return int(found.group(1) or found.group(2)) if found else None


def failed_to_start(error: BaseException) -> bool:
    """Whether an actor died because its constructor raised; a restart would fail the same way."""
    if not isinstance(error, _of_ray("RayActorError")):
        return False
    if not getattr(error, "actor_init_failed", False) and "raised in its creation task" not in str(error):
        return False
    return killing_signal(str(error)) is None


def may_recover(error: BaseException) -> bool:
    """Whether a restart could help: a process, machine or connection failed. Errors in the program, its data or its
    environment would occur again."""
    import torch

    kinds = (
        StepHung,
        WeightSyncFailed,
        WorkerLost,
        torch.distributed.DistError,
        *_of_ray("RayActorError", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "ObjectLostError"),
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
    kinds = (WorkerLost, *_of_ray("RayActorError", "WorkerCrashedError", "OutOfMemoryError"))
    return any(isinstance(cause, kinds) for cause in causes(error)) and _MACHINE_GONE not in reason(error)


def _of_ray(*names: str) -> tuple[type, ...]:
    """Ray's exceptions with these names; none if Ray has not been imported."""
    module = sys.modules.get("ray.exceptions")
    return tuple(getattr(module, name) for name in names) if module else ()


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
