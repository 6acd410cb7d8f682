"""A writable home directory for the libraries' caches, where the user has none.

Containers that run under an arbitrary user id often have no HOME, or a read-only one. Triton, FlashInfer, vLLM,
DeepSpeed, Matplotlib and others write to it when they are imported or first used.
"""

import os
import pwd
from pathlib import Path

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.scratch import Scratch

# Files in the old home that are only read, and the variables that name them. A read-only home keeps them.
_READ_FILES = {
    "HF_TOKEN_PATH": (".cache", "huggingface", "token"),
    "NETRC": (".netrc",),
}
# Variables that name a library's cache, which must be writable.
CACHE_VARIABLES = (
    "XDG_CACHE_HOME",
    "HF_HOME",
    "VLLM_CACHE_ROOT",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "MPLCONFIGDIR",
    "NUMBA_CACHE_DIR",
    "FLASHINFER_WORKSPACE_BASE",
)

_scratch: Scratch | None = None


def prepare_command() -> None:
    """Prepare a command, before it imports a library: set a home directory with the caches in it."""
    ensure_home()
    os.environ.update(compiler_cache())


def ensure_home(fallback: Path | None = None) -> None:
    """Make sure that HOME names a writable directory and that USER is set, in this process and its children.

    Args:
        fallback: the home if there is no other; by default a temporary one, removed when the process ends.
    """
    global _scratch
    if not _has_user_name():
        # torch's compiler asks for USER before the user database, which has no entry for the id.
        os.environ["USER"] = os.environ["LOGNAME"] = f"user{os.getuid()}"
    home = home_directory()
    if home is not None and is_writable(home):
        os.environ["HOME"] = str(home)  # some libraries read only this
        return
    if fallback is None:
        _scratch = _scratch or Scratch()
        fallback = _scratch.path / "home"
    fallback.mkdir(mode=0o700, exist_ok=True)
    for variable, parts in _READ_FILES.items():
        file = home.joinpath(*parts) if home is not None else None
        if file is not None and variable not in os.environ and os.access(file, os.R_OK):
            os.environ[variable] = str(file)
    os.environ["HOME"] = str(fallback)


def compiler_cache() -> dict[str, str]:
    """The variable that puts the cache of torch's compiler below HOME, unless it is set. The default is in TMPDIR,
    where every process that imports the compiler, as transformers does, would leave a directory."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return {}
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return {"TORCHINDUCTOR_CACHE_DIR": str(caches / "openrlhf_sfpo" / "torchinductor")}


def home_directory() -> Path | None:
    """The user's home directory, whether or not it exists; None if it is unknown."""
    if home := os.environ.get("HOME"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def check_caches() -> None:
    """Check that every cache that a variable names can be written.

    Raises:
        UsageError: naming the variable.
    """
    for name, place in unwritable_caches().items():
        raise UsageError(
            name, f"is {place}, which cannot be written.", "Unset it, or set it to a directory that can be written."
        )


def unwritable_caches() -> dict[str, str]:
    """The variables that name a library's cache whose directory can neither be written nor created."""
    found = {name: os.environ[name] for name in CACHE_VARIABLES if os.environ.get(name)}
    return {name: place for name, place in found.items() if not is_writable(Path(place).expanduser())}


def is_writable(directory: Path) -> bool:
    """Whether the directory can be written, or created and then written."""
    existing = directory.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return False
    # As root, access() does not notice a read-only mount, so try to create a directory.
    probe = existing / f".openrlhf_sfpo_probe{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def _has_user_name() -> bool:
    if any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return True
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True
