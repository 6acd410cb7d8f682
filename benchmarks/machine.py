"""What a result says about the machine that it is from."""

import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor's name as the kernel has it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else f"{platform.machine()} ({os.cpu_count()} cores)"
