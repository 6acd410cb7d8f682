"""Directories that results go to, and files that are there whole or not at all."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openrlhf_sfpo.system.errors import UsageError


def check_writable(flag: str, directory: Path, probe: bool = True) -> None:
    """Check that the directory exists or can be made, and can be written to; nothing is left behind.

    Args:
        flag: that names the directory.
        directory: what is checked.
        probe: try it with a file; without, its permissions are looked at.

    Raises:
        UsageError: naming the flag and the directory.
    """
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(
            flag, f"{directory} cannot be written: {existing} is no writable directory.", "Choose another one."
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
    """That a path does not exist, and which part of it is missing, to be put after the path: "does not exist: models
    has no 'Qwen'"."""
    path = Path(path)
    existing = next((one for one in path.parents if os.path.exists(one)), Path())
    (missing, *below) = path.relative_to(existing).parts if existing != path else (path.name,)
    if existing.is_file():
        return f"does not exist: {existing} is a file"
    if existing == Path():
        return f"does not exist: {Path.cwd()} has no {missing!r}" if below else f"does not exist in {Path.cwd()}"
    return f"does not exist: {existing} has no {missing!r}"


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file to a temporary sibling, fsync it, then rename it atomically, so that nobody finds half of it; return
    `path`."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    return path


def set_usual_mode(file: Path) -> None:
    """Give a file that a library has made for its owner only the mode that the umask gives to new files."""
    probe = file.with_name(f".{file.name}.mode{os.getpid()}")
    probe.touch()
    file.chmod(probe.stat().st_mode & 0o777)
    probe.unlink()


@contextmanager
def locked(flag: str, directory: Path, who: str = "run") -> Iterator[None]:
    """Make a directory and hold it for this process, however the process ends.

    Args:
        flag: that names the directory.
        directory: whose `.lock` is held.
        who: what may hold it, for the error message.

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
