"""Make the training and evaluation files of the examples: the problems that SFPO was trained and evaluated on.

    python examples/prepare_math.py data                 # from the Hugging Face Hub
    python examples/prepare_math.py data --from DIR      # from files downloaded into DIR, offline

Writes into data/

    train.jsonl        DAPO-Math-17K (cleaned) and MATH's training problems, without evaluation problems
    eval.jsonl         the six evaluation sets in one, told apart by `datasource`, for --eval.dataset
    eval/NAME.jsonl    each set, with `problem` and `answer`, for `openrlhf-sfpo eval --protocol paper --data_dir`

train.jsonl and eval.jsonl have `prompt` (the problem in the wording of openrlhf_sfpo.tasks.evaluation.PAPER_TEMPLATE),
`label` (the answer) and `datasource`. A training problem is left out if its text equals that of an evaluation
problem, ignoring spaces, line breaks, case and $. Files are written atomically.

DIR has each set as NAME.jsonl, NAME.json or NAME.parquet (--list prints the names), or as `hf download --repo-type
dataset REPOSITORY --local-dir DIR/LAST_PART_OF_REPOSITORY` leaves it.
"""

import argparse
import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import check_writable, write_atomically
from openrlhf_sfpo.tasks.evaluation import (
    PAPER_SETS,
    PAPER_TEMPLATE,
    TRAINING_SETS,
    Problem,
    PublishedSet,
    load_problems,
)
from openrlhf_sfpo.tasks.sources import FILES


def normalized(text: str) -> str:
    """A problem's text without what may differ between copies of it: spaces, line breaks, case, $ signs."""
    return re.sub(r"[\s$]+", "", unicodedata.normalize("NFKC", text)).casefold()


def source_of(wanted: PublishedSet, directory: Path | None) -> list[str]:
    """Where a set comes from, as `load_problems` takes it: the Hub, or files in a directory.

    Raises:
        UsageError: the directory does not have it.
    """
    if directory is None:
        return [f"{wanted.hub}@{wanted.split}"]
    plain = [directory / f"{wanted.name}{suffix}" for suffix in FILES]
    found = [path for path in plain if path.is_file()][:1]
    downloaded = directory / wanted.hub.rpartition("/")[2]
    if not found and downloaded.is_dir():
        # A downloaded repository holds all its splits, in files named after them.
        files = sorted(path for path in downloaded.rglob("*") if path.suffix in FILES and ".cache" not in path.parts)
        found = [path for path in files if path.stem.startswith(wanted.split)]
    if not found:
        raise UsageError(
            "--from",
            f"{directory} has neither {wanted.name}{{{','.join(FILES)}}} nor {downloaded.name}/ with {wanted.split}*.",
            f"hf download --repo-type dataset {wanted.hub} --local-dir {downloaded}",
        )
    return [str(path) for path in found]


def load(wanted: PublishedSet, directory: Path | None) -> list[Problem]:
    """A set's problems, in order."""
    sources = source_of(wanted, directory)
    problems = [problem for source in sources for problem in load_problems([f"{wanted.name}={source}"])[wanted.name]]
    if not all(isinstance(problem.text, str) for problem in problems):
        raise UsageError("--from", f"{', '.join(sources)} holds chats.", "Give the problems as text.")
    print(f"{wanted.name}: {len(problems)} problems from {', '.join(sources)}", flush=True)
    return problems


def key_of(problem: Problem) -> str:
    """A key that is equal for copies of the same problem."""
    assert isinstance(problem.text, str)  # see `load`
    return normalized(problem.text)


def rows_of(name: str, problems: list[Problem]) -> list[dict[str, Any]]:
    """A set's rows in a training or evaluation file."""
    return [
        {"prompt": PAPER_TEMPLATE.format(problem.text), "label": problem.label, "datasource": name}
        for problem in problems
    ]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a JSONL file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    print(f"{path}: {len(rows)} rows", flush=True)


def prepare(out: Path, directory: Path | None) -> None:
    """Load everything, then write it.

    Args:
        out: where the files go.
        directory: where downloaded sets are; None for the Hub.
    """
    check_writable("OUT", out)
    evaluated = {wanted.name: load(wanted, directory) for wanted in PAPER_SETS}
    trained = {wanted.name: load(wanted, directory) for wanted in TRAINING_SETS}
    seen = {key_of(problem): name for name, problems in evaluated.items() for problem in problems}
    rows = []
    for name, problems in trained.items():
        kept = [problem for problem in problems if key_of(problem) not in seen]
        held_out = [seen[key_of(problem)] for problem in problems if key_of(problem) in seen]
        where = ", ".join(f"{held_out.count(other)} in {other}" for other in dict.fromkeys(held_out))
        print(f"{name}: {len(held_out)} left out, which are evaluated on{f' ({where})' if where else ''}", flush=True)
        rows += rows_of(name, kept)
    write(out / "train.jsonl", rows)
    write(out / "eval.jsonl", [row for name, problems in evaluated.items() for row in rows_of(name, problems)])
    for name, problems in evaluated.items():
        write(
            out / "eval" / f"{name}.jsonl",
            [{"problem": problem.text, "answer": problem.label} for problem in problems],
        )


def main(argv: list[str] | None = None) -> int:
    """Prepare the files; return the exit status: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", metavar="OUT", nargs="?", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--from", dest="directory", metavar="DIR", type=Path, help="downloaded sets; default: the hub")
    parser.add_argument("--list", action="store_true", help="print the sets' names and repositories, and do nothing")
    args = parser.parse_args(argv)
    if args.list:
        for wanted in (*TRAINING_SETS, *PAPER_SETS):
            print(f"{wanted.name:10s} {wanted.split:6s} {wanted.hub}")
        return 0
    try:
        prepare(args.out, args.directory)
    except UsageError as error:
        print(f"prepare_math.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
