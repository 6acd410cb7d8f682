"""Why a run failed, in one line."""

import re
import sys
import traceback
from collections.abc import Iterator

from openrlhf_sfpo.cluster.error_text import exception_line, plain, summary

_LONGEST = 400  # characters of another package's message that are shown
MACHINE_GONE = "its machine is gone"
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
    if isinstance(root, of_ray("RayActorError")):
        line = exception_line(text) if failed_to_start(root) else _lost(text)
    elif isinstance(root, of_ray("RayError")) and '  File "' in text:  # the exception itself could not be pickled
        line = exception_line(text)
    else:
        line = f"{type(root).__name__}: {summary(text)}".removesuffix(": ")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def details(error: BaseException) -> list[str]:
    """The remaining lines of a message that this package wrote for users, such as the traceback of the user's own
    reward function."""
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
        why = MACHINE_GONE
    return f"the process of {who}{where} ended unexpectedly: {why}"


def killing_signal(text: str) -> int | None:
    """The signal that killed vLLM's engine process during its start, if the message says so."""
    found = _KILLED_CORE.search(text)
    return int(found.group(1) or found.group(2)) if found else None


def failed_to_start(error: BaseException) -> bool:
    """Whether an actor died because its constructor raised; a restart would fail the same way."""
    if not isinstance(error, of_ray("RayActorError")):
        return False
    if not getattr(error, "actor_init_failed", False) and "raised in its creation task" not in str(error):
        return False
    return killing_signal(str(error)) is None


def of_ray(*names: str) -> tuple[type, ...]:
    """Ray's exceptions with these names; none if Ray has not been imported."""
    module = sys.modules.get("ray.exceptions")
    return tuple(getattr(module, name) for name in names) if module else ()
