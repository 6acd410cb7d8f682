"""Directories that results go to, and files that are there whole or not at all."""

import os
from pathlib import Path

from openrlhf_sfpo.errors import UsageError


def check_writable(flag: str, directory: Path) -> None:
    """Check that the directory can be made or is there, and can be written to; nothing is left behind.

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
    try:
        probe = existing / f".openrlhf_sfpo_probe{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(flag, f"{directory} cannot be written ({error.strerror}).", "Choose another one.") from None


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file beside its place and rename it once it is on the disk, so that nobody ever finds half of it; return
    `path`."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    return path
