"""The image's pinned packages: the files must agree, and docker/check_pins.py must find disagreements."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from check_pins import EXCEPTIONS, check_files, check_installed, check_requirements, read_pins
from places import ROOT

FILES = ("Dockerfile", "setup.py", "README.md", "openrlhf_sfpo/__init__.py", "docker/install.sh")
FILES += tuple(f"requirements/{name}" for name in ("gpu.in", "gpu-py312.txt", "gpu-build.txt", "install.sh"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the files that must agree."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def edit(tree: Path, name: str, old: str, new: str) -> None:
    text = (tree / name).read_text()
    assert re.search(old, text, re.MULTILINE), f"{name} has no {old}"
    (tree / name).write_text(re.sub(old, new, text, flags=re.MULTILINE))


def test_the_files_agree() -> None:
    pins = read_pins()
    assert list(check_files(pins)) == []
    for name in ("torch", "vllm", "openrlhf", "megatron-core", "transformer-engine-torch", "flash-attn", "ray"):
        assert re.fullmatch(r"[\d.]+", pins[name])


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("requirements/gpu-py312.txt", r"^vllm==.*", "vllm==0.28.0", "setup.py asks for vllm==0.29.0, and 0.28.0 is"),
        ("requirements/gpu-py312.txt", r"^reasoning-gym==.*\n", "", "reasoning-gym==0.1.25, which is not pinned"),
        ("requirements/gpu-build.txt", r"^flash-attn==.*", "flash-attn==2.8.2", "setup.py asks for flash-attn==2.8.3"),
        ("requirements/gpu-build.txt", r"(-torch)==.*", r"\1==2.12.0", "Engine's packages are of several versions"),
        ("requirements/gpu-py312.txt", r"^cuda-toolkit==.*", "cuda-toolkit==13.1.0.0", "is built for CUDA 13.1.0"),
        ("requirements/gpu.in", r"^torch==.*", "torch==2.12.0", "setup.py asks for torch==2.13.0, and 2.12.0"),
        ("setup.py", r'"deepspeed==.*"', '"deepspeed==0.19.8"', "setup.py asks for deepspeed==0.19.8, and"),
        ("Dockerfile", r"^FROM nvidia/cuda:13.0.3", "FROM nvidia/cuda:12.8.1", "starts from nvidia/cuda:12.8.1"),
        ("Dockerfile", r"^RUN docker/install.sh packages\n", "", r"runs the steps ['built', 'project']"),
        ("Dockerfile", r"^USER .*", "RUN pip install vllm", "installs Python packages past docker/install.sh"),
        ("Dockerfile", r"^ARG MAX_JOBS=", "COPY . .\nARG MAX_JOBS=", "so that each change of it compiles anew"),
        ("docker/install.sh", r"^pip_version=.*", "pip_version=25.0", "different versions of pip"),
    ],
)
def test_disagreements_between_the_files_are_found(tree: Path, name: str, old: str, new: str, problem: str) -> None:
    assert list(check_files(read_pins(tree), tree)) == []
    edit(tree, name, old, new)
    found = "\n".join(check_files(read_pins(tree), tree))
    assert problem in found


def test_what_the_dockerfile_runs_and_copies_exists() -> None:
    text = (ROOT / "Dockerfile").read_text()
    scripts = re.findall(r"/opt/openrlhf_sfpo/([\w./-]+\.sh)", text)
    assert sorted(scripts) == ["docker/entrypoint.sh", "docker/healthcheck.sh"]
    copied = [word for line in re.findall(r"^COPY (.*)", text, re.MULTILINE) for word in line.split()[:-1]]
    for name in (*scripts, *copied):
        assert (ROOT / name).exists(), name
    assert all(os.access(ROOT / name, os.X_OK) for name in (*scripts, "docker/install.sh"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [("torch>=2.13", "no exact pin"), ("vllm", "no exact pin"), ("Ray==2.55.0", "ray is pinned twice")],
)
def test_every_pin_is_exact_and_unique(tree: Path, line: str, problem: str) -> None:
    with (tree / "requirements" / "gpu-py312.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=problem):
        read_pins(tree)


def test_requirements_of_the_pinned_packages() -> None:
    pins = {"a": "1.0", "b": "2.0"}
    for declared, problems in (
        (["b>=2"], []),
        (["b<2"], ["a asks for b<2, and there is 2.0"]),
        (["c"], ["a asks for c, which is not there"]),
        (['c; extra == "more"', 'c; sys_platform == "win32"', 'c; python_version < "3.12"'], []),
        (['c; python_version >= "3.12"'], ['a asks for c; python_version >= "3.12", which is not there']),
    ):
        assert list(check_requirements({"a": declared, "b": []}, pins)) == problems
    extra = {"a": ["b[more]"], "b": ['d; extra == "more"']}
    assert list(check_requirements(extra, pins)) == ['b asks for d; extra == "more", which is not there']


def test_installed_packages_are_compared_with_the_pins() -> None:
    """This environment is not the image's: it lacks flash-attn, and has the packages of the CPU list."""
    problems = list(check_installed(read_pins()))
    assert "flash-attn is not installed" in problems
    assert not [problem for problem in problems if problem.startswith(("ray ", "megatron-core ", "transformers "))]


@pytest.mark.slow
def test_the_index_has_every_pin_and_they_fit_together() -> None:
    command = [sys.executable, str(ROOT / "docker" / "check_pins.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(read_pins())} pins, 0 error(s)" in done.stdout
    assert "flash-attn==2.8.3" in done.stdout
    for package, _ in EXCEPTIONS:
        assert f"known: {package} asks for" in done.stdout
