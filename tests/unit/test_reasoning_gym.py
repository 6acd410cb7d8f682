"""Every data set of reasoning-gym: its own answers, as a model may write them, must score what its own scorer says."""

import json
from typing import Any

import pytest
from reasoning_gym.factory import DATASETS

from openrlhf_sfpo.tasks.data import generate
from openrlhf_sfpo.tasks.reasoning_gym_scoring import score
from openrlhf_sfpo.tasks.rewards import BUILTIN

# Data sets without answers; their entries have an example, or nothing.
WITHOUT = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
# Combines other data sets, which its options must name.
COMPOSITE = "composite"
FORMS = {
    "bare": "{}",
    "end": "Let me think.\nIs it 3 or 4?\n\n{}",
    "introduced": "I have thought. The answer is: {}",
    "tags": "I think 17.\n<answer>{}</answer>",
    "tags, lines": "<answer>\n{}\n</answer>.",
    "tags, stopped": "I think 17.\n<answer>{}",
    "boxed": "So it is \\boxed{{{}}}.",
}


def problem(name: str, options: str = "size=1&seed=7") -> tuple[dict[str, Any], str]:
    """A problem's entry and label."""
    (row, *_) = generate("--data", f"reasoning_gym:{name}?{options}", "prompt", "label")
    return json.loads(row["label"])["entry"], row["label"]


def answer_of(entry: dict[str, Any]) -> str | None:
    """The entry's own answer, or its example."""
    if entry["answer"] is not None:
        return str(entry["answer"])
    examples = ("possible_answer", "example_answer", "example_correct_answer")
    example = next((entry["metadata"][key] for key in examples if entry["metadata"].get(key)), None)
    return example if example is None or isinstance(example, str) else json.dumps(example)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {COMPOSITE}))
def test_reference_answers_are_right(name: str) -> None:
    entry, label = problem(name)
    answer = answer_of(entry)
    assert (entry["answer"] is None) == (name in WITHOUT)
    if answer is None:
        assert name in WITHOUT
        assert score("<answer>nothing</answer>", label) < 0.1
        return
    scores = {form: score(text.format(answer), label) for form, text in FORMS.items()}
    assert scores == dict.fromkeys(FORMS, 1.0)


@pytest.mark.parametrize(
    ("name", "response", "low", "high"),
    [
        ("chain_sum", "It is 1{}", 0.0, 0.8),  # its scorer gives partial credit for the answer's digits
        ("chain_sum", "{}? No, it is 1", 0.0, 0.1),
        ("chain_sum", "", 0.0, 0.1),
        ("chain_sum", "<answer>{}</answer> or 8", 1.0, 1.0),
        ("number_sorting", "{}\nI do not know", 0.0, 0.1),
        ("knights_knaves", "Maybe {}\nNo.\nEverybody lies", 0.0, 0.5),
        ("mini_sudoku", "1 1 1 1", 0.0, 0.5),
        ("polynomial_multiplication", "<answer>){}(</answer>", 0.0, 0.1),
    ],
)
def test_other_answers_are_wrong(name: str, response: str, low: float, high: float) -> None:
    entry, label = problem(name)
    assert low <= score(response.replace("{}", entry["answer"]), label) <= high


def test_partial_scores_are_the_scorers() -> None:
    import reasoning_gym

    entry, label = problem("mini_sudoku")
    rows = entry["answer"].splitlines()
    wrong = "\n".join([rows[1], rows[0], *rows[2:]])
    own = reasoning_gym.create_dataset("mini_sudoku", size=1, seed=7)
    assert score(f"Here:\n{wrong}", label) == own.score_answer(wrong, own[0])


def test_options_may_be_lists_and_the_whole_reward_works() -> None:
    entry, label = problem("basic_arithmetic", "size=1&seed=1&operators=%2B&operators=-")
    response = f"P{entry['answer']}<\uff5cend\u2581of\u2581sentence\uff5c>"
    result = BUILTIN["reasoning_gym"]([response], ["P"], [label])
    assert result["rewards"] == [1.0]


def test_a_composite_of_data_sets() -> None:
    import reasoning_gym
    from reasoning_gym.composite import DatasetSpec

    specs = [DatasetSpec(name="gcd", weight=1, config={})]
    entry = reasoning_gym.create_dataset(COMPOSITE, size=1, seed=1, datasets=specs)[0]
    label = json.dumps({"dataset": "gcd", "options": {}, "entry": entry}, default=str)
    assert score(str(entry["answer"]), label) == 1.0
