"""DeepSpeed's compiled operators, and the locks that interrupted compilations leave behind."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from openrlhf_sfpo.system.errors import UsageError


def check_locks() -> None:
    """Check for locks of killed compilations of operators.

    torch compiles DeepSpeed's operators at their first use, each in its own directory, where it holds a file `lock`
    while compiling. A killed process leaves the file behind, and every later one waits for it silently and forever.

    Raises:
        UsageError: a lock is held by no process of this machine; names it.
    """
    if left := left_locks():
        raise UsageError(
            "backend",
            f"is deepspeed, which would wait forever for {', '.join(map(str, left))}: a compilation that was "
            "killed has left it there.",
            f"Unless another machine that shares the directory is compiling now: rm {' '.join(map(str, left))}",
        )


def left_locks() -> list[Path]:
    """The locks that no process of this machine holds."""
    return [path for path in _locks() if not _is_held(path)]


def _locks() -> Iterator[Path]:
    # torch's rule for where extensions are stored.
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root:
        yield from Path(root).glob("*/lock")
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        yield from (caches / "torch_extensions").glob("*/*/lock")  # by version of Python and accelerator


def _is_held(lock: Path) -> bool:
    """Whether a process of this user has the file open, as torch has while it compiles."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):
                    if link.samefile(lock):
                        return True
    return not lock.exists()  # it ended in the meantime
