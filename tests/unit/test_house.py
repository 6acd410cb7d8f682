"""The import contract: which room of the package may import which, and which libraries.

A room is a directory directly below `openrlhf_sfpo/`. Imports inside functions count as well: a lazy import is still an
arrow. To add an arrow, move the code or the level, and say why in the commit.
"""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "openrlhf_sfpo"

# Lowest first. A room imports rooms of lower levels only, and never another room of its own level.
LEVELS = (
    {"system"},
    {"config", "sfpo"},
    {"checkpoints", "deepspeed", "report", "tasks"},
    {"cluster", "megatron", "rollout"},
    {"plan"},
    {"orchestration"},
    {"runs", "verl"},
    {"doctor"},
    {"cli"},
)
# Parts of the actor, likewise; megatron/actor.py and its neighbors are above them all.
MEGATRON_LEVELS = ({"model"}, {"data", "weights"}, {"train"}, {"state"})
# Which rooms may import a library; all others may not.
LIBRARIES = {
    "openrlhf": {"orchestration"},
    "megatron": {"megatron"},
    "deepspeed": {"deepspeed", "orchestration"},
    "vllm": {"orchestration", "rollout"},
    "ray": {"cluster", "orchestration", "rollout", "runs"},
    "verl": {"verl"},
}
# The algorithm: these and the standard library only.
SFPO_LIBRARIES = {"torch", "openrlhf_sfpo"}  # of the package, only itself and lower rooms (LEVELS)


@cache
def imports() -> dict[str, set[str]]:
    """Every module of the package, and the modules (with their dotted names) that it imports, lazily or not."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    return {name: set(imported(name, path, files)) for name, path in files.items()}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(name: str, path: Path, files: dict[str, Path]) -> list[str]:
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    importers = {
        "__import__",
        *names_of(tree, "importlib", "import_module"),
        *names_of(tree, "importlib", "__import__"),
        *names_of(tree, "importlib.util", "find_spec"),
        *names_of(tree, "pkgutil", "resolve_name"),
        *names_of(tree, "runpy", "run_module"),
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the whole name"
            base = node.module or ""
            found += [f"{base}.{a.name}" if f"{base}.{a.name}" in files else base for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in importers:
            named = (word.value for word in node.keywords if word.arg in ("name", "mod_name"))
            arguments = [*node.args[:1], *named]
            found += [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
    return found


def names_of(tree: ast.Module, module: str, name: str) -> set[str]:
    """The expressions by which a file calls a module's function, such as `importlib.import_module`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {f"{alias.asname or module}.{name}" for alias in node.names if alias.name == module}
        elif isinstance(node, ast.ImportFrom) and node.module == module:
            found |= {alias.asname or name for alias in node.names if alias.name == name}
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import openrlhf.cli",
        "import openrlhf.cli as cli",
        "from openrlhf.cli import train",
        "def f():\n    import openrlhf.cli",
        "import importlib\nimportlib.import_module('openrlhf.cli')",
        "import importlib as i\ni.import_module(name='openrlhf.cli')",
        "from importlib import import_module\nimport_module('openrlhf.cli')",
        "from importlib import import_module as load\nload('openrlhf.cli')",
        "__import__('openrlhf.cli')",
        "import importlib.util\nimportlib.util.find_spec('openrlhf.cli')",
        "import pkgutil\npkgutil.resolve_name('openrlhf.cli')",
        "import runpy\nrunpy.run_module('openrlhf.cli')",
    ],
)
def test_every_way_to_import_is_seen(tmp_path: Path, source: str) -> None:
    (tmp_path / "module.py").write_text(source)
    assert imported("module", tmp_path / "module.py", {}).count("openrlhf.cli") == 1


def room(module: str) -> str:
    """The package's room that a module is in; empty for other packages'."""
    return module.split(".")[1] if module.startswith(f"{PACKAGE.name}.") else ""


def test_every_file_has_a_room_with_a_level() -> None:
    loose = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert not loose, "files at the top of the package"
    assert {room(module) for module in imports() if room(module)} == set().union(*LEVELS)


def test_rooms_import_lower_rooms_only() -> None:
    level = {name: index for index, rooms in enumerate(LEVELS) for name in rooms}
    upward = sorted(
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if room(module) and room(other) in level and room(module) != room(other)
        if level[room(other)] >= level[room(module)]
    )
    assert not upward


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: {other for other in others if other in imports()} for module, others in imports().items()}
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in finished:
            for other in sorted(graph[module] - {module}):
                visit(other, (*path, module))
            finished.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("library", LIBRARIES)
def test_only_some_rooms_know_a_library(library: str) -> None:
    knows = {
        module: sorted(other for other in others if other.split(".")[0] == library)
        for module, others in imports().items()
    }
    assert not {m: found for m, found in knows.items() if found and room(m) not in LIBRARIES[library]}


def test_the_algorithm_imports_torch_alone() -> None:
    known = SFPO_LIBRARIES | set(sys.stdlib_module_names)
    strangers = {
        (module, other)
        for module, others in imports().items()
        if room(module) == "sfpo"
        for other in others
        if other.split(".")[0] not in known
    }
    assert not strangers


def test_commands_answer_before_anything_heavy_is_imported() -> None:
    """Bad flags and --help must not wait for torch, which takes seconds."""
    commands = [f"openrlhf_sfpo.cli.{path.stem}" for path in (PACKAGE / "cli").glob("*.py") if path.stem != "__init__"]
    light = [*commands, "openrlhf_sfpo.config.checks", "openrlhf_sfpo.checkpoints.model_directory"]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {light}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("name", ["megatron", "deepspeed"])
def test_no_flags_are_named_below_the_command_line(name: str) -> None:
    """These rooms know settings and DeepSpeed's own configuration; whatever reads a setting from a flag names the flag
    in errors (`config.setting_names`)."""
    flags = re.compile(r"--[a-z_]+\.[a-z_]+")
    for file in (PACKAGE / name).rglob("*.py"):
        assert not flags.search(file.read_text(encoding="utf-8")), file


def test_parts_of_the_actor_import_one_way() -> None:
    level = {part: number for number, parts in enumerate(MEGATRON_LEVELS) for part in parts}
    for file in (PACKAGE / "megatron").rglob("*.py"):
        part = file.relative_to(PACKAGE / "megatron").parts[0]
        for name in re.findall(r"openrlhf_sfpo\.megatron\.(\w+)", file.read_text(encoding="utf-8")):
            if part in level and name in level and name != part:
                assert level[name] < level[part], f"{file.relative_to(PACKAGE)} imports megatron.{name}"
