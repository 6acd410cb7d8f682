"""examples/prepare_math.py, from local files."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_math import main, normalized

from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.config.namespaces import nested
from openrlhf_sfpo.runs.data_check import fields_of
from openrlhf_sfpo.tasks.answers import answer_of_solution
from openrlhf_sfpo.tasks.data import scan
from openrlhf_sfpo.tasks.evaluation import PAPER_SETS, load_problems, paper_specs
from openrlhf_sfpo.tasks.sources import sources_of


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """The eight sets with the fields that they have on the Hub: some as files, some as downloaded repositories."""
    directory = tmp_path / "downloads"
    asked = {"prompt": "What is $1 + 1$?", "target": "2"}
    twice = {"prompt": "What is  $x$\nif $x = 3$?", "target": "3"}  # also in MATH-500, with different spaces
    other = {"prompt": "What is {4}?", "target": "4"}
    write(directory / "dapo.jsonl", [asked, twice, other])
    solved = {"problem": "Double 3.", "level": "Level 1", "type": "Algebra", "solution": r"So \boxed{7}, or \boxed{6}."}
    bare = {**solved, "problem": "Half of 4", "solution": r"It is $\boxed 2$."}
    write(directory / "lighteval-MATH" / "data" / "train-00000-of-00001.parquet", [solved, bare])
    write(directory / "lighteval-MATH" / "data" / "test-00000-of-00001.parquet", [{**solved, "problem": "not this"}])
    write(directory / "MATH-500" / "test.jsonl", [{"problem": "what is $x$ if $x=3$?", "answer": "3", "solution": "?"}])
    write(directory / "aime24.parquet", [{"id": 60, "problem": "A", "solution": r"\boxed{33}", "answer": "033"}])
    write(directory / "aime25.jsonl", [{"problem": "B", "answer": 70}])
    write(directory / "amc.json", [{"problem": "C", "answer": 142.0}])
    write(directory / "minerva.jsonl", [{"question": "D", "answer": r"\frac{1}{2}"}])
    write(directory / "olympiad.jsonl", [{"question": "E", "final_answer": ["2", "two"]}])
    return directory


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_and_counts(downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert main([str(out), "--from", str(downloads)]) == 0
    said = capsys.readouterr().out
    assert "dapo: 3 problems" in said
    assert "dapo: 1 left out, which are evaluated on (1 in math500)" in said
    assert "math: 0 left out" in said
    train, evaluated = rows_of(out / "train.jsonl"), rows_of(out / "eval.jsonl")
    assert [(row["datasource"], row["label"]) for row in train] == [
        ("dapo", "2"),
        ("dapo", "4"),
        ("math", "6"),
        ("math", "2"),
    ]
    assert train[1]["prompt"].startswith("What is {4}?\n")
    assert all(row["prompt"].count(r"\boxed{}") == 1 for row in train + evaluated)
    labels = {row["datasource"]: row["label"] for row in evaluated}
    assert labels == {
        "math500": "3",
        "aime24": "033",
        "aime25": "70",
        "amc": "142",
        "minerva": r"\frac{1}{2}",
        "olympiad": "2",
    }
    assert sorted(path.name for path in out.rglob("*")) == sorted(
        ["eval", "eval.jsonl", "train.jsonl", *(f"{one.name}.jsonl" for one in PAPER_SETS)]
    )


def test_train_and_eval_take_the_files(downloads: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert main([str(out), "--from", str(downloads)]) == 0
    for flag, name in (("--data.prompt_dataset", "train.jsonl"), ("--eval.dataset", "eval.jsonl")):
        words = [flag, str(out / name), "--data.input_key", "prompt", "--data.label_key", "label"]
        fields = fields_of(nested(parse([*words, "--reward.remote_url", "math"])[0]), flag)
        (source,) = sources_of(flag, str(out / name))
        assert scan(source, fields).rows == len((out / name).read_text().splitlines())
    problems = load_problems(paper_specs(out / "eval"))
    assert problems["olympiad"][0].text == "E"
    assert list(problems) == [one.name for one in PAPER_SETS]


def test_a_set_that_is_missing_is_named_before_anything_is_written(
    downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (downloads / "minerva.jsonl").unlink()
    assert main([str(tmp_path / "data"), "--from", str(downloads)]) == 2
    error = capsys.readouterr().err
    assert "neither minerva{.jsonl,.json,.csv,.tsv,.parquet,.arrow} nor minervamath/ with test*" in error
    assert "hf download --repo-type dataset math-ai/minervamath --local-dir" in error
    assert not (tmp_path / "data").exists()


def test_a_row_without_an_answer_is_named(downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(downloads / "dapo.jsonl", [{"prompt": "Why?", "solution": "Because."}])
    assert main([str(tmp_path / "data"), "--from", str(downloads)]) == 2
    assert "dapo.jsonl, line 1 has no 'label' or 'answer'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$\fbox{5}$", "5"),
        (r"$\boxed 7$", "7"),
        (r"so \boxed {7}", "7"),
        ("nothing", None),
    ],
)
def test_answers_of_solutions(solution: str, answer: str | None) -> None:
    assert answer_of_solution(solution) == answer


def test_normalized() -> None:
    assert normalized("Find $x + y$.\n") == normalized("find  x+y .") != normalized("Find x - y.")
