"""The testbed's problems, and the reward of its second task."""

import itertools
import random
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

sys.path.append(str(ROOT / "examples" / "testbed"))
import countdown
import sums


@given(st.integers(0, 10**9), st.integers(1, 6))
def test_expressions_have_pythons_value(seed: int, count: int) -> None:
    generator = random.Random(seed)
    digits = [generator.randrange(1, 10) for _ in range(count)]
    expression = countdown.expression_of(generator, digits)
    assert countdown.value(expression) == eval(expression)
    assert sorted(digits) == sorted(int(digit) for digit in expression if digit.isdigit())


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("9*5-3", True),
        ("5*9-3", True),
        ("9*5-3<|end|>", True),
        ("9*5-3<|end|><|pad|>", True),
        ("9*5", False),  # a digit is missing
        ("9*5-3+3", False),  # one is used twice
        ("9*5+3", False),
        ("42", False),
        ("9*5--3", False),
        ("9*5-3 ", False),
        ("", False),
    ],
)
def test_the_reward_of_an_answer(answer: str, right: bool) -> None:
    problem = countdown.prompt_of([9, 3, 5], 42)
    assert problem == "3,5,9=42>"
    assert countdown.reward([problem + answer], [problem], [""]) == [float(right)]


@pytest.mark.parametrize("task", [sums.TASK, countdown.TASK], ids=["sums", "countdown"])
def test_problems_that_are_evaluated_are_not_trained_on(task: Any) -> None:
    evaluation = task.held_out(20)
    problems = [problem for _, problem, _ in evaluation]
    assert len(set(problems)) == len(problems) == 20 * len(task.levels)
    excluded = frozenset(problems)
    assert not excluded & {problem for _, problem, _ in itertools.islice(task.stream(1, excluded), 2000)}
    assert not excluded & {problem for problem, _ in itertools.islice(task.corpus(1, excluded), 2000)}
    for problem, answer in itertools.islice(task.corpus(2, excluded), 200):
        assert set(problem) | set(answer) <= set(task.characters)


def test_half_of_countdowns_corpus_is_right_and_its_labels_are() -> None:
    texts = list(itertools.islice(countdown.TASK.corpus(3, frozenset()), 2000))
    right = sum(countdown.is_right(problem, answer) for problem, answer in texts) / len(texts)
    assert 0.5 <= right <= 0.62, "some of the wrong ones are right by chance"
    assert all(
        countdown.is_right(row["prompt"], row["label"]) for row in countdown.TASK.as_rows(countdown.TASK.held_out(50))
    )
