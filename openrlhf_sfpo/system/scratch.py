"""A private temporary directory for the processes of one run, removed when the run ends, however it ends.

It holds sockets, Ray's session, W&B's files and everything that libraries put into TMPDIR. The owner holds a lock on
the directory while it lives, so that the next run can recognize and remove the leftovers of a killed one.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
from openrlhf_sfpo.system.replacements import install as replace

# Tells the worker processes of a run where its directory is.
VARIABLE = "OPENRLHF_SFPO_SCRATCH"
_PREFIX = "sfpo-"
_LOCK = ".lock"
_SHARED_MEMORY = Path("/dev/shm")
# A Unix socket's path has at most 107 bytes. Ray's longest one inside the directory is
# /session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store, and Ray's directory /sfpo-12345678/ray.
_LONGEST_PARENT = 107 - 64 - 18


class Scratch:
    """Creates the directory, and removes it with `close`, at the latest when the process exits.

    Attributes:
        path: the directory, accessible only to this user.

    Raises:
        UsageError: no directory for temporary files can be written that is short enough.
    """

    def __init__(self) -> None:
        parent = parent_directory()
        remove_leftovers(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = (self.path / _LOCK).open("w", encoding="utf-8")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.temporary.mkdir()
        self._owner = os.getpid()
        atexit.register(self.close)

    @property
    def temporary(self) -> Path:
        """The directory for TMPDIR."""
        return self.path / "tmp"

    @property
    def ray(self) -> Path:
        """The directory for Ray's sessions. Not the directory itself: Ray makes it world-writable."""
        return self.path / "ray"

    def environment(self) -> dict[str, str]:
        """Environment variables that make the run's processes put their temporary files there."""
        return {"TMPDIR": str(self.temporary), VARIABLE: str(self.path)}

    def close(self) -> None:
        """Remove the directory, and what the run's processes left in shared memory. May be called more than once."""
        atexit.unregister(self.close)
        if self._lock.closed or os.getpid() != self._owner:
            return
        _remove(self.path)
        self._lock.close()


def parent_directory() -> Path:
    """The parent of temporary directories: RAY_TMPDIR or TMPDIR if it is writable and short enough for Unix sockets,
    else /tmp or /dev/shm.

    Raises:
        UsageError: none of them is usable.
    """
    asked = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    for directory in (asked, "/tmp", "/dev/shm"):
        path = os.path.abspath(directory)
        if len(os.fsencode(path)) <= _LONGEST_PARENT and os.access(path, os.W_OK | os.X_OK):
            return Path(path)
    raise UsageError(
        "TMPDIR",
        f"is {asked}, which cannot be written or is longer than {_LONGEST_PARENT} bytes (Ray's sockets are in there), "
        "and /tmp cannot be written either.",
        "Set TMPDIR to a short, writable directory.",
    )


def remove_leftovers(parent: Path) -> None:
    """Remove the directories of this user's killed runs, recognizable by locks that no process holds."""
    for path in parent.glob(f"{_PREFIX}*"):
        lock = path / _LOCK
        with suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            with lock.open("r+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)


def name_shared_memory() -> None:
    """Prefix the names of semaphores and shared memory of this process and its children with the run directory's name,
    so that those of a killed run can be found. Does nothing outside a run."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        return
    import multiprocessing
    from multiprocessing import shared_memory

    name = Path(directory).name
    # Private names of the standard library, the same in Python 3.11 and 3.12; without them only the cleanup is
    # incomplete.
    config: Any = getattr(multiprocessing.current_process(), "_config", None)
    if isinstance(config, dict) and "semprefix" in config:
        config["semprefix"] = f"/{name}"
    if hasattr(shared_memory, "_SHM_NAME_PREFIX"):
        replace(REPLACEMENTS["multiprocessing.shared_memory._SHM_NAME_PREFIX"], f"/{name}-")


def _remove(path: Path) -> None:
    for _ in range(20):  # processes that are still exiting may create files there
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            break
        time.sleep(0.1)
    for file in _in_shared_memory(path.name):
        with suppress(OSError):
            file.unlink()


def _in_shared_memory(name: str) -> Iterator[Path]:
    yield from _SHARED_MEMORY.glob(f"sem.{name}-*")
    yield from _SHARED_MEMORY.glob(f"{name}-*")
