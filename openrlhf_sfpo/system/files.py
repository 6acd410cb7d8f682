"""Checks of output directories, and atomic writes of files."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openrlhf_sfpo.system.errors import UsageError


def check_writable(flag: str, directory: Path, probe: bool = True) -> None:
    """Check that the directory exists or can be created, and can be written to; nothing is left behind.

    Args:
        flag: the flag that names the directory.
        directory: the directory to check.
        probe: try to create a file; otherwise only look at the permissions.

    Raises:
        UsageError: naming the flag and the directory.
    """
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(
            flag, f"{directory} cannot be written: {existing} is not a writable directory.", "Choose another one."
        )
    if not probe:
        return
    try:
        file = existing / f".openrlhf_sfpo_probe{os.getpid()}"
        file.touch()
        file.unlink()
    except OSError as error:
        raise UsageError(flag, f"{directory} cannot be written ({error.strerror}).", "Choose another one.") from None


def absence(path: str | Path) -> str:
    """The end of an error message about a path that does not exist, with the missing part: "does not exist: models has
    no 'Qwen'"."""
    path = Path(path)
    existing = next((one for one in path.parents if os.path.exists(one)), Path())
    (missing, *below) = path.relative_to(existing).parts if existing != path else (path.name,)
    if existing.is_file():
        return f"does not exist: {existing} is a file"
    if existing == Path():
        return f"does not exist: {Path.cwd()} has no {missing!r}" if below else f"does not exist in {Path.cwd()}"
    return f"does not exist: {existing} has no {missing!r}"


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file to a temporary sibling, fsync it, then rename it atomically; return `path`."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    return path


def set_usual_mode(file: Path) -> None:
    """Give a file that a library created for its owner only the mode that the umask gives to new files."""
    probe = file.with_name(f".{file.name}.mode{os.getpid()}")
    probe.touch()
    file.chmod(probe.stat().st_mode & 0o777)
    probe.unlink()


@contextmanager
def locked(flag: str, directory: Path, who: str = "run") -> Iterator[None]:
    """Create a directory and lock it until the block or the process ends, however it ends.

    Args:
        flag: the flag that names the directory.
        directory: the directory to lock, with its `.lock`.
        who: what holds such locks, for the error message.

    Raises:
        UsageError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip()
            raise UsageError(
                flag,
                f"{directory} is in use by another {who}{f' ({holder})' if holder else ''}.",
                "Wait for it, or choose another directory.",
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
