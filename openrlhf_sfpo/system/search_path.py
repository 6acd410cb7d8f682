"""Keeps the current directory out of Python's module search path, in the driver and in Ray's workers.

A directory `openrlhf/` there, such as a checkout of OpenRLHF, or a file `datasets.py` would otherwise be imported
instead of the installed package.
"""

import importlib.util
import itertools
import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from openrlhf_sfpo.system.errors import UsageError

# Keeps Python from searching the current directory in processes started with -m or -c, as vLLM's and multiprocessing's
# are.
ENVIRONMENT = {"PYTHONSAFEPATH": "1"}

_PACKAGES = ("openrlhf", "ray", "torch", "transformers", "datasets", "deepspeed")


def leave_out_current_directory() -> None:
    """Undo that `python -m openrlhf_sfpo...` puts the current directory first. Keeps directories named in PYTHONPATH,
    and does nothing if this package is only found in the current directory."""
    words = sys.orig_argv
    started_as_module = any(
        word == "-m" and following.split(".")[0] == "openrlhf_sfpo" for word, following in itertools.pairwise(words)
    )
    if not started_as_module or sys.flags.safe_path or not sys.path:
        return
    if os.path.realpath(sys.path[0]) != os.path.realpath(os.getcwd()):
        return
    first = sys.path.pop(0)
    importlib.invalidate_caches()
    if not _is_found("openrlhf_sfpo"):
        sys.path.insert(0, first)


def leave_out_empty_entries() -> None:
    """Remove empty entries of PYTHONPATH, which mean the current directory, here and for child processes: `export
    PYTHONPATH=$PYTHONPATH:/code` makes one if PYTHONPATH was empty."""
    value = os.environ.get("PYTHONPATH")
    entries = value.split(os.pathsep) if value else []
    if all(entries) or sys.flags.ignore_environment:
        return
    named = [entry for entry in entries if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(named)
    here = os.path.realpath(os.getcwd())
    if here not in map(os.path.realpath, named):
        sys.path[:] = [path for path in sys.path if os.path.realpath(path) != here]


def check_packages() -> None:
    """Check that Python imports the installed packages, whose versions are checked.

    Raises:
        UsageError: a directory on the search path hides one.
    """
    for name in _PACKAGES:
        try:
            installed = Path(str(distribution(name).locate_file(f"{name}/__init__.py")))
        except PackageNotFoundError:
            continue
        spec = importlib.util.find_spec(name)
        if installed.exists() and spec is not None and spec.origin and not installed.samefile(spec.origin):
            raise UsageError(
                "PYTHONPATH",
                f"leads to {spec.origin}, which hides the installed package {name}.",
                f"Take {Path(spec.origin).parent} away from the search path, or install that copy (pip install -e).",
            )


def _is_found(name: str) -> bool:
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return any(finder.find_spec(name, None) is not None for finder in finders)
