"""Finds \\boxed{...} in a text.

A box is `\\boxed{...}`, `\\fbox{...}` or `\\framebox{...}`, with or without space before the brace, or such a command
and the number, LaTeX command or character after it (`\\boxed 7`), as in some solutions of MATH.
"""

import re
from dataclasses import dataclass

_COMMAND = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
_BARE = re.compile(r"-?(?:\d+(?:[.,]\d+)*|\\[a-zA-Z]+(?:\{[^{}]*\})+|[^\s{}\\$,.;])")
_BETWEEN = re.compile(
    r"(?:[\s$,;.&]|\\[\[\]()]|\\[,;:! ]|\\q?quad|\\\\|\\text\{\s*(?:,\s*)?(?:and|or)?\s*\}|\b(?:and|or)\b"
    r"|[a-zA-Z](?:_\{?\w+\}?)?\s*=)*"
)


@dataclass(frozen=True)
class Box:
    """One box: its content, and its start and end in the text."""

    content: str
    start: int
    end: int


def find_boxes(text: str) -> tuple[list[Box], bool]:
    """All boxes in the text, outermost ones only, in order; and whether the last one is never closed."""
    boxes: list[Box] = []
    position = 0
    while found := _COMMAND.search(text, position):
        begin = found.end()
        if text[begin : begin + 1] == "{":
            end = closing_brace(text, begin)
            if end is None:
                return boxes, True
            boxes.append(Box(_stripped(text[begin + 1 : end]), found.start(), end + 1))
            position = end + 1
        else:
            bare = _BARE.match(text, begin)
            if bare:
                boxes.append(Box(bare.group(), found.start(), bare.end()))
            position = bare.end() if bare else begin
    return boxes, False


def _stripped(content: str) -> str:
    """The content without spaces around it; a backslash keeps its space."""
    return content.strip() + (" " if re.search(r"\\\s+$", content) else "")


def closing_brace(text: str, opening: int) -> int | None:
    """The position of the brace that closes the one at `opening`; escaped braces do not count. None if it is never
    closed."""
    depth = 0
    index = opening
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    return None


def last_boxed(text: str) -> str | None:
    """The content of the last non-empty box; None if there is none, or if a later one is never closed."""
    boxes, unclosed = find_boxes(text)
    filled = [box.content for box in boxes if not is_placeholder(box.content)]
    return filled[-1] if filled and not unclosed else None


def answer_of_solution(solution: str) -> str | None:
    """The answer in a written solution: the content of its last box; None if there is none."""
    return last_boxed(solution)


def is_placeholder(content: str) -> bool:
    """Whether a box holds no answer: it is empty, or only shows the format (`\\boxed{...}`)."""
    return not re.sub(r"[\s.…{}$~]|\\[,;:! ]|\\[lc]?dots", "", content)


def last_group(text: str) -> list[str]:
    """The contents of the last box, and of those right before it that only commas, "and", "or" or `y =` separate
    from it: parts of one answer. Empty if there is no box or the last one is never closed."""
    boxes, unclosed = find_boxes(text)
    filled = [box for box in boxes if not is_placeholder(box.content)]
    if unclosed or not filled:
        return []
    group = [filled[-1]]
    for box in reversed(filled[:-1]):
        if not _BETWEEN.fullmatch(text, box.end, group[0].start):
            break
        group.insert(0, box)
    return [box.content for box in group]


def all_boxed(text: str) -> list[str]:
    """The contents of all boxes that hold an answer, each content once, in order."""
    boxes, _ = find_boxes(text)
    return list(dict.fromkeys(box.content for box in boxes if not is_placeholder(box.content)))
