"""Applying and reverting the patch files that give OpenRLHF the --sfpo.* flags."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Literal

from unidiff import PatchSet
from unidiff.patch import Hunk

from openrlhf_sfpo.system.errors import UsageError

# Inside the installed package; next to the package in a checkout.
PATCHES = next(
    (parent / "patches" for parent in Path(__file__).parents[2:4] if (parent / "patches").is_dir()),
    Path(__file__).parents[2] / "patches",
)

State = Literal["unpatched", "patched", "half"]

WITHOUT_PATCH = (
    "Without a patch, `import openrlhf_sfpo.orchestration.patched.import_hook` before OpenRLHF's command line runs "
    "adds the same flags: see examples/existing_deployment/README.md."
)


@dataclass(frozen=True)
class Target:
    """An OpenRLHF to patch.

    Attributes:
        root: the directory that holds the package `openrlhf`.
        version: its version.
    """

    root: Path
    version: str


@dataclass(frozen=True)
class Edit:
    """A file of the target and its changes.

    Attributes:
        path: the file.
        before: its bytes now.
        patched, unpatched: its bytes with and without the patch; one of them equals `before`.
    """

    path: Path
    before: bytes
    patched: bytes
    unpatched: bytes


def known_versions() -> list[str]:
    """The versions with patches, oldest first."""
    names = (path.name.removeprefix("openrlhf-").removesuffix(".patch") for path in PATCHES.glob("openrlhf-*.patch"))
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def find_target(directory: Path | None) -> Target:
    """Find OpenRLHF and its version, without importing it.

    Args:
        directory: a source tree, site-packages, or the package itself; None for the one that Python would import.

    Raises:
        UsageError: there is no OpenRLHF, or its version is unknown.
    """
    if directory is None:
        spec = importlib.util.find_spec("openrlhf")
        if spec is None or not spec.submodule_search_locations:
            raise UsageError("DIR", "is not given, and no OpenRLHF is installed.", "Give the directory of one.")
        root = Path(spec.submodule_search_locations[0]).parent
        _refuse_archive(root)
    else:
        root = directory.absolute()
        _refuse_archive(root)
        if not (root / "openrlhf").is_dir() and root.name == "openrlhf":
            root = root.parent
        if not (root / "openrlhf" / "cli").is_dir():
            raise UsageError("DIR", f"{directory} holds no OpenRLHF.", "Give its source tree or site-packages.")
    version = _version_of(root)
    if version is None:
        raise UsageError(
            "DIR",
            f"{root} does not say which version of OpenRLHF it is (no version.txt, setup.py or openrlhf-*.dist-info).",
            f"Give one of these versions: {', '.join(known_versions())}.",
        )
    return Target(root, version)


def _refuse_archive(root: Path) -> None:
    archive = next((path for path in (root, *root.parents) if path.is_file()), None)
    if archive is not None:
        raise UsageError(
            "DIR",
            f"{archive} is a file, and not a directory that holds OpenRLHF's source files.",
            f"Install OpenRLHF unpacked (pip install). {WITHOUT_PATCH}",
        )


def finds_this_package(target: Target) -> bool | None:
    """Whether the Python that imports the target also finds openrlhf_sfpo; None if unknown, as for a source tree, which
    any Python may run."""
    own = importlib.util.find_spec("openrlhf")
    places = list(own.submodule_search_locations or []) if own else []
    if any(Path(place).parent.resolve() == target.root.resolve() for place in places):
        return True
    if target.root.name != "site-packages" or len(target.root.parents) < 3:
        return None
    python = target.root.parents[2] / "bin" / "python"  # target.root is lib/pythonX.Y/site-packages
    if not python.is_file():
        return None
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('openrlhf_sfpo') is None)"
    command = [str(python), "-I", "-c", code]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def plan(target: Target) -> list[Edit]:
    """The changes of the target's patch. Only reads.

    Raises:
        UsageError: there is no patch for the version, or a file to change is missing.
    """
    if target.version not in known_versions():
        raise UsageError(
            "openrlhf",
            f"{target.version} in {target.root} is a version that there is no patch for.",
            f"There are patches for {', '.join(known_versions())}. {WITHOUT_PATCH}",
        )
    patch = PatchSet((PATCHES / f"openrlhf-{target.version}.patch").read_text(encoding="utf-8"))
    edits = []
    for file in patch:
        path = target.root / file.path
        if not path.is_file():
            raise UsageError("DIR", f"{path} is missing.", f"Reinstall OpenRLHF. {WITHOUT_PATCH}")
        before = path.read_bytes()
        patched, unpatched = _changed(before, list(file), revert=False), _changed(before, list(file), revert=True)
        if patched is None and unpatched is None:
            raise UsageError(
                "DIR",
                f"{path} is neither as OpenRLHF {target.version} has it nor patched: {_mismatch(before, list(file))}.",
                f"Undo what was edited there or reinstall OpenRLHF. {WITHOUT_PATCH}",
            )
        edits.append(Edit(path, before, patched or before, unpatched or before))
    return edits


def state_of(edits: list[Edit]) -> State:
    """Whether the patch is applied; "half" if an earlier `write` was interrupted between two files."""
    done = [edit.before == edit.patched for edit in edits]
    return "patched" if all(done) else "half" if any(done) else "unpatched"


def write(edits: list[Edit], revert: bool) -> list[Path]:
    """Write each file atomically.

    Returns:
        The files that were changed.

    Raises:
        UsageError: a file cannot be written.
    """
    todo = [(edit, edit.unpatched if revert else edit.patched) for edit in edits]
    todo = [(edit, content) for edit, content in todo if content != edit.before]
    try:
        for edit, content in todo:
            _write_finished(_temporary_sibling(edit.path), content, edit.path.stat().st_mode)
        for edit, _ in todo:
            os.replace(_temporary_sibling(edit.path), edit.path)
    except OSError as error:
        raise UsageError(
            "DIR", f"{error.filename} cannot be written ({error.strerror}).", "Run this as the owner of the files."
        ) from None
    finally:
        for edit, _ in todo:
            with suppress(OSError):
                _temporary_sibling(edit.path).unlink()
    return [edit.path for edit, _ in todo]


def _temporary_sibling(path: Path) -> Path:
    """The path that a file's new content is written to before it is renamed."""
    return path.with_name(f".{path.name}.openrlhf-sfpo")


def _write_finished(path: Path, content: bytes, mode: int) -> None:
    """Write a file and fsync it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(mode)


def _changed(content: bytes, hunks: list[Hunk], revert: bool) -> bytes | None:
    """The content with the hunks applied or reverted; None if a hunk does not fit at exactly one place.

    Line endings are ignored when matching. Kept lines keep theirs; a new line gets that of the hunk's first line.
    """
    lines = content.split(b"\n")
    bare = [line.removesuffix(b"\r") for line in lines]
    start = 0
    for hunk in hunks:
        old, new = _sides(hunk, revert)
        places = [at for at in range(start, len(bare) - len(old) + 1) if bare[at : at + len(old)] == old]
        if len(places) != 1:
            return None
        (place,) = places
        ending = b"\r" if lines[place].endswith(b"\r") else b""
        kept = dict(zip(old, lines[place : place + len(old)], strict=True))
        lines[place : place + len(old)] = [kept.get(line, line + ending) for line in new]
        bare[place : place + len(old)] = new
        start = place + len(new)
    return b"\n".join(lines)


def _sides(hunk: Hunk, revert: bool) -> tuple[list[bytes], list[bytes]]:
    """The hunk's lines before and after."""
    source = [line.value.rstrip("\n").encode() for line in hunk if not line.is_added]
    target = [line.value.rstrip("\n").encode() for line in hunk if not line.is_removed]
    return (target, source) if revert else (source, target)


def _mismatch(content: bytes, hunks: list[Hunk]) -> str:
    """The hunk that does not fit, as text."""
    for number, hunk in enumerate(hunks, start=1):
        if _changed(content, [hunk], revert=False) is None and _changed(content, [hunk], revert=True) is None:
            line = next(line.value.strip() for line in hunk if not line.is_added)
            return f"change {number} of {len(hunks)} does not fit, because the line {line!r} is not in it exactly once"
    return "some changes are applied and others are not"


def _version_of(root: Path) -> str | None:
    """The version in an installed package's metadata or a source tree's files."""
    for metadata in root.glob("openrlhf-*.dist-info/METADATA"):
        return HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))["Version"]
    try:
        distribution = importlib.metadata.distribution("openrlhf")
        if Path(str(distribution.locate_file("openrlhf"))).parent.resolve() == root.resolve():
            return distribution.version
    except importlib.metadata.PackageNotFoundError:
        pass
    if (root / "version.txt").is_file():
        return (root / "version.txt").read_text(encoding="utf-8").strip()
    for name in ("setup.py", "pyproject.toml"):
        if (root / name).is_file() and (
            found := re.search(
                r"""^\s*version\s*=\s*["']([^"']+)["']""", (root / name).read_text(encoding="utf-8"), re.MULTILINE
            )
        ):
            return found.group(1)
    return None
