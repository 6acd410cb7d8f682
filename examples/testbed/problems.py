"""Sums and differences of two to five one-digit numbers, such as `7-2+9=`: the more numbers, the harder."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

LEVELS = (2, 3, 4, 5)  # numbers in a problem


def draw(generator: random.Random, terms: int) -> tuple[str, str]:
    """A problem and its answer, which may be negative."""
    numbers = [generator.randrange(10) for _ in range(terms)]
    signs = [1, *(generator.choice((1, -1)) for _ in range(terms - 1))]
    text = "".join(("-" if sign < 0 else "+") + str(number) for sign, number in zip(signs, numbers, strict=True))
    return text.removeprefix("+") + "=", str(sum(sign * number for sign, number in zip(signs, numbers, strict=True)))


def stream(seed: int, excluded: frozenset[str] = frozenset()) -> Iterator[tuple[int, str, str]]:
    """Problems without end, (numbers in it, problem, answer), the levels in turn."""
    generator = random.Random(seed)
    while True:
        for terms in LEVELS:
            problem, answer = draw(generator, terms)
            while problem in excluded:
                problem, answer = draw(generator, terms)
            yield terms, problem, answer


def held_out(per_level: int, seed: int = 10**6) -> list[tuple[int, str, str]]:
    """The evaluation problems, all different. There are only 200 of two numbers, most of which stay for training."""
    generator = random.Random(seed)
    chosen: dict[str, tuple[int, str, str]] = {}
    for terms in LEVELS:
        before = len(chosen)
        while len(chosen) - before < per_level:
            problem, answer = draw(generator, terms)
            chosen[problem] = (terms, problem, answer)
    return list(chosen.values())


def write_jsonl(problems: list[tuple[int, str, str]], path: Path) -> None:
    """Rows {prompt, label, datasource}; the data source is the level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            json.dumps({"prompt": problem, "label": answer, "datasource": f"{terms}_numbers"}) + "\n"
            for terms, problem, answer in problems
        )
    )
