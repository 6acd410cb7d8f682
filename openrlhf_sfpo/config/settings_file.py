"""YAML files with settings. Scalars stay the text that was written; their flag determines what they mean.

YAML 1.1 would read `off` as false, 010 as eight and 12:30:45 as a number of seconds. Names may be nested or dotted, and
each may be set once.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from openrlhf_sfpo.system.errors import UsageError

_NULL = ("", "~", "null", "Null", "NULL")
_LINES = "Write `name: value` lines, with text that has braces in quotes."
_SETTING = re.compile(r"\s*(?:-\s+)?([\w.-]+)\s*:\s+([^\s'\"].*?)\s*")
# Plain text that YAML misreads: brackets followed by more text, a special character at the start, or a colon.
_NOT_PLAIN = re.compile(r"\{[^{}]*\}.*\S|\[[^\[\]]*\].*\S|[*&!%@`|>?].*|.*:(?:\s.*)?")


class Section(dict[str, Any]):
    """A mapping of a file: its values are text, None, lists or sections.

    Attributes:
        file: the file that contains it.
        lines: the line of each key, from 1.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.lines: dict[str, int] = {}


class Settings(dict[str, Any]):
    """Values by dotted name. Empty sections are kept, as None or an empty section, so that flags left empty by mistake
    are found.

    Attributes:
        places: where each was read, for errors, such as "run.yaml, line 3"; may be incomplete.
    """

    def __init__(self, values: dict[str, Any] | None = None, places: dict[str, str] | None = None) -> None:
        super().__init__(values or {})
        self.places = dict(places or {})

    def __or__(self, other: dict[str, Any]) -> "Settings":  # type: ignore[override]
        """Both; `other` takes precedence."""
        places = {name: place for name, place in self.places.items() if name not in other}
        return Settings({**self, **other}, {**places, **getattr(other, "places", {})})

    def without(self, *names: str) -> "Settings":
        """The settings except these."""
        return Settings({name: value for name, value in self.items() if name not in names}, self.places)


def read_yaml(flag: str, path: Path) -> Section:
    """The mapping in a YAML file.

    Args:
        flag: the flag that names it.
        path: the file, in UTF-8.

    Raises:
        UsageError: the file is missing, not YAML, or not a mapping; with the line.
    """
    if path.is_dir():
        raise UsageError(flag, f"{path} is a directory.", "Give the path of a YAML file.")
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()}, from where relative paths are taken"
        raise UsageError(flag, f"{path} does not exist{where}.", "Give the path of a YAML file.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(flag, f"{path} is not UTF-8 text (byte {error.start + 1}).", "Save it as UTF-8.") from None
    except OSError as error:
        raise UsageError(flag, f"{path} cannot be read ({error.strerror}).", "Change its permissions.") from None
    try:
        root = yaml.compose(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UsageError(flag, f"{path} is not YAML ({_reason(error, text)}).", _quoting(error, text)) from None
    if root is None:
        return Section(str(path))
    content = _Reader(flag, str(path)).value(root)
    if content is None:
        return Section(str(path))
    if not isinstance(content, Section):
        raise UsageError(flag, f"{path} is not a mapping of names to values.", "Write `name: value` lines.")
    return content


def flow_list(text: str) -> list[str] | None:
    """The items of a YAML list on one line, `[a, b]`; None if the text is not one."""
    try:
        node = yaml.compose(text, yaml.BaseLoader)
    except yaml.YAMLError:
        return None
    if not isinstance(node, yaml.SequenceNode) or not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return None
    return [item.value for item in node.value]


def _reason(error: yaml.YAMLError, text: str) -> str:
    """The problem, in one line."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position].count("\n") + 1
        return f"line {before} has a character that no text has, U+{ord(text[error.position]):04X}"
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return " ".join(str(error).split())
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    if "\t" in line[: mark.column + 1]:
        return f"line {mark.line + 1} is indented with a tab; use spaces"
    problem = error.problem or error.context or ""
    return f"line {mark.line + 1}: {problem.removeprefix('but ')}"


def _quoting(error: yaml.YAMLError, text: str) -> str:
    """The fix for an error: quotes around a text that YAML takes for something else."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    for line in reversed(text.splitlines()[: mark.line + 1] if mark is not None else []):
        setting = _SETTING.fullmatch(line)
        if setting is None and line.strip():
            continue  # the text may have begun in a line above
        if setting is None or not _NOT_PLAIN.fullmatch(setting[2]):
            break
        return f"Put the text in quotes: {setting[1]}: {_quoted(setting[2])}."
    return "Correct it."


def _quoted(text: str) -> str:
    """Text in YAML's quotes: double quotes if it contains \\n for a line break."""
    if "\\n" in text and not re.search(r'\\[^n]|"', text):
        return f'"{text}"'
    return "'" + text.replace("'", "''") + "'"


class _Reader:
    """Converts YAML nodes to values."""

    def __init__(self, flag: str, file: str) -> None:
        self._flag, self._file = flag, file
        self._open: list[yaml.Node] = []

    def value(self, node: yaml.Node) -> Any:
        """Text, None, a list or a section."""
        if node in self._open:
            raise self._error(node, "contains itself (&NAME and *NAME)", "Write it out.")
        if node.tag.startswith("!") and node.tag != "!":
            raise self._error(node, f"has the tag {node.tag}, which means nothing here", "Write plain values.")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._section(node)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item) for item in node.value]
            is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
            return None if is_plain and node.value in _NULL else node.value
        finally:
            self._open.pop()

    def _section(self, node: yaml.MappingNode) -> Section:
        found = Section(self._file)
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "has a list or a mapping for a name", _LINES)
            name = key.value.strip()
            if name == "<<" and key.style is None:
                merged = {**self._merged(value), **merged}
                continue
            if name in found:
                raise _twice(self._flag, self._file, name, found.lines[name], _line(key))
            found[name] = self.value(value)
            found.lines[name] = _line(key)
        for name, value in merged.items():
            if name not in found:
                found[name] = value
                found.lines[name] = _line(node)
        return found

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        """The content that `<<: *NAME` merges."""
        value = self.value(node)
        sections = value if isinstance(value, list) else [value]
        if not all(isinstance(section, Section) for section in sections):
            raise self._error(node, "merges (<<) something else than a mapping", "Name a mapping with *NAME.")
        return {name: item for section in reversed(sections) for name, item in section.items()}

    def _error(self, node: yaml.Node, problem: str, fix: str) -> UsageError:
        return UsageError(self._flag, f"{self._file}, line {_line(node)} {problem}.", fix)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def flatten(content: Section, flag: str = "--config") -> Settings:
    """Nested or dotted names as dotted names.

    Args:
        content: a section of a file.
        flag: the flag that errors name.

    Raises:
        UsageError: a name is set twice, for example once nested and once dotted.
    """
    flat = Settings()
    lines: dict[str, int] = {}
    for name, value, line in _leaves(content, ""):
        name = re.sub(r"\s*\.\s*", ".", name)
        if name in flat:
            raise _twice(flag, content.file, name, *sorted((lines[name], line)))
        flat[name], lines[name] = value, line
        flat.places[name] = f"{content.file}, line {line}"
    return flat


def _twice(flag: str, file: str, name: str, first: int, second: int) -> UsageError:
    where = f"in line {first}" if first == second else f"in lines {first} and {second}"
    return UsageError(flag, f"{file} sets {name!r} twice, {where}.", "Keep one of them.")


def _leaves(content: Section, prefix: str) -> Iterator[tuple[str, Any, int]]:
    for key, value in content.items():
        if isinstance(value, Section) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value, content.lines[key]
