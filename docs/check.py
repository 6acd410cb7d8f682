"""Checks of the documentation that need nothing but Python.

`python docs/check.py` checks that links and anchors of every Markdown file lead somewhere, as GitHub resolves them;
that the code has the names that pages give as `room/file.py:name`; and that the page about metrics has those that the
code names. `python docs/check.py --site DIR` checks that the built site loads nothing from other servers.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<title>.+?)\s*$", re.MULTILINE)
_NAME = re.compile(r"`(\w+(?:/\w+)+\.py):([\w.]+)`")
_METRIC = re.compile(r"\"((?:checkpoint|rollout|sfpo|time|train|weight_sync)/[a-z_]+)\"")
# Where a browser loads something of its own accord; links that a reader follows are not among them.
_LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


def markdown_files() -> list[Path]:
    """The repository's Markdown files."""
    folders = ("docs", "examples", "benchmarks", ".github")
    nested = [path for folder in folders for path in (ROOT / folder).rglob("*.md")]
    return sorted([*ROOT.glob("*.md"), *nested])


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


def broken_links() -> Iterator[str]:
    """What is wrong with each link that leads nowhere."""
    texts = {path: path.read_text(encoding="utf-8") for path in markdown_files()}
    for path, text in texts.items():
        for link in _LINK.finditer(_INLINE.sub("", _FENCE.sub("", text))):
            target, _, anchor = link["target"].partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            place = f"{path.relative_to(ROOT)}: {link['target']}"
            other = (path.parent / target).resolve() if target else path
            if target.startswith("/"):
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
    for page in sorted((ROOT / "docs").glob("*.md")):
        for file, name in _NAME.findall(page.read_text(encoding="utf-8")):
            path = ROOT / "openrlhf_sfpo" / file
            source = path.read_text(encoding="utf-8") if path.exists() else ""
            for part in name.split("."):
                if not re.search(rf"\b(def|class) {part}\b", source):
                    yield f"{page.relative_to(ROOT)}: openrlhf_sfpo/{file} has no {name}"
                    break


def missing_metrics() -> Iterator[str]:
    """Metrics that the code names and the page about metrics does not."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "openrlhf_sfpo").rglob("*.py"))]
    for metric in sorted({name for source in sources for name in _METRIC.findall(source)}):
        if f"`{metric}`" not in page:
            yield f"docs/metrics.md: {metric} is missing"


def main() -> int:
    """Print what is wrong; return 1 if anything is."""
    if sys.argv[1:2] == ["--site"]:
        problems = [*external_loads(Path(sys.argv[2]))]
    else:
        problems = [*broken_links(), *missing_names(), *missing_metrics()]
    print("\n".join(problems), end="\n" * bool(problems))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
