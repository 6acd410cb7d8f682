"""Prompt data sets of a training run: checked row by row before anything starts, and written out for OpenRLHF.

OpenRLHF's loader guesses types, differently for every kind of file, and renders prompts itself. Therefore it is given
parquet files with rendered prompts and labels of one type, made here from the data that the flags name.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.tasks import labels, skywork
from openrlhf_sfpo.tasks.generated import generate as generate
from openrlhf_sfpo.tasks.prompts import NEEDS_CHAT_TEMPLATE, TAKES_NO_TEMPLATE, Prompt, prompt_problem
from openrlhf_sfpo.tasks.skywork import EVERY_ROW, Difficulty
from openrlhf_sfpo.tasks.sources import FILES as FILES
from openrlhf_sfpo.tasks.sources import REASONING_GYM as REASONING_GYM
from openrlhf_sfpo.tasks.sources import Row, Source, read_directory, read_hub
from openrlhf_sfpo.tasks.sources import read_rows as read_rows

_SAMPLE = 2000
_FLAGS = ("--data.input_key", "--data.label_key")


@dataclass(frozen=True)
class Fields:
    """The fields to read from each row, and how to use them.

    Attributes:
        prompt: the prompt's field.
        label: the label's field, if there are labels.
        reward: the built-in reward that uses the label; None for the user's own.
        chat: whether the model's chat template is applied.
        template: whether a template is applied to the prompt.
        split: the split of data sets that have several.
        skywork: whether rows must be those of Skywork-OR1; None to look at the columns.
        difficulty: which of these to keep.
    """

    prompt: str
    label: str | None
    reward: str | None
    chat: bool = False
    template: bool = False
    split: str = "train"
    skywork: bool | None = None
    difficulty: Difficulty = EVERY_ROW


@dataclass(frozen=True)
class Sample:
    """A row.

    Attributes:
        where: its place in the data set.
        prompt: the prompt in the data set.
        label: the label for the reward.
        datasource: the data source that the row names.
        several: the label was a list of several answers, of which the first is used.
    """

    where: str
    prompt: Prompt
    label: Any
    datasource: str
    several: bool = False


def rows_of(source: Source, fields: Fields, first: int | None = None) -> Iterator[Row]:
    """Yield (place, row) for every row of a data set, or for its first ones."""
    path = Path(source.place)
    if source.kind == "generated":
        rows: Iterable[Row] = enumerate_rows(
            generate(source.flag, source.place, fields.prompt, fields.label or "label", first)
        )
    elif source.kind == "file":
        rows = read_rows(source.flag, path)
    elif source.kind == "directory":
        rows = read_directory(source.flag, path, source.part, fields.split)
    else:
        rows = read_hub(source.flag, source.place, source.part, fields.split)
    return itertools.islice(iter(rows), first)


def enumerate_rows(rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Generated rows with their places."""
    for number, row in enumerate(rows, 1):
        yield f"problem {number}", row


def samples_of(source: Source, fields: Fields, first: int | None = None) -> Iterator[Sample]:
    """Yield every row of a data set, checked.

    Raises:
        UsageError: naming the data set, the row and what is wrong with it.
    """
    count, skipped = 0, 0
    for where, found in rows_of(source, fields, first):
        row: dict[str, Any] | None = found
        prompt_key, label_key = fields.prompt, fields.label
        if _is_skywork(source, fields, where, found):
            row = _of_skywork(source, fields, where, found)
            prompt_key, label_key = skywork.PROMPT, skywork.LABEL
        if row is None:
            skipped += 1
            continue
        count += 1
        prompt = labels.field(row, prompt_key)
        label = labels.field(row, label_key) if label_key else None
        missing = [index for index, value in enumerate((prompt, label)) if value is labels.MISSING]
        if missing:
            keys = (prompt_key, label_key)
            raise UsageError(
                ", ".join(_FLAGS[index] for index in missing),
                f"{source.place}, {where} has no {', '.join(repr(keys[index]) for index in missing)} "
                f"(it has {', '.join(map(repr, row))}).",
                "Name the field that holds it; a.b is the field b inside a.",
            )
        problem = prompt_problem(prompt, fields.chat, fields.template)
        if problem is not None:
            raise _bad_prompt(source, where, *problem)
        reason = labels.label_problem(fields.reward, label) if fields.label else None
        if reason is not None:
            raise UsageError(source.flag, f"{source.place}, {where}: {reason}.", "Correct or remove the row.")
        several = False
        if fields.label and fields.reward is not None:
            several = isinstance(label, list | tuple) and len(label) > 1
            label = labels.label_text(label)
        elif fields.label:
            label = labels.json_value(label)
        yield Sample(where, prompt, label, str(row.get("datasource") or "default"), several)
    if skipped and count == 0:
        bounds = fields.difficulty
        raise UsageError(
            "--data.min_difficulty",
            f"leaves no row of {source.place}: none of {skipped} has a difficulty for {bounds.model} from {bounds.low} "
            f"to {bounds.high}.",
            "Choose other bounds.",
        )
    if count == 0:
        raise UsageError(source.flag, f"{source.place} is empty.", "Give a data set with at least one row.")


def _is_skywork(source: Source, fields: Fields, where: str, row: dict[str, Any]) -> bool:
    if fields.skywork is False:
        return False
    found = skywork.is_skywork(row)
    if fields.skywork and not found:
        raise UsageError(
            "--data.format",
            f"is skywork, and {source.place}, {where} is not a row of Skywork-OR1 "
            f"(it has {', '.join(map(repr, row))}).",
            f"Give a data set with the columns {', '.join(skywork.COLUMNS)}, or drop the flag.",
        )
    return found


def _of_skywork(source: Source, fields: Fields, where: str, row: dict[str, Any]) -> dict[str, Any] | None:
    """The row with a prompt and a label; None if it is left out for its difficulty."""
    try:
        return skywork.plain_row(row) if fields.difficulty.keeps(row) else None
    except ValueError as error:
        raise UsageError(source.flag, f"{source.place}, {where} {error}.", "Correct or remove the row.") from None


def _bad_prompt(source: Source, where: str, problem: str, fix: str) -> UsageError:
    flag = source.flag
    if problem == TAKES_NO_TEMPLATE:
        flag, fix = "--data.input_template", "Drop it, or give the prompts as text."
    elif problem == NEEDS_CHAT_TEMPLATE:
        flag, fix = "--data.apply_chat_template", "Give --data.apply_chat_template."
    return UsageError(flag, f"{source.place}, {where}: {problem}.", fix)


@dataclass
class Scan:
    """The result of a pass over a data set.

    Attributes:
        rows: the number of rows.
        samples: all of them, or 2,000 to 4,000 evenly spaced ones.
        shapes: one chat for each occurring sequence of roles.
        datasources: the data sources that rows name.
        repeated: number of rows whose prompt occurred before.
        contradicted: number of prompts with different labels.
        empty: labels without text.
        lists: labels that are lists of several answers, of which the first is used.
        labels: all labels, for the user's own reward.
    """

    rows: int = 0
    samples: list[Sample] = field(default_factory=list)
    shapes: dict[Any, Sample] = field(default_factory=dict)
    datasources: set[str] = field(default_factory=set)
    repeated: int = 0
    contradicted: int = 0
    empty: int = 0
    lists: int = 0
    labels: list[Any] = field(default_factory=list)
    _every: int = 1
    _seen: dict[int, int] = field(default_factory=dict)
    _contradicted: set[int] = field(default_factory=set)

    def add(self, sample: Sample, keep_label: bool) -> None:
        """Add a row."""
        if self.rows % self._every == 0:
            self.samples.append(sample)
            if len(self.samples) >= 2 * _SAMPLE:
                self.samples = self.samples[::2]
                self._every *= 2
        self.rows += 1
        self.datasources.add(sample.datasource)
        if not isinstance(sample.prompt, str):
            self.shapes.setdefault(tuple((m["role"], tuple(m)) for m in sample.prompt), sample)
        prompt, label = hash(repr(sample.prompt)), hash(repr(sample.label))
        if prompt in self._seen:
            self.repeated += 1
            if self._seen[prompt] != label:
                self._contradicted.add(prompt)
        self._seen.setdefault(prompt, label)
        self.contradicted = len(self._contradicted)
        self.empty += isinstance(sample.label, str) and not sample.label.strip()
        self.lists += sample.several
        if keep_label:
            self.labels.append(sample.label)


def scan(source: Source, fields: Fields, first: int | None = None) -> Scan:
    """Read a data set to its end and check every row.

    Args:
        source: the data set.
        fields: the fields to read.
        first: the number of rows to read, for data sets that would have to be generated; None for all.
    """
    found = Scan()
    for sample in samples_of(source, fields, first):
        found.add(sample, keep_label=bool(fields.label) and fields.reward is None)
    if source.is_table:
        found.labels = labels.guessed(found.labels)
    return found


def own_labels(scans: list[Scan]) -> list[list[Any]]:
    """The labels of several data sets for the user's own reward: of one type, or all as text."""
    together = labels.uniform(list(itertools.chain.from_iterable(found.labels for found in scans)))
    start, parts = 0, []
    for found in scans:
        parts.append(together[start : start + len(found.labels)])
        start += len(found.labels)
    return parts


def write_rendered(
    samples: Iterable[Sample], render: Callable[[Sample], str], path: Path, with_label: bool, own: list[Any] | None
) -> int:
    """Write rendered prompts, labels and data sources as a parquet file with the columns prompt, label, datasource.

    Args:
        samples: the rows.
        render: makes a row's prompt text.
        path: the file, replaced atomically.
        with_label: write labels.
        own: the labels, if the samples' own are not text.

    Returns:
        The number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet

    columns = [("prompt", pa.string()), ("datasource", pa.string())]
    if with_label:
        columns.append(("label", pa.string() if own is None else pa.array(own).type))
    schema, count = pa.schema(columns), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with pyarrow.parquet.ParquetWriter(part, schema) as writer:
        for chunk in _chunks(samples, 4096):
            rows: dict[str, list[Any]] = {
                "prompt": [render(sample) for sample in chunk],
                "datasource": [sample.datasource for sample in chunk],
            }
            if with_label:
                rows["label"] = [s.label for s in chunk] if own is None else own[count : count + len(chunk)]
            writer.write_table(pa.table(rows, schema=schema))
            count += len(chunk)
    part.replace(path)
    return count


def write_rows(rows: list[dict[str, Any]], path: Path) -> Path:
    """Write a JSONL data file, creating its directory; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _chunks(items: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
