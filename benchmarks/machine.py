"""Shared by the benchmarks: the name of the processor, and writing results."""

import json
import os
import platform
from pathlib import Path
from typing import Any


def cpu_name() -> str:
    """The processor's name according to the kernel."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip()
        for line in info.read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else f"{platform.machine()} ({os.cpu_count()} cores)"


def write_result(out: Path, name: str, result: dict[str, Any], table: str) -> None:
    """Print the table, and write it and everything measured to OUT/NAME.md and OUT/NAME.json."""
    print(f"\n{table}")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(table, encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
