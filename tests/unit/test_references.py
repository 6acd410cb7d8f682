"""Docstrings and comments of the package mention files and names that exist.

What looks like one of ours is checked: `room/file.py`, `file.py:name`, dotted names that begin with a room, a module or
a class of this package, and names in backticks.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "openrlhf_sfpo"
FILE = re.compile(r"(?<![\w./-])(?P<path>[\w/]+\.py)(?::(?P<name>[A-Za-z_]\w*))?")
DOTTED = re.compile(r"(?<![\w./-])(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)")
IN_BACKTICKS = re.compile(r"`(?P<name>[A-Za-z_]\w*)(?:\([^`\n]*\))?`")
# Names of other libraries that look like ours.
OTHERS = {
    "DotProductAttention",
    "ModelConfig.verify_with_parallel_config",  # vLLM's
    "core.py",
    "datasets.py",
    "deepspeed.initialize",
    "get_pp_rank_microbatches",
    "get_rope",
    "sys.stdout.buffer",
    "train_ppo_ray.py",
    *("_interval", "_method"),  # endings of names
}


@cache
def flags() -> set[str]:
    return set(re.findall(r"--([\w.]+)", (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")))


@cache
def sources() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def texts(source: str) -> Iterator[str]:
    """The docstrings and comments of a file; comments on consecutive lines are one text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node, clean=False) or ""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield "\n".join(token.string for token in tokens if token.type == tokenize.COMMENT)


@cache
def defined() -> dict[str, set[str]]:
    """What each room, module (by its last name) and class has, one level down."""
    found: dict[str, set[str]] = defaultdict(set)
    for path, source in sources().items():
        module = path.parent.name if path.stem == "__init__" else path.stem
        found[path.parent.name].add(path.stem)
        found[path.parent.parent.name].add(path.parent.name)
        tree = ast.parse(source)
        found[module] |= names_in(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name] |= names_in(node) | {base for kind in node.bases for base in [ast.unparse(kind)]}
                found[node.name] |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return found


def names_in(node: ast.Module | ast.ClassDef) -> set[str]:
    """The names that a module or a class body binds, also in branches."""
    found = set()
    for child in ast.walk(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(child.name)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            found.add(child.id)
        elif isinstance(child, ast.alias):
            found.add((child.asname or child.name).split(".")[0])
    return found


@cache
def known_words() -> set[str]:
    """Every identifier and every word of a string in the package's code, docstrings left out."""
    found: set[str] = set()
    for source in sources().values():
        docstrings = {text for text in texts(source) if text}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings:
                found |= set(re.findall(r"\w+", node.value))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        found |= {token.string for token in tokens if token.type == tokenize.NAME}
    return found


def wrong_files(text: str) -> Iterator[str]:
    rooms = {path.name for path in PACKAGE.iterdir()} | {"tests", "docs", "benchmarks", "examples", "requirements"}
    for match in FILE.finditer(text):
        path = match["path"]
        if path in OTHERS or path.startswith("FILE") or ("/" in path and path.split("/")[0] not in rooms):
            continue
        files = [file for file in (ROOT / path, PACKAGE / path) if file.exists()] or [
            file for file in sources() if file.name == path
        ]
        if not files:
            yield path
        elif match["name"] and not any(match["name"] in names_in(ast.parse(file.read_text())) for file in files):
            yield match[0]


def wrong_names(text: str) -> Iterator[str]:
    known = defined()
    for match in DOTTED.finditer(text):
        parts = match["name"].removeprefix("openrlhf_sfpo.").split(".")
        if parts[-1] == "py" or match["name"] in OTHERS | flags() or ".".join(parts[:2]) in ("megatron.core", "e.g"):
            continue
        in_code = text[match.start() - 1 : match.start()] == "`" or parts[-1][0].isupper()
        if in_code and parts[0] in known and any(b not in known[a] for a, b in pairwise(parts) if a in known):
            yield match["name"]
    for match in IN_BACKTICKS.finditer(text):
        name = match["name"]
        ours = "_" in name.strip("_") or name.startswith("_") or re.match(r"[A-Z][a-z]+[A-Z]", name)
        if ours and name not in known_words() | OTHERS:
            yield name


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_docstrings_and_comments_mention_exists(path: Path) -> None:
    found = [name for text in texts(sources()[path]) for name in (*wrong_files(text), *wrong_names(text))]
    assert not found


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("see cli/main.py, cli/main.py:main and `heartbeat.Heartbeat`", []),
        (
            "`sfpo.PassRunner`, `cluster.mailbox`, `ray.init`, `--sfpo.k`, `ModelConfig.from_pretrained`, torch.Tensor",
            [],
        ),
        ("see cli/mine.py", ["cli/mine.py"]),
        ("see cli/main.py:mine", ["cli/main.py:mine"]),
        ("see `pulse.Pulse`, once heartbeat.Pulse", ["heartbeat.Pulse"]),
        ("`orchestration.events`", ["orchestration.events"]),
        ("`Watchdog.hears`", ["Watchdog.hears"]),
        ("`_take_up_again` and `HeartbeatPulse`", ["_take_up_again", "HeartbeatPulse"]),
    ],
)
def test_what_does_not_exist_is_found(text: str, wrong: list[str]) -> None:
    assert [*wrong_files(text), *wrong_names(text)] == wrong


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_description_of_what_is_returned_is_one_paragraph(path: Path) -> None:
    """A line with another indentation is left over from an edit."""
    for node in ast.walk(ast.parse(sources()[path])):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        found = re.search(r"^(?:Returns|Yields):\n((?: .*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE)
        indents = {len(line) - len(line.lstrip()) for line in found[1].splitlines() if line.strip()} if found else set()
        assert len(indents) <= 1, f"{node.name}: {found and found[1]}"
