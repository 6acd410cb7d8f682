"""Every OpenRLHF version that has a patch, from pip."""

import shutil
import subprocess
import sys
from pathlib import Path

from openrlhf_sfpo.orchestration.patched.apply import known_versions

VERSIONS = known_versions()


def install(version: str, directory: Path) -> Path:
    """Install an OpenRLHF without its dependencies into its own directory; return that."""
    target = directory / version
    if not target.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", str(target)]
        done = subprocess.run([*command, f"openrlhf=={version}"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return target


def copy(installed: Path, directory: Path) -> Path:
    """A copy to patch."""
    return Path(shutil.copytree(installed, directory / installed.name))
