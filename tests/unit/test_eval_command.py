"""`openrlhf-sfpo eval`: graders, problem sets and statistics."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli import evaluate
from tiny_models import make_model

from openrlhf_sfpo.cli.evaluate import main
from openrlhf_sfpo.cli.grading import load_graders
from openrlhf_sfpo.report.evaluation import Graded, measure, read_samples, table, write_evaluation, write_samples
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.tasks.evaluation import PAPER_SETS, Problem, grader_for, load_problems, paper_specs
from openrlhf_sfpo.tasks.rewards import load_reward

RIGHT, WRONG = 1.0, 0.0


@pytest.mark.parametrize(
    ("grader", "response", "label", "score"),
    [
        ("math", r"So \boxed{42}.", "42", RIGHT),
        ("math", r"\boxed{42} or rather \boxed{43}", "42", WRONG),  # the last one counts
        ("math", r"\boxed{\frac{1}{2}}", "0.5", RIGHT),
        ("math", r"\boxed{\dfrac{3}{6}}", r"\frac12", RIGHT),
        ("math", r"\boxed{2x+2}", "2(x+1)", RIGHT),
        ("math", r"\boxed{x^2}", "x^3", WRONG),
        ("math", r"\boxed{(1, 2]}", "(1,2]", RIGHT),
        ("math", r"\boxed{[1, 2]}", "(1,2]", WRONG),
        ("math", r"\boxed{\sqrt{8}}", r"2\sqrt{2}", RIGHT),
        ("math", r"\boxed{1{,}000}", "1000", RIGHT),
        ("math", "The answer is 42.", "42", WRONG),  # not boxed
        ("math", r"\boxed{42", "42", WRONG),  # never closed
        ("math", r"\boxed{}", "42", WRONG),
        ("math", "", "42", WRONG),
        ("math", r"\boxed{\frac{1}{}}", "1", WRONG),  # not a formula
        ("math_boxed", r"\boxed{7}", "8", 0.1),
        ("math_boxed", "7", "8", WRONG),
        ("last_integer", "3 and then 42", "42", RIGHT),
        ("last_integer", "42 and then 3", "42", WRONG),
        ("last_integer", "none", "42", WRONG),
        ("last_integer", "-5", "-5", RIGHT),
        ("exact", " 42\n", "42", RIGHT),
        ("exact", "~42", "42", WRONG),
        ("exact", "42.", "42", WRONG),
        ("exact", "", "42", WRONG),
    ],
)
def test_graders(grader: str, response: str, label: str, score: float) -> None:
    result = load_reward(grader)([f"Q: {response}"], ["Q: "], [label])
    assert result["rewards"] == [score]


@pytest.mark.parametrize(
    ("response", "score"), [("It is 7", RIGHT), ("<answer>7</answer> or 8", RIGHT), ("8", 0.0), ("", 0.0)]
)
def test_reasoning_gym_grades_its_own_problems(response: str, score: float) -> None:
    entry = {"question": "3 + 4 =", "answer": "7", "metadata": {}}
    label = json.dumps({"dataset": "chain_sum", "options": {}, "entry": entry})
    result = load_reward("reasoning_gym")([f"Q: {response}"], ["Q: "], [label])
    assert result["rewards"][0] == pytest.approx(score, abs=0.02)  # some of its scorers give 0.01 for trying


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_problems_come_from_files_and_generators(tmp_path: Path) -> None:
    levels = write_rows(
        tmp_path / "levels.jsonl",
        [
            {"prompt": "1+1=", "label": "2", "datasource": "easy"},
            {"prompt": "12*12=", "label": "144", "datasource": "hard"},
            {"prompt": "2+2=", "label": "4", "datasource": "easy"},
        ],
    )
    published = write_rows(tmp_path / "olympiad.jsonl", [{"question": "q", "final_answer": ["5", "five"]}])
    table_file = tmp_path / "amc.parquet"
    pq.write_table(pa.table({"problem": ["p"], "answer": [5.0]}), table_file)
    sums = "reasoning_gym:chain_sum?size=3&seed=1"
    sets = load_problems([str(levels), str(published), f"amc_2023={table_file}", sums])
    assert {name: len(problems) for name, problems in sets.items()} == {
        "easy": 2,
        "hard": 1,
        "olympiad": 1,
        "amc_2023": 1,
        "chain_sum": 3,
    }
    assert sets["olympiad"] == [Problem("q", "5")]
    assert sets["amc_2023"] == [Problem("p", "5")]
    assert grader_for(sets["chain_sum"]) == "reasoning_gym"
    assert grader_for(sets["easy"]) == "math"
    assert [len(p) for p in load_problems([f"all={levels}", sums], limit=2).values()] == [2, 2]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "q", "answer": "5"}], {}, "--input_key: {path}, line 1 has no 'prompt' or 'problem'"),
        ([{"problem": "q", "solution": "5"}], {}, "--label_key: {path}, line 1 has no 'label' or 'answer'"),
        ([{"problem": "q", "answer": []}], {}, "{path}, line 1: the label is an empty list."),
        (
            [{"problem": ["q"], "answer": "5"}],
            {},
            "--input_key: {path}, line 1: the prompt is a list, but not of chat messages.",
        ),
        ([{"problem": "q", "answer": "5"}], {"input_key": "body"}, "has no 'body' (it has 'problem', 'answer')"),
        ([], {}, "{path} is empty."),
    ],
)
def test_broken_sets_are_named(tmp_path: Path, rows: list[Any], options: dict[str, str], message: str) -> None:
    path = write_rows(tmp_path / "set.jsonl", rows)
    with pytest.raises(UsageError) as caught:
        load_problems([str(path)], **options)
    assert message.replace("{path}", str(path)) in str(caught.value)


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.jsonl", [{"problem": "q", "answer": "5"}])
    with pytest.raises(UsageError, match="two sets are called 'set'"):
        load_problems([str(path), str(path)])


def test_the_papers_sets_can_be_files(tmp_path: Path) -> None:
    assert paper_specs(None)[0] == "math500=HuggingFaceH4/MATH-500@test"
    with pytest.raises(UsageError, match=r"--data_dir: .*math500.jsonl does not exist"):
        paper_specs(tmp_path)
    for published in PAPER_SETS:
        write_rows(tmp_path / f"{published.name}.jsonl", [{"problem": "q", "answer": "5"}])
    assert list(load_problems(paper_specs(tmp_path))) == ["math500", "aime24", "aime25", "amc", "minerva", "olympiad"]


def graded(set_name: str, *problems: str, different: int | None = None) -> list[Graded]:
    """Graded responses; each problem is a string of 1 and 0 for right and wrong (and truncated) ones. Only the first
    `different` problems have prompts of their own; the others are copies of them."""
    return [
        Graded(
            set_name,
            number,
            f"q{number % (different or len(problems))}",
            "r",
            "a",
            float(mark),
            10 if mark == "1" else 20,
            mark == "0",
        )
        for number, marks in enumerate(problems)
        for mark in marks
    ]


def test_the_numbers_of_an_evaluation() -> None:
    numbers = measure([*graded("a", "1100", "0000", "1111", "1000"), *graded("b", "11", "11")])
    first, second = numbers["sets"]["a"], numbers["sets"]["b"]
    assert first["avg"] == pytest.approx(7 / 16)
    assert list(first["pass_at"]) == [1, 2, 4]
    assert first["pass_at"][2] == pytest.approx((5 / 6 + 0 + 1 + 1 / 2) / 4)
    assert first["pass_at"][4] == 3 / 4
    assert first["response_length_mean"] == pytest.approx((7 * 10 + 9 * 20) / 16)
    assert first["truncated_rate"] == 9 / 16
    assert first["avg_interval"][0] < 7 / 16 < first["avg_interval"][1]
    assert second["avg_interval"] == (pytest.approx(0.025**0.5), 1.0), "two of two, by the binomial distribution"
    assert numbers["mean"] == pytest.approx((7 / 16 + 1) / 2)
    assert 0.3 < numbers["mean_interval"][0] < numbers["mean"] < numbers["mean_interval"][1] < 0.95
    assert numbers["mean_method"] == "beta"
    rows = table(numbers).rows
    assert rows[0][2].startswith("43.8 [")
    assert rows[-1][0] == "unweighted mean"


@pytest.mark.parametrize(
    ("problems", "shown", "method"),
    [
        (["0"] * 30, "0.0 [0.0, 11.6]", "beta"),
        (["1"] * 30, "100.0 [88.4, 100.0]", "beta"),
        (["1"] + ["0"] * 29, "3.3 [0.1, 17.2]", "beta"),
        (["1100"], "50.0 [not known]", None),
        (["1"] * 6 + ["0"] * 24, "20.0 [6.7, 33.3]", "bootstrap"),
    ],
)
def test_intervals_and_their_methods(problems: list[str], shown: str, method: str | None, tmp_path: Path) -> None:
    rows = graded("aime24", *problems)
    numbers = measure(rows)
    assert table(numbers).rows[0][2] == shown
    assert numbers["sets"]["aime24"]["avg_method"] == method
    write_evaluation(tmp_path, {}, rows, numbers)
    written = json.loads((tmp_path / "eval.json").read_text())["sets"]["aime24"]
    assert written["avg_method"] == method
    assert (written["avg_interval"] is None) == (method is None)
    assert {None: "One prompt", "beta": "beta distribution", "bootstrap": "bootstrap"}[method] in (
        tmp_path / "eval.md"
    ).read_text()


def test_sets_with_different_numbers_of_samples_say_so() -> None:
    """Copies of a prompt give it more samples than other sets' prompts have, so the table must show k for each set."""
    shown = table(measure([*graded("a", "1", "0"), *graded("b", *"1100", different=2)]))
    assert shown.head[2:4] == ["avg@k, %", "pass@k, %"]
    assert [row[0] for row in shown.rows] == ["a (k = 1)", "b (k = 2)", "unweighted mean"]


def test_copies_of_a_prompt_are_one_prompt() -> None:
    """30 problems, each 32 times, as in some published files."""
    marks = ["1"] * 6 + ["0"] * 24
    numbers = measure(graded("aime24", *(marks * 32), different=30))
    one = numbers["sets"]["aime24"]
    assert (one["prompts"], one["rows"], one["samples"]) == (30, 960, 32)
    assert table(numbers).rows[0][2] == "20.0 [6.7, 33.3]"
    assert "aime24 has 960 rows" in table(numbers).note


def test_samples_are_read_back_as_written(tmp_path: Path) -> None:
    rows = [Graded("a", 0, "q \u2028 é", "\ud800 half a character", "4", None, 3, False, "<|im_end|>")]
    write_samples(tmp_path, rows)
    assert read_samples(tmp_path) == rows


def sampled(directory: Path, *responses: str, label: str = "42") -> Path:
    """The directory of an evaluation whose grading has failed."""
    directory.mkdir()
    write_samples(
        directory, [Graded("s", n, f"q{n}", text, label, None, 2, False, "</s>") for n, text in enumerate(responses)]
    )
    (directory / "settings.json").write_text('{"temperature": 0.5}')
    return directory


def test_responses_are_graded_again_without_a_model(tmp_path: Path) -> None:
    out = sampled(tmp_path / "out", "42", "43")
    assert main(["--regrade", str(out), "--grader", "exact"]) == 0
    numbers = json.loads((out / "eval.json").read_text())
    assert numbers["sets"]["s"]["avg"] == 0.5
    assert numbers["settings"] == {"temperature": 0.5, "grader": "exact", "regrade": str(out)}
    assert [one.score for one in read_samples(out)] == [1.0, 0.0]
    other = tmp_path / "other"
    grader = tmp_path / "ends_with.py"
    grader.write_text("def reward_func(queries, prompts, labels):\n    return [float('3</s>' in queries[0])]\n")
    assert main(["--regrade", str(out), "--grader", str(grader), "--out", str(other)]) == 0
    assert [one.score for one in read_samples(other)] == [0.0, 1.0]
    assert json.loads((other / "eval.json").read_text())["settings"]["temperature"] == 0.5


def test_a_grader_that_fails_loses_no_response(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = sampled(tmp_path / "out", "42", "odd")
    grader = tmp_path / "sometimes.py"
    grader.write_text("def reward_func(queries, prompts, labels):\n    return [1.0 / ('odd' not in queries[0])]\n")
    assert main(["--regrade", str(out), "--grader", str(grader)]) == 1
    said = capfd.readouterr().out
    assert "grading failed: ZeroDivisionError" in said
    assert f"openrlhf-sfpo eval --regrade {out}" in said
    assert len(read_samples(out)) == 2
    assert main(["MODEL", "--data", "reasoning_gym:gcd", "--out", str(out)]) == 2
    assert "already holds responses" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grader", "nope"], "--grader: 'nope' is neither a built-in reward"),
        (["--grader", "/nowhere/x.py"], "--grader: /nowhere/x.py does not exist"),
        (["--grader", "http://host/score"], "--grader: is http://host/score, a server."),
        (["--grader", "{tmp}/broken.py"], "broken.py cannot be loaded: ModuleNotFoundError"),
        (["--grader", "{tmp}/none.py"], "none.py does not work on the first problem of s: it returned None"),
        (["--grader", "reasoning_gym"], "--grader: reasoning_gym cannot grade s: the label of problem 1, 'a word',"),
        (["--grader", "last_integer"], "the label of problem 1, 'a word', has no integer."),
        (["--data", "x.jsonl"], "--regrade: takes no MODEL"),
        (["MODEL"], "--regrade: takes no MODEL"),
        (["--regrade", "{tmp}/nowhere"], "--regrade: {tmp}/nowhere has no samples.jsonl"),
        (["--regrade", "{tmp}/foreign"], "--regrade: {tmp}/foreign has no samples.jsonl of an evaluation"),
    ],
)
def test_graders_are_refused_before_anything_is_sampled(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = sampled(tmp_path / "out", "42", label="a word")
    (tmp_path / "broken.py").write_text("import no_such_module_x\nreward_func = print\n")
    (tmp_path / "none.py").write_text("def reward_func(queries, prompts, labels):\n    pass\n")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "samples.jsonl").write_text('{"step": 1, "prompt": "a", "response": "b"}\n')
    assert main(["--regrade", str(out), *(word.replace("{tmp}", str(tmp_path)) for word in arguments)]) == 2
    assert message.replace("{tmp}", str(tmp_path)) in capsys.readouterr().err
    assert not (out / "eval.json").exists()


def test_a_grader_of_ones_own_is_tried_on_the_rendered_prompt(tmp_path: Path) -> None:
    grader = tmp_path / "starts.py"
    grader.write_text(
        "def reward_func(queries, prompts, labels):\n    return [float(queries[0].startswith('<user>'))]\n"
    )
    problem = Problem([{"role": "user", "content": "1 + 1"}], "2")  # a chat, to which no response can be appended
    assert list(load_graders(str(grader), {"chats": [problem]}, {"chats": "<user>1 + 1<assistant>"})) == ["chats"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data: is not given."),
        (["--data", "x.jsonl", "--samples", "0"], "--samples: is 0. Use 1 or more."),
        (["--data", "x.jsonl", "--top_p", "1.5"], "--top_p: is 1.5."),
        (["--data", "x.jsonl", "--temperature", "-1"], "--temperature: is -1.0."),
        (["--data", "x.jsonl", "--input_template", "Solve:"], "Put {} where the problem goes."),
        (["--data", "x.jsonl", "--grader", "maths"], "--grader: 'maths' is neither a built-in reward"),
        (["--data", "x.jsonl"], "--data: x.jsonl does not exist in "),
        (["--data_dir", "x"], "--data_dir: is for --protocol paper."),
        (["--protocol", "paper", "--data_dir", "nowhere"], "--data_dir: nowhere/math500.jsonl does not exist."),
    ],
)
def test_bad_flags_are_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = evaluate(tmp_path, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    done = evaluate(tmp_path, "--data", "x.jsonl")
    assert done.returncode == 2
    assert "holds no model (no config.json)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_new_tokens", "125"], "--max_new_tokens: is 125, which is 129 tokens with the longest prompt (4), but"),
        (["--max_new_tokens", "125"], "is made for 128 (max_position_embeddings in config.json). Use 124 or less."),
        (["--max_new_tokens", "8", "--tensor_parallel_size", "3"], "--tensor_parallel_size: is 3, and vLLM cannot"),
    ],
)
def test_what_vllm_would_refuse_is_refused_before_it_starts(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "model", "llama")
    write_rows(tmp_path / "a.jsonl", [{"prompt": "1+1=", "label": "2"}, {"prompt": "2=", "label": "2"}])
    assert main([str(model), "--data", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
