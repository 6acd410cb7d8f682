"""The output of Ray's worker processes, which Ray writes to files in its session directory on each node."""

import itertools
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from openrlhf_sfpo.cluster.error_text import exception_line, plain
from openrlhf_sfpo.cluster.failures import killing_signal, reason
from openrlhf_sfpo.cluster.nodes import this_node

_TAIL = 64 * 1024  # bytes read from the end of each file
# A line of vLLM's logger: "(EngineCore pid=7) ERROR 11-26 01:00:00 [core.py:900] text"; printed text has only the first
# part.
_PREFIX = re.compile(
    r"^(\([\w ]+ pid=\d+\) ?)*(?P<level>(DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ \[[^\]]+\] ?)?"
)
_TRACEBACK = "Traceback (most recent call last):"
_FAILED = re.compile(r"(EngineCore|Worker\w*|Executor) (failed to start|hit an exception|initialization failed)")
_ELSEWHERE = re.compile(
    r"[Ss]ee (the )?(root cause|stack trace)|initialization failed due to an exception in a background"
)


def own_files() -> list[Path]:
    """The files that this Ray worker prints to, standard error first; empty outside of Ray, or if Ray's workers print
    to the terminal."""
    from ray._private import worker

    names = [worker.global_worker.get_err_file_path(), worker.global_worker.get_out_file_path()]
    return [Path(name) for name in names if name and Path(name).is_file()]


def tail(path: Path, size: int = _TAIL) -> str:
    """The end of a file, without colors and overwritten progress bars; empty if the file is gone."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        text = plain(file.read().decode(errors="replace"))
        return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return ""


def last_line(text: str) -> str:
    """The last line that a process printed, at most 120 characters, without its logger's prefix."""
    lines = [_PREFIX.sub("", line).strip() for line in text.splitlines() if not line.startswith((":job_id", ":actor"))]
    found = next((line for line in reversed(lines) if line), "")
    return found if len(found) <= 120 else f"{found[:117]}..."


def why_engine_failed(error: BaseException, texts: list[str]) -> str:
    """Why a vLLM engine could not start, in one line.

    vLLM's processes log their exceptions; the exception in the engine's process only says that there was one.

    Args:
        error: what vLLM raised.
        texts: its processes' output.
    """
    raised = reason(error)
    signal = killing_signal(raised)
    if signal is not None:
        return f"its process was killed by signal {signal}; the machine may have run out of memory"
    if not _ELSEWHERE.search(raised):
        return raised
    for text in texts:
        found = _logged_exception(text)
        if found:
            return found
    return raised


def _logged_exception(text: str) -> str | None:
    """The first exception that a vLLM process logged; later ones are its consequences."""
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if _FAILED.search(line)), None)
    if start is None:
        if _TRACEBACK not in text:
            return None
        block = [_PREFIX.sub("", line) for line in lines]
    else:  # the logger repeats its prefix in each line of a message
        logged = itertools.takewhile(lambda line: (found := _PREFIX.match(line)) and found["level"], lines[start:])
        block = [_PREFIX.sub("", line) for line in logged][1:]
    found = exception_line("\n".join(block))
    return None if not block or _ELSEWHERE.search(found) else found


def collect(target: Path) -> None:
    """Copy the end of the workers' output on all nodes to a directory: Ray's session directory disappears when the
    container restarts, and other nodes' directories are not visible here.

    Args:
        target: the directory for the files ACTOR-PID.err and .out; names of other nodes' files begin with the node's
            address.
    """
    import ray

    if not ray.is_initialized():
        return
    context = ray.get_runtime_context()
    job, here = context.get_job_id(), context.get_node_id()
    found = {"": _printed_by(job)}
    others = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    others.pop(here, None)
    asked = {address: _ask(node, job) for node, address in others.items()}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=20) if asked else ([], [])
    for address, ref in asked.items():
        if ref in ready:
            with suppress(ray.exceptions.RayError):
                found[f"{address}-"] = ray.get(ref)
    target.mkdir(parents=True, exist_ok=True)
    for prefix, texts in found.items():
        for name, text in texts.items():
            (target / f"{prefix}{name}").write_text(text, encoding="utf-8")


def _ask(node: str, job: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_printed_by).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(job)


def _printed_by(job: str) -> dict[str, str]:
    """The ends of the output files of a job's workers on this node, by a name with the actor and PID."""
    found = {}
    logs = Path(this_node().get_logs_dir_path())
    for path in sorted(logs.glob(f"worker-*-{job}-*")):
        with path.open(errors="replace", encoding="utf-8") as file:
            head = file.read(4096)
        actor = re.search(r"^:actor_name:(.*)$", head, flags=re.MULTILINE)
        text = "\n".join(line for line in tail(path).split("\n") if not line.startswith((":job_id:", ":actor_name:")))
        if text.strip():
            who = re.sub(r"\W+", "_", actor.group(1)) if actor else "worker"
            found[f"{who}-{path.stem.rpartition('-')[2]}{path.suffix}"] = text
    return found
