"""Skywork-OR1's data set as it is published."""

import json
from pathlib import Path
from typing import Any

import pytest

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.tasks.data import Fields, samples_of, scan, write_rows
from openrlhf_sfpo.tasks.skywork import Difficulty, is_skywork, plain_row
from openrlhf_sfpo.tasks.sources import sources_of

MODEL = "DeepSeek-R1-Distill-Qwen-7B"
TESTS = {"inputs": ["1\n"], "outputs": ["2\n"]}


def row(truth: Any, difficulty: int = 8, source: str = "train-math") -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": f"What is {truth}?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)},
        "extra_info": {"index": 1, "model_difficulty": {MODEL: difficulty}},
    }


def fields(**others: Any) -> Fields:
    return Fields("prompt", "label", "math_or_code", chat=True, **others)


def test_rows_become_prompts_and_labels(tmp_path: Path) -> None:
    path = write_rows([row(["\\frac{1}{2}", "0.5"]), row(TESTS, source="train-code"), row(["7"])], tmp_path / "a.jsonl")
    (source,) = sources_of("--data.prompt_dataset", str(path))
    samples = list(samples_of(source, fields()))
    assert [sample.label for sample in samples] == ["\\frac{1}{2}", json.dumps(TESTS), "7"]
    assert samples[0].prompt == [{"role": "user", "content": "What is ['\\\\frac{1}{2}', '0.5']?"}]
    assert scan(source, fields()).datasources == {"train-math", "train-code"}


def test_rows_are_filtered_by_difficulty(tmp_path: Path) -> None:
    rows = [row([str(number)], difficulty=number) for number in range(17)]
    (source,) = sources_of("--data.prompt_dataset", str(write_rows(rows, tmp_path / "a.jsonl")))
    kept = samples_of(source, fields(difficulty=Difficulty(MODEL)))
    assert [sample.label for sample in kept] == [str(number) for number in range(1, 16)]
    kept = samples_of(source, fields(difficulty=Difficulty(MODEL, 3, 4)))
    assert [sample.label for sample in kept] == ["3", "4"]
    with pytest.raises(UsageError, match="line 1 has no difficulty for 'other'") as caught:
        list(samples_of(source, fields(difficulty=Difficulty("other"))))
    assert MODEL in str(caught.value)
    with pytest.raises(UsageError, match=r"no row .* 20 to 30"):
        list(samples_of(source, fields(difficulty=Difficulty(MODEL, 20, 30))))


@pytest.mark.parametrize(("truth", "message"), [("[", "not JSON text"), ("[]", "empty list")])
def test_rows_that_are_wrong(tmp_path: Path, truth: str, message: str) -> None:
    wrong = row(["1"])
    wrong["reward_model"]["ground_truth"] = truth
    (source,) = sources_of("--data.prompt_dataset", str(write_rows([row(["1"]), wrong], tmp_path / "a.jsonl")))
    with pytest.raises(UsageError, match=f"line 2 .*{message}"):
        list(samples_of(source, fields()))


def test_other_rows_are_left_as_they_are(tmp_path: Path) -> None:
    other = {"prompt": "a", "label": "1", "reward_model": "x"}
    assert not is_skywork(other)
    assert is_skywork(row(["1"]))
    (source,) = sources_of("--data.prompt_dataset", str(write_rows([other], tmp_path / "a.jsonl")))
    (sample,) = samples_of(source, Fields("prompt", "label", "math"))
    assert (sample.prompt, sample.label) == ("a", "1")
    with pytest.raises(UsageError, match=r"line 1 is not a row of Skywork-OR1"):
        list(samples_of(source, fields(skywork=True)))


def test_the_ground_truth_may_be_parsed_already() -> None:
    parsed = row(["1"])
    parsed["reward_model"]["ground_truth"] = ["3"]
    assert plain_row(parsed)["label"] == "3"
