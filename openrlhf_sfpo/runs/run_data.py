"""Writes a run's data sets for OpenRLHF: prompts rendered, labels of one type."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.runs.data_check import (
    EVAL,
    PROMPTS,
    DataCheck,
    fields_of,
    left_to_openrlhf,
    render,
    tokenizer_of,
)
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import write_atomically
from openrlhf_sfpo.tasks import data
from openrlhf_sfpo.tasks.data import Sample
from openrlhf_sfpo.tasks.prompts import PromptFormat, Template
from openrlhf_sfpo.tasks.sources import REASONING_GYM, Source, sources_of

_MANIFEST = "prepared.json"


def prepare(args: NestedFlags, directory: Path) -> None:
    """Write a run's data sets for OpenRLHF: prompts rendered, labels of one type.

    Args:
        args: the flags, nested.
        directory: the directory for the files.

    Raises:
        UsageError: for the first row that is wrong, including rows of downloaded data sets.
    """
    specs = [(flag, spec) for flag, spec in ((PROMPTS, args.data.prompt_dataset), (EVAL, args.eval.dataset)) if spec]
    if left_to_openrlhf(args):
        paths = {flag.removeprefix("--"): _generated_only(args, flag, spec, directory) for flag, spec in specs}
        _write_manifest(directory, {"rendered": False, "files": paths})
        return
    check = DataCheck(args)
    prompt_format = PromptFormat(check.template(), args.data.apply_chat_template, tokenizer_of(args))
    seen: set[str] | None = set() if REASONING_GYM in (args.eval.dataset or "") else None
    files = {flag.removeprefix("--"): _write(args, flag, spec, directory, prompt_format, seen) for flag, spec in specs}
    label = fields_of(args, PROMPTS).label is not None
    _write_manifest(directory, {"rendered": True, "label": label, "files": files})


def _manifest(directory: Path) -> dict[str, Any]:
    """The manifest that `prepare` wrote; empty if there is none."""
    path = directory / _MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write(
    args: NestedFlags, flag: str, spec: str, directory: Path, prompt_format: PromptFormat, seen: set[str] | None
) -> dict[str, int]:
    """Write the data sets of a flag; return the number of rows of each file.

    Args:
        args: the flags, nested.
        flag: PROMPTS or EVAL.
        spec: its value.
        directory: the directory for the files.
        prompt_format: renders the prompts.
        seen: the training prompts; extended here, and excluded from generated evaluation problems.
    """
    fields, sources = fields_of(args, flag), sources_of(flag, spec)
    own: list[list[Any] | None] = [None] * len(sources)
    if fields.reward is None and fields.label:
        # Generated labels are always text, so they need not be generated twice to find their type.
        labels = data.own_labels([data.scan(s, fields, 1 if s.kind == "generated" else None) for s in sources])
        own = [None if s.kind == "generated" else found for s, found in zip(sources, labels, strict=True)]
    written = {}
    for index, source in enumerate(sources):
        samples = data.samples_of(source, fields)
        if flag == PROMPTS and seen is not None:
            samples = _remembered(samples, seen)
        elif source.kind == "generated" and seen is not None:
            samples = _held_out(source, samples, seen)
        path = directory / f"{flag.removeprefix('--')}_{index}.parquet"
        written[path.name] = data.write_rendered(
            samples,
            partial(render, prompt_format, source),
            path,
            fields.label is not None,
            own[index],
        )
    return written


def _remembered(samples: Iterable[Sample], seen: set[str]) -> Iterator[Sample]:
    for sample in samples:
        if isinstance(sample.prompt, str):  # generated prompts are never chats
            seen.add(sample.prompt)
        yield sample


def _held_out(source: Source, samples: Iterable[Sample], seen: set[str]) -> Iterator[Sample]:
    """Yield generated evaluation problems that are not training prompts, each once: small problems occur under every
    seed."""
    taken: set[str] = set()
    for sample in samples:
        prompt = str(sample.prompt)
        if prompt not in taken and prompt not in seen:
            taken.add(prompt)
            yield sample
    if not taken:
        raise UsageError(
            source.flag,
            f"{source.place} has no problem that is not among the training prompts.",
            "Choose a seed further from the training set's (reasoning-gym's problem i depends on seed + i), or options "
            "that allow more problems.",
        )


def _generated_only(args: NestedFlags, flag: str, spec: str, directory: Path) -> list[str]:
    """A flag's data sets, with generated ones written to files; OpenRLHF reads the others from their own places."""
    fields = fields_of(args, flag)
    found = []
    for index, source in enumerate(sources_of(flag, spec)):
        if source.kind == "generated":
            rows = [row for _, row in data.rows_of(source, fields)]
            path = directory / f"{flag.removeprefix('--')}_{index}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
            found.append(str(path))
        else:
            found.append(source.name)
    return found


def _write_manifest(directory: Path, content: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / _MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def for_openrlhf(values: dict[str, Any]) -> None:
    """Point OpenRLHF's flags at the files of `prepare`, whose prompts are already rendered.

    Args:
        values: the flags by dotted name, changed in place.
    """
    directory = Path(values["run.dir"]) / "data"
    template = values["data.input_template"]
    if template is not None:
        values["data.input_template"] = Template.parse("--data.input_template", template).for_format()
    manifest = _manifest(directory)
    if not manifest:
        return
    if not manifest["rendered"]:
        values.update({name: ",".join(files) for name, files in manifest["files"].items()})
        return
    values.update({name: ",".join(str(directory / f) for f in files) for name, files in manifest["files"].items()})
    values.update({"data.prompt_split": "train", "eval.split": "train"})
    values.update({"data.input_key": "prompt", "data.input_template": None, "data.apply_chat_template": False})
    values["data.label_key"] = "label" if manifest["label"] else None


def prepared_rows(run_directory: Path) -> int | None:
    """The number of rows of the prepared training data; None if unknown."""
    manifest = _manifest(run_directory / "data")
    return sum(manifest["files"]["data.prompt_dataset"].values()) if manifest.get("rendered") else None
