"""Countdown: reach a number with two or three digits, each used once, such as `3,5,9=42>` with `9*5-3`; a corpus in
which half of the answers are expressions of the right digits with another value; and the reward.

An answer has to be searched for, and most problems have several, so there is more to learn than in sums.
"""

import math
import random
import re

from problems import Task

WRONG = 0.5  # share of the corpus
LARGEST = 99
_EXPRESSION = re.compile(r"\d(?:[-+*]\d)*")


def value(expression: str) -> int:
    """The value of digits joined by +, - and *."""
    terms = re.findall(r"([-+]?)([\d*]+)", expression)
    return sum((-1 if sign == "-" else 1) * math.prod(map(int, term.split("*"))) for sign, term in terms)


def expression_of(generator: random.Random, digits: list[int]) -> str:
    """The digits in a random order, joined by random signs."""
    order = generator.sample(digits, len(digits))
    return str(order[0]) + "".join(generator.choice("+-*") + str(digit) for digit in order[1:])


def prompt_of(digits: list[int], target: int) -> str:
    """A problem, with its digits in ascending order."""
    return f"{','.join(map(str, sorted(digits)))}={target}>"


def draw(generator: random.Random, count: int) -> tuple[str, str]:
    """A problem with a target from 0 to `LARGEST`, and one of its answers."""
    while True:
        digits = [generator.randrange(1, 10) for _ in range(count)]
        expression = expression_of(generator, digits)
        if 0 <= value(expression) <= LARGEST:
            return prompt_of(digits, value(expression)), expression


def follow(generator: random.Random, answer: str) -> str:
    """The answer, or another expression of its digits."""
    digits = [int(digit) for digit in re.findall(r"\d", answer)]
    return expression_of(generator, digits) if generator.random() < WRONG else answer


def is_right(problem: str, answer: str) -> bool:
    """Whether an answer uses exactly the problem's digits and has the value that it asks for."""
    digits, target = problem.removesuffix(">").split("=")
    return (
        _EXPRESSION.fullmatch(answer) is not None
        and sorted(re.findall(r"\d", answer)) == digits.split(",")
        and value(answer) == int(target)
    )


def reward(queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
    """1 for each right answer, else 0."""
    answers = [
        re.sub(r"<\|\w+\|>", "", query.removeprefix(prompt)) for query, prompt in zip(queries, prompts, strict=True)
    ]
    return [float(is_right(prompt, answer)) for prompt, answer in zip(prompts, answers, strict=True)]


TASK = Task("0123456789+-*,=>", (2, 3), "digits", draw, follow)
