"""Sums and differences of two to four one-digit numbers, such as `7-2+9=`, and a corpus that answers half of them only
roughly, such as `~10`. Of the 200 with two numbers, most are left for training."""

import random

from problems import Task

ROUGH = 0.5  # share of the corpus


def draw(generator: random.Random, terms: int) -> tuple[str, int]:
    """A problem and its answer, which may be negative."""
    numbers = [generator.randrange(10) for _ in range(terms)]
    signs = [1, *(generator.choice((1, -1)) for _ in range(terms - 1))]
    text = "".join(("-" if sign < 0 else "+") + str(number) for sign, number in zip(signs, numbers, strict=True))
    return text.removeprefix("+") + "=", sum(sign * number for sign, number in zip(signs, numbers, strict=True))


def follow(generator: random.Random, answer: int) -> str:
    """The answer, or the nearest multiple of ten."""
    return f"~{round(answer / 10) * 10}" if generator.random() < ROUGH else str(answer)


TASK = Task("0123456789+-=~", (2, 3, 4), "numbers", draw, follow)
