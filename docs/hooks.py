"""MkDocs hook: links that leave docs/ for other files of the repository.

On GitHub `[the script](../examples/quickstart.sh)` is a link. The site has no such file, so it shows the path
instead, after a check that the file exists.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_DOCS = _ROOT / "docs"
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>(?:\.\./)+[^)#\s]*)(?:#[^)\s]*)?\)")
_CODE = re.compile(r"(```.*?```)", re.DOTALL)
_LOG = logging.getLogger("mkdocs.hooks")  # a warning ends a strict build


def on_page_markdown(markdown: str, page: Any, **ignored: Any) -> str:
    """Replace links to files outside docs/ by their paths."""
    directory = (_DOCS / page.file.src_uri).parent

    def shown(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(directory / link["target"]))
        if target.is_relative_to(_DOCS):
            return link[0]
        if not target.exists():
            _LOG.warning("%s links to %s, which does not exist", page.file.src_uri, link["target"])
        path = target.relative_to(_ROOT).as_posix()
        text = link["text"].strip("`")
        return f"`{path}`" if text in path else f"{link['text']} (`{path}`)"

    parts = _CODE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(shown, part) for part in parts)
