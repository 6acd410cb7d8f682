"""Reads data sets row by row, from a file, a directory or the Hugging Face Hub."""

import csv
import gzip
import io
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from openrlhf_sfpo.system.errors import NotThere, UsageError
from openrlhf_sfpo.system.files import absence

REASONING_GYM = "reasoning_gym:"
FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_TEXT = FILES[:4]
_KINDS = f"{', '.join(FILES[:-1])} or {FILES[-1]}"
Row = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """One of a flag's data sets.

    Attributes:
        flag: the flag that names it, for errors.
        name: the name as given.
        kind: "generated" (by reasoning-gym), "file", "directory" or "hub".
        place: the path, or the name on the Hub.
        part: the text after an @: a directory inside the data set, or a split.
    """

    flag: str
    name: str
    kind: str
    place: str
    part: str | None = None

    @property
    def is_table(self) -> bool:
        """Whether its values have no types: CSV and TSV."""
        return self.kind == "file" and file_kind(Path(self.place)) in (".csv", ".tsv")


def sources_of(flag: str, spec: str) -> list[Source]:
    """The data sets in a flag's comma-separated value. Nothing is read.

    Raises:
        NotThere: a path that does not exist.
        UsageError: an unsupported kind of file, or nothing between two commas.
    """
    return [_source(flag, part.strip()) for part in spec.split(",")]


def _source(flag: str, name: str) -> Source:
    if not name:
        raise UsageError(flag, "names an empty data set.", "Remove the comma too many.")
    if name.startswith(REASONING_GYM):
        return Source(flag, name, "generated", name)
    place, part = name, None
    if not Path(name).exists() and "@" in name:
        place, _, part = name.partition("@")
    path = Path(place)
    if path.is_dir():
        return Source(flag, name, "directory", place, part)
    kind = file_kind(path)
    if kind is None and path.exists():
        raise UsageError(flag, f"{place} is not a kind of file that is read.", f"Give {_KINDS}.")
    if kind is not None or _is_path(place):
        if not path.is_file():
            raise NotThere(flag, f"{place} {absence(place)}.", f"Give the path of a file: {_KINDS}.")
        return Source(flag, name, "file", place, part)
    return Source(flag, name, "hub", place, part)


def _is_path(place: str) -> bool:
    """Whether it can only be a path, and not a name on the Hub."""
    return place.startswith(("/", "./", "../", "~")) or place.count("/") > 1 or Path(place).suffix in (".txt", ".py")


def file_kind(path: Path) -> str | None:
    """The kind of a data file by its name, one of `FILES`; ignores case and accepts .gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffix = suffixes[-2] if len(suffixes) > 1 else ""
        return suffix if suffix in _TEXT else None
    return suffixes[-1] if suffixes and suffixes[-1] in FILES else None


def read_rows(flag: str, path: Path) -> Iterator[Row]:
    """Yield (place, row) for every row of a data file.

    Args:
        flag: the flag that names the file, for errors.
        path: a file of one of the kinds in `FILES`.

    Raises:
        UsageError: naming the file, the line and the problem.
    """
    kind = file_kind(path)
    if not path.is_file():
        raise NotThere(flag, f"{path} {absence(path)}.", f"Give the path of a file: {_KINDS}.")
    if kind == ".parquet":
        yield from _parquet(flag, path)
    elif kind == ".arrow":
        yield from _arrow(flag, path)
    elif kind in _TEXT:
        yield from _text_rows(flag, path, kind)
    else:
        raise UsageError(flag, f"{path} is not a kind of file that is read.", f"Give {_KINDS}.")


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _text_rows(flag: str, path: Path, kind: str) -> Iterator[Row]:
    readers: dict[str, Callable[[str, Path, TextIO], Iterator[Row]]] = {
        ".jsonl": _json_lines,
        ".json": _json,
        ".csv": partial(_table, delimiter=","),
        ".tsv": partial(_table, delimiter="\t"),
    }
    try:
        # utf-8-sig skips the byte-order mark that Excel and Windows write.
        with _opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file:
            yield from readers[kind](flag, path, file)
    except UnicodeDecodeError as error:
        raise UsageError(flag, f"{path} is not UTF-8 text ({error}).", "Save it as UTF-8.") from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise UsageError(flag, f"{path} is not a complete gzip file ({error}).", "Copy it again.") from None
    except OSError as error:
        raise UsageError(flag, f"{path} cannot be read ({error.strerror}).", "Look at its permissions.") from None


def _json(flag: str, path: Path, file: TextIO) -> Iterator[Row]:
    """Read a list of objects, or an object per line."""
    start = file.read(1)
    while start.isspace():
        start = file.read(1)
    file.seek(0)
    if start != "[":
        yield from _json_lines(flag, path, file)
        return
    try:
        rows = json.load(file)
    except (ValueError, RecursionError) as error:
        line, problem = _json_problem(error)
        where = f", line {line}" if line else ""
        raise UsageError(flag, f"{path}{where} is not JSON ({problem}).", "Fix the syntax.") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UsageError(flag, f"{path}, row {number} is not a JSON object.", "Write a list of objects.")
        yield f"row {number}", row


def _json_lines(flag: str, path: Path, file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, 1):  # splitlines would also break at U+2028 inside a string
        if not line.strip():
            continue
        try:
            row = json.loads(line.rstrip())
        except (ValueError, RecursionError) as error:
            begins = line.strip() in ("{", "[")
            fix = "Write each object on one line." if begins else "Fix or remove the line."
            problem = f"{path}, line {number} is not JSON ({_json_problem(error)[1]})."
            raise UsageError(flag, problem, fix) from None
        if not isinstance(row, dict):
            raise UsageError(flag, f"{path}, line {number} is not a JSON object.", "Write one object per line.")
        yield f"line {number}", row


def _json_problem(error: Exception) -> tuple[int | None, str]:
    """The line of the parsed text, if known, and the problem there."""
    if not isinstance(error, json.JSONDecodeError):
        return None, str(error)
    return error.lineno, f"{error.msg}, column {error.colno}"


def _table(flag: str, path: Path, file: TextIO, delimiter: str) -> Iterator[Row]:
    """Read rows below a header. Cells are text; an empty one is None."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise UsageError(flag, f"{path} names a column twice ({', '.join(header)}).", "Rename one.")
        if len(header) == 1 and (other := next((mark for mark in "\t,;|" if mark in header[0]), None)):
            raise UsageError(flag, *_other_separator(path, header[0], delimiter, other))
        line = reader.line_num + 1
        for cells in reader:
            where, line = f"line {line}", reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                raise UsageError(
                    flag,
                    f"{path}, {where} has {len(cells)} cells, and the header {len(header)}.",
                    "Quote cells that hold the delimiter or a line break.",
                )
            yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise UsageError(flag, f"{path}, line {reader.line_num} cannot be read ({error}).", "Fix the line.") from None


def _other_separator(path: Path, header: str, expected: str, found: str) -> tuple[str, str]:
    """The error for a table whose separator differs from the one its suffix implies."""
    problem = f"{path} has one column in its header, {header!r}, with {found!r} in it; {expected!r} separates columns."
    compressed = path.suffix.lower() == ".gz"
    kinds = {",": ".csv", "\t": ".tsv"}
    if found in kinds:
        return problem, f"Rename the file, so that its name ends with {kinds[found]}{'.gz' * compressed}."
    convert = f"import csv, sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter='{found}'))"
    read = "zcat" if compressed else "cat"
    return problem, f'Convert it: {read} {shlex.quote(str(path))} | python -c "{convert}" > new.csv'


def _parquet(flag: str, path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _batches(file.iter_batches(1024))
    except (OSError, ValueError) as error:
        raise UsageError(flag, f"{path} is not a parquet file ({_line(error)}).", "Download it again.") from None


def _arrow(flag: str, path: Path) -> Iterator[Row]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            try:
                reader: Any = pa.ipc.open_stream(file)
            except pa.ArrowInvalid:
                opened = pa.ipc.open_file(file)
                reader = (opened.get_batch(index) for index in range(opened.num_record_batches))
            yield from _batches(reader)
    except (OSError, ValueError) as error:
        raise UsageError(flag, f"{path} is not an Arrow file ({_line(error)}).", "Write it again.") from None


def _batches(batches: Any) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


def read_directory(flag: str, path: Path, part: str | None, split: str) -> Iterator[Row]:
    """Yield (place, row) for every row of a directory: one that `save_to_disk` wrote, or one with data files.

    Args:
        flag: the flag that names the directory, for errors.
        path: the directory.
        part: a directory inside it.
        split: the split to read; if there is only one split, that one.
    """
    import datasets

    saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        # Streaming reads the files in place, without a copy in the library's cache.
        loaded = (
            datasets.load_from_disk(str(path))
            if saved
            else datasets.load_dataset(str(path), data_dir=part, streaming=True)
        )
    except Exception as error:  # the library raises many kinds of exceptions
        raise UsageError(
            flag, f"{path} holds no data set that can be loaded ({_line(error)}).", f"Give a file: {_KINDS}."
        ) from None
    yield from _loaded(flag, str(path), loaded, split)


def read_hub(flag: str, name: str, part: str | None, split: str, split_only: bool = False) -> Iterator[Row]:
    """Download a data set from the Hugging Face Hub, and yield (place, row) for every row.

    Args:
        flag: the flag that names it, for errors.
        name: the data set's name.
        part: a directory inside it.
        split: the split to read.
        split_only: download no other splits.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(name, data_dir=part, split=split if split_only else None)
    except Exception as error:  # many kinds of exceptions, for names, splits and connections
        what = f"{name} (split {split})" if split_only else name
        raise UsageError(
            flag, f"{what} cannot be loaded from the Hugging Face hub ({_line(error)}).", "Give a local file."
        ) from None
    yield from _loaded(flag, name, loaded, split)


def _loaded(flag: str, name: str, loaded: Any, split: str) -> Iterator[Row]:
    if isinstance(loaded, dict):
        splits = list(loaded)
        if split not in splits and len(splits) > 1:
            raise UsageError(flag, f"{name} has no split {split!r}.", f"It has {', '.join(splits)}.")
        loaded = loaded[split if split in splits else splits[0]]
    number = 0
    try:
        for row in loaded:
            number += 1
            yield f"row {number}", dict(row)
    except Exception as error:  # files are opened and their types inferred while reading
        raise UsageError(flag, f"{name} cannot be read after row {number} ({_line(error)}).", "Fix the data.") from None


def _line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
