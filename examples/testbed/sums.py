"""Sums and differences of two to four one-digit numbers, such as `7-2+9=`, and a corpus that answers half of them only
roughly, such as `~10`."""

import random
from collections.abc import Iterator

CHARACTERS = "0123456789+-=~"
LEVELS = (2, 3, 4)  # numbers in a problem: the difficulty
ROUGH = 0.5  # share of the corpus


def draw(generator: random.Random, terms: int) -> tuple[str, int]:
    """A problem and its answer, which may be negative."""
    numbers = [generator.randrange(10) for _ in range(terms)]
    signs = [1, *(generator.choice((1, -1)) for _ in range(terms - 1))]
    text = "".join(("-" if sign < 0 else "+") + str(number) for sign, number in zip(signs, numbers, strict=True))
    return text.removeprefix("+") + "=", sum(sign * number for sign, number in zip(signs, numbers, strict=True))


def stream(seed: int, excluded: frozenset[str]) -> Iterator[tuple[int, str, int]]:
    """An endless stream of (numbers in the problem, problem, answer), with the levels in turn."""
    generator = random.Random(seed)
    while True:
        for terms in LEVELS:
            problem, answer = draw(generator, terms)
            while problem in excluded:
                problem, answer = draw(generator, terms)
            yield terms, problem, answer


def corpus(seed: int, excluded: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Problems with the text that follows them: the answer, or the nearest multiple of ten."""
    generator = random.Random(seed)
    for _, problem, answer in stream(seed, excluded):
        rough = generator.random() < ROUGH
        yield problem, f"~{round(answer / 10) * 10}" if rough else str(answer)


def held_out(per_level: int, seed: int = 10**6) -> list[tuple[int, str, int]]:
    """The evaluation problems, all different. Of the 200 with two numbers, most are left for training."""
    generator = random.Random(seed)
    chosen: dict[str, tuple[int, str, int]] = {}
    for terms in LEVELS:
        before = len(chosen)
        while len(chosen) - before < per_level:
            problem, answer = draw(generator, terms)
            chosen[problem] = (terms, problem, answer)
    return list(chosen.values())


def as_rows(problems: list[tuple[int, str, int]]) -> list[dict[str, str]]:
    """Rows of a data set: prompt, label, and the level as the data source."""
    return [
        {"prompt": problem, "label": str(answer), "datasource": f"{terms}_numbers"}
        for terms, problem, answer in problems
    ]
