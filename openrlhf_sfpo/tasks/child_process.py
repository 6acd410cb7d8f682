"""Starts Python processes that run one of our functions."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def python_command(module: str, arguments: str = "") -> list[str]:
    """The command of a process that calls `main(ARGUMENTS)` of a module of this package.

    Unlike multiprocessing, it does not run the caller's main module again, so it works from a script without a main
    guard, from standard input and from a notebook; and it does not import from the working directory.
    """
    code = f"import sys; sys.path.append({str(_ROOT)!r}); from {module} import main; main({arguments})"
    return [sys.executable, "-P", "-c", code]
