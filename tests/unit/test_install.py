"""requirements/install.sh installs again what has changed, and nothing else, with a Python that only records calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

FILES = ("setup.py", "pyproject.toml", "openrlhf_sfpo/__init__.py")
LISTS = ("requirements/cpu-py311.txt", "requirements/build.txt", "requirements/install.sh")
PYTHON = """#!/usr/bin/env bash
case "$1 ${2:-}" in
    "-c "*) echo 311 ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *) echo "$*" >>"$CALLS" ;;
esac
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="install.sh wants a C compiler")
def test_a_change_of_what_the_package_is_built_from_is_installed(tmp_path: Path) -> None:
    root, calls, python = tmp_path / "repository", tmp_path / "calls", tmp_path / "python"
    for name in (*FILES, *LISTS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    python.write_text(PYTHON)
    python.chmod(0o755)

    def installed() -> list[str]:
        """What pip was asked to install."""
        calls.write_text("")
        environment = {**os.environ, "PYTHON": str(python), "CALLS": str(calls)}
        command = ["bash", str(root / "requirements" / "install.sh"), str(tmp_path / "venv")]
        subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True)
        return [line for line in calls.read_text().splitlines() if " install " in line]

    assert installed()[-1].endswith(f"-e {root}")
    assert installed() == []
    for name in (*FILES, *LISTS):
        with (root / name).open("a") as file:
            file.write("# changed\n")
        assert installed()[-1].endswith(f"-e {root}"), name
        assert installed() == [], name
