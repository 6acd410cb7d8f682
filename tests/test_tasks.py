"""Answers, rewards and data sets."""

import json
from pathlib import Path
from typing import Any

import pytest

from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.tasks import answers, rewards
from openrlhf_sfpo.tasks.data import prompts_of, resolve_dataset


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"first \boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a{b}{c}} rest", "a{b}{c}"),
        (r"\boxed{never closed", None),
        ("nothing", None),
    ],
)
def test_last_boxed(text: str, expected: str | None) -> None:
    assert answers.last_boxed(text) == expected


def label_of(name: str, entry: dict[str, Any], **options: Any) -> str:
    return json.dumps({"dataset": name, "options": options, "entry": entry})


def test_last_integer_reward_takes_plain_and_generated_labels() -> None:
    generated = label_of("chain_sum", {"answer": "7"})
    result = rewards.last_integer_reward(["p 8 or 7", "p 7 or 8"], ["p", "p"], ["7", generated])
    assert result["rewards"] == [1.0, 0.0]


def test_last_integer_reward_wants_an_integer_to_compare_with() -> None:
    with pytest.raises(ValueError, match="'Paris'"):
        rewards.last_integer_reward(["Q no idea"], ["Q "], ["Paris"])


def test_reasoning_gym_reward_says_what_labels_it_needs() -> None:
    with pytest.raises(ValueError, match="reasoning_gym:NAME"):
        rewards.reasoning_gym_reward(["q"], ["q"], ["42"])


@pytest.mark.parametrize(
    ("response", "label", "reward", "with_boxed"),
    [
        (r"so \boxed{0.5}", r"\frac{1}{2}", 1.0, 1.0),
        (r"so \boxed{2x+1}", "1+2x", 1.0, 1.0),
        (r"so \boxed{3}", "4", 0.0, 0.1),
        ("so 4", "4", 0.0, 0.0),
    ],
)
def test_math_rewards(response: str, label: str, reward: float, with_boxed: float) -> None:
    assert rewards.math_reward([f"Q{response}"], ["Q"], [label])["rewards"] == [reward]
    boxed = rewards.math_boxed_reward([f"Q{response}"], ["Q"], [label])
    assert (boxed["rewards"], boxed["scores"]) == ([with_boxed], [reward])


def test_generated_data_sets_keep_evaluation_apart_from_training(tmp_path: Path) -> None:
    options = "min_terms=2&max_terms=2&min_digits=1&max_digits=1"
    train = resolve_dataset("--t", f"reasoning_gym:chain_sum?{options}&size=60&seed=1", "question", "truth", tmp_path)
    seen = prompts_of(train, "question")
    held_out = resolve_dataset(
        "--e", f"reasoning_gym:chain_sum?{options}&size=60&seed=1000", "question", "truth", tmp_path, held_out_from=seen
    )
    rows = [json.loads(line) for line in Path(held_out).read_text().splitlines()]
    assert 0 < len(rows) < 60
    assert len({row["question"] for row in rows}) == len(rows)
    assert not seen & {row["question"] for row in rows}
    label = rows[0]["truth"]
    assert json.loads(label)["entry"]["question"] == rows[0]["question"]
    assert rows[0]["datasource"] == "chain_sum"


def test_a_metadata_field_can_be_the_prompt(tmp_path: Path) -> None:
    path = resolve_dataset("--d", "reasoning_gym:chain_sum?size=3&seed=1", "expression", "label", tmp_path)
    for line in Path(path).read_text().splitlines():
        row = json.loads(line)
        entry = json.loads(row["label"])["entry"]
        assert row["expression"] == entry["metadata"]["expression"]
        assert row["expression"] in entry["question"]
    path = resolve_dataset("--d", "reasoning_gym:chain_sum?size=3&seed=1", "num_terms", "label", tmp_path)
    row = json.loads(Path(path).read_text().splitlines()[0])
    assert row["num_terms"] == json.loads(row["label"])["entry"]["question"], "metadata that is not text"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reasoning_gym:chain_summ", "no data set 'chain_summ'"),
        ("reasoning_gym:chain_sum?min_termz=2", "does not take the options"),
        ("/nowhere/data", "does not exist"),
        ("/nowhere/data.jsonl", "does not exist"),
    ],
)
def test_data_sets_that_are_not_there(tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_dataset("--data.prompt_dataset", spec, "input", None, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"input": "a", "label": "b"}\n{"input": \n', "line 2 is not JSON"),
        ('["input"]\n', "line 1 is not a JSON object"),
        ('{"input": "a", "label": "b"}\n{"input": "a"}\n', "line 2 has no 'label'"),
        ('{"prompt": "a", "label": "b"}\n', "has no 'input'"),
    ],
)
def test_data_files_are_checked_to_the_last_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        resolve_dataset("--data.prompt_dataset", str(path), "input", "label", tmp_path)


def test_data_files_as_people_have_them(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    chat = [{"role": "user", "content": "2 + 2?"}]
    rows = [{"input": chat, "label": "4"}, {"input": "one\u2028two", "label": "b"}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert resolve_dataset("--d", str(path), "input", "label", tmp_path) == str(path)
    assert prompts_of(str(path), "input") == {"one\u2028two"}
    listed = tmp_path / "data.json"
    listed.write_text("[1, 2]")
    with pytest.raises(UsageError, match="row 1 is not a JSON object"):
        resolve_dataset("--d", str(listed), "input", "label", tmp_path)


def test_parquet_columns_are_checked(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"input": ["a"], "label": ["b"]}), path)
    assert resolve_dataset("--d", str(path), "input", "label", tmp_path) == str(path)
    with pytest.raises(UsageError, match="has no 'answer'"):
        resolve_dataset("--d", str(path), "input", "answer", tmp_path)
    path.write_bytes(b"not parquet")
    with pytest.raises(UsageError, match="is not a parquet file"):
        resolve_dataset("--d", str(path), "input", "label", tmp_path)
