"""A home directory that can be written, for the caches of the libraries, where the user has none.

Containers that run under an arbitrary user id often have no HOME, or one that cannot be written. Triton, FlashInfer,
vLLM, DeepSpeed, Matplotlib and others write below it when they are imported or first used.
"""

import os
import pwd
from pathlib import Path

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.scratch import Scratch

# Files below the old home that are read and not written, and the variables that name them. A home that can only be
# read keeps them.
_READ_FILES = {
    "HF_TOKEN_PATH": (".cache", "huggingface", "token"),
    "NETRC": (".netrc",),
}
# Directories of caches that the user has set, which must be writable themselves.
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
    """For a command, before it imports a library: a home directory, and caches in there."""
    have_home()
    os.environ.update(compiler_cache())


def have_home(fallback: Path | None = None) -> None:
    """Have HOME name a writable directory and USER a name, in this process and those that it starts.

    Args:
        fallback: the home where there is no other; without it one is made, and removed when the process ends.
    """
    global _scratch
    if not _has_user_name():
        # torch's compiler asks for it, and looks into the user database last, which has no entry for the id.
        os.environ["USER"] = os.environ["LOGNAME"] = f"user{os.getuid()}"
    home = home_directory()
    if home is not None and is_writable(home):
        os.environ["HOME"] = str(home)  # some libraries look nowhere else
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
    """The variable that has torch's compiler keep its cache below HOME, unless it is set. By default the cache is in
    TMPDIR, where every process that imports the compiler, as transformers does, would leave a directory."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return {}
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return {"TORCHINDUCTOR_CACHE_DIR": str(caches / "openrlhf_sfpo" / "torchinductor")}


def home_directory() -> Path | None:
    """The user's home directory, whether it exists or not; None if nothing says where it is."""
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
    """Of the variables that name a library's cache, those whose directory can neither be written nor be made."""
    found = {name: os.environ[name] for name in CACHE_VARIABLES if os.environ.get(name)}
    return {name: place for name, place in found.items() if not is_writable(Path(place).expanduser())}


def is_writable(directory: Path) -> bool:
    """Whether the directory can be written, or be made and then written."""
    existing = directory.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return False
    # A file system that is mounted read-only is not seen by access() as root; a name is cheap to try.
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
