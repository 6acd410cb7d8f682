"""Checks of the documentation that need nothing but Python.

`python docs/check.py` checks that

- links (inline, by reference, HTML) and anchors of every Markdown file lead somewhere, as GitHub resolves them;
- the names that pages give as `room/file.py:name` exist in the code;
- flags, `openrlhf-sfpo COMMAND`s and paths of this repository that pages mention exist;
- docs/metrics.md has every metric that the code names.

`python docs/check.py --site DIR` checks that the built site loads nothing from other servers.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)")
_HTML_LINK = re.compile(r"<(?:a|img)\s[^>]*?\b(?:href|src)=[\"'](?P<target>[^\"']+)")
_DEFINITION = re.compile(r"^ {0,3}\[(?P<label>[^\]^]+)\]: +<?(?P<target>[^\s>]+)", re.MULTILINE)
_REFERENCE = re.compile(r"\[(?P<text>[^\]]+)\]\[(?P<label>[^\]]*)\]")
_HEADING = re.compile(r"^#+ +(?P<title>.+?)\s*$", re.MULTILINE)
_NAME = re.compile(r"`(\w+(?:/\w+)+\.py):([\w.]+)`")
_METRIC = re.compile(r"\"((?:checkpoint|rollout|sfpo|time|train|weight_sync)/[a-z_]+)\"")
_FLAG = re.compile(r"(?<![\w-])--([A-Za-z][\w.-]*(?:\*)?)")
_COMMAND = re.compile(r"openrlhf-sfpo +([a-z][\w-]*)")
_PATH = re.compile(r"(?<![\w./$}-])(?:\.\./)*(\.?\w[\w-]*(?:/[\w.*-]+)+)")
# Flags of other tools that pages mention, and names that pages give as examples of unknown flags.
OTHER_FLAGS = frozenset(
    [
        "actor_learning_rate",
        "address",
        "block",
        "container-image",
        "container-mounts",
        "dashboard-host",
        "device",
        "gpus",
        "head",
        "ipc",
        "local-dir",
        "no-NAME",
        "no-deps",
        "nodes",
        "pretrain",
        "repo-type",
        "security-opt",
        "shm-size",
        "signal",
        "trust_remote_code",
        "ulimit",
    ]
)
# Where flags of this repository's own commands and scripts are declared; those of `train` are in the flag reference.
_DECLARED = ("openrlhf_sfpo/cli/*.py", "examples/**/*.py", "benchmarks/*.py", "docs/*.py", "tests/run.sh")
# Top-level folders that are not part of the repository.
_MADE = {".venv", "build", "data", "models", "runs", "site"}
_PLACEHOLDER = re.compile(r"\b(DIR|FILE|NAME)\b")
# Where a browser loads something by itself; links that a reader follows are not among them.
_LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


def markdown_files() -> list[Path]:
    """The repository's Markdown files."""
    found = []
    for directory, folders, files in os.walk(ROOT):
        top = directory == str(ROOT)
        folders[:] = [f for f in folders if f == ".github" or not (f.startswith(".") or (top and f in _MADE))]
        found += [Path(directory, file) for file in files if file.endswith(".md")]
    return sorted(found)


def pages() -> Iterator[tuple[Path, str]]:
    """The handwritten pages about this version, and their texts."""
    for path in markdown_files():
        made = path.name in ("CHANGELOG.md", "flags.md") or "results" in path.parts
        if not made:
            yield path, path.read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown text."""
    found: Counter[str] = Counter()
    names = set()
    for heading in _HEADING.finditer(_FENCE.sub("", text)):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["title"]).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return names


def links(text: str) -> Iterator[str]:
    """The targets of a Markdown text's links; `[label]` for a reference to a label that is not defined."""
    text = _INLINE.sub("", _FENCE.sub("", text))
    labels = {definition["label"].lower() for definition in _DEFINITION.finditer(text)}
    for kind in (_LINK, _HTML_LINK, _DEFINITION):
        yield from (link["target"] for link in kind.finditer(text))
    for reference in _REFERENCE.finditer(text):
        label = reference["label"] or reference["text"]
        if label.lower() not in labels:
            yield f"[{label}]"


def broken_links() -> Iterator[str]:
    """A message for each link that leads nowhere."""
    texts = {path: path.read_text(encoding="utf-8") for path in markdown_files()}
    for path, text in texts.items():
        for link in links(text):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            place = f"{path.relative_to(ROOT)}: {link}"
            other = (path.parent / target).resolve() if target else path
            if target.startswith("["):
                yield f"{place} is not defined"
            elif target.startswith("/"):
                yield f"{place} is absolute"
            elif not other.exists():
                yield f"{place} does not exist"
            elif anchor and other in texts and anchor not in anchors(texts[other]):
                yield f"{place}: {other.relative_to(ROOT)} has no such heading"


class _Loads(HTMLParser):
    """Collects what a page loads from other servers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(_LOADS.get(tag, "")) or ""
        if re.match(r"(https?:)?//", address):
            self.found.append(address)


def external_loads(site: Path) -> Iterator[str]:
    """Everything that the built pages and their style sheets load from elsewhere."""
    for page in sorted(site.rglob("*.html")):
        parser = _Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        yield from (f"{page.relative_to(site)} loads {address}" for address in parser.found)
    for sheet in sorted(site.rglob("*.css")):
        for address in re.findall(r"url\([\"']?((?:https?:)?//[^)\"']+)", sheet.read_text(encoding="utf-8")):
            yield f"{sheet.relative_to(site)} loads {address}"


def missing_names() -> Iterator[str]:
    """References to code, as `room/file.py:Class.method`, that the package does not have."""
    for page, text in pages():
        for file, name in _NAME.findall(text):
            path = ROOT / "openrlhf_sfpo" / file
            source = path.read_text(encoding="utf-8") if path.exists() else ""
            for part in name.split("."):
                if not re.search(rf"\b(def|class) {part}\b", source):
                    yield f"{page.relative_to(ROOT)}: openrlhf_sfpo/{file} has no {name}"
                    break


def known_flags() -> set[str]:
    """The flags of every command and script, without their hyphens."""
    reference = ROOT / "docs" / "flags.md"
    found = set(_FLAG.findall(reference.read_text(encoding="utf-8"))) if reference.exists() else set()
    for file in (file for pattern in _DECLARED for file in ROOT.glob(pattern)):
        found |= set(re.findall(r"[\"' |(]--([A-Za-z][\w.-]*)[\"' |)]", file.read_text(encoding="utf-8")))
    return found


def missing_flags() -> Iterator[str]:
    """Flags that pages mention and no command has. `--section.` and `--section.*` stand for those of a section."""
    known = known_flags() | OTHER_FLAGS
    sections = {name.split(".")[0] + "." for name in known if "." in name}
    for page, text in pages():
        for flag in sorted(set(_FLAG.findall(text))):
            name = flag.rstrip(".")
            if flag.rstrip("*") not in sections and not {name, name.removeprefix("no-")} & known:
                yield f"{page.relative_to(ROOT)}: there is no flag --{name}"


def missing_commands() -> Iterator[str]:
    """Commands that pages mention and `openrlhf-sfpo` does not have."""
    main = (ROOT / "openrlhf_sfpo" / "cli" / "main.py").read_text(encoding="utf-8")
    known = set(re.findall(r'^    "(\w+)": ', main, re.MULTILINE))
    for page, text in pages():
        for code in (*_FENCE.findall(text), *_INLINE.findall(_FENCE.sub("", text))):
            for command in _COMMAND.findall(code):
                if command not in known:
                    yield f"{page.relative_to(ROOT)}: there is no openrlhf-sfpo {command}"


def missing_paths() -> Iterator[str]:
    """Paths in code that begin with a folder of the repository, or are Python files of a room, and do not exist."""
    rooms = {path.name for path in (ROOT / "openrlhf_sfpo").iterdir() if path.is_dir()}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - _MADE
    for page, text in pages():
        for code in (*_FENCE.findall(text), *_INLINE.findall(_FENCE.sub("", text))):
            for path in _PATH.findall(code):
                first, name = path.split("/")[0], path.rstrip(".")
                if _PLACEHOLDER.search(name) or not (first in folders or (first in rooms and name.endswith(".py"))):
                    continue
                if not any(next(base.glob(name), None) for base in (ROOT, ROOT / "openrlhf_sfpo", page.parent)):
                    yield f"{page.relative_to(ROOT)}: {name} does not exist"


def missing_metrics() -> Iterator[str]:
    """Metrics that the code names and the page about metrics does not."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "openrlhf_sfpo").rglob("*.py"))]
    for metric in sorted({name for source in sources for name in _METRIC.findall(source)}):
        if f"`{metric}`" not in page:
            yield f"docs/metrics.md: {metric} is missing"


def main() -> int:
    """Print the problems; return 1 if there are any."""
    if sys.argv[1:2] == ["--site"]:
        problems = [*external_loads(Path(sys.argv[2]))]
    else:
        checks = (broken_links, missing_names, missing_flags, missing_commands, missing_paths, missing_metrics)
        problems = [problem for check in checks for problem in check()]
    print("\n".join(problems), end="\n" * bool(problems))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
