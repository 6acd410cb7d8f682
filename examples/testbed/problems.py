"""What the testbed's tasks have in common: problems of several levels, those to train on apart from those to evaluate
on, and a corpus to train a model on before."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """A kind of problems.

    Attributes:
        characters: all that problems and answers consist of.
        levels: how many `unit` there are in a problem: the difficulty.
        unit: what is counted.
        draw: makes a problem of a level, and its answer.
        follow: the text that follows a problem with this answer in the corpus.
    """

    characters: str
    levels: tuple[int, ...]
    unit: str
    draw: Callable[[random.Random, int], tuple[str, Any]]
    follow: Callable[[random.Random, Any], str]

    def stream(self, seed: int, excluded: frozenset[str]) -> Iterator[tuple[int, str, Any]]:
        """An endless stream of (level, problem, answer), with the levels in turn."""
        generator = random.Random(seed)
        while True:
            for level in self.levels:
                problem, answer = self.draw(generator, level)
                while problem in excluded:
                    problem, answer = self.draw(generator, level)
                yield level, problem, answer

    def corpus(self, seed: int, excluded: frozenset[str]) -> Iterator[tuple[str, str]]:
        """Problems with the text that follows them."""
        generator = random.Random(seed)
        for _, problem, answer in self.stream(seed, excluded):
            yield problem, self.follow(generator, answer)

    def held_out(self, per_level: int, seed: int = 10**6) -> list[tuple[int, str, Any]]:
        """The evaluation problems, all different."""
        generator = random.Random(seed)
        chosen: dict[str, tuple[int, str, Any]] = {}
        for level in self.levels:
            before = len(chosen)
            while len(chosen) - before < per_level:
                problem, answer = self.draw(generator, level)
                chosen.setdefault(problem, (level, problem, answer))
        return list(chosen.values())

    def as_rows(self, problems: list[tuple[int, str, Any]]) -> list[dict[str, str]]:
        """Rows of a data set: prompt, an answer as the label, and the level as the data source."""
        return [
            {"prompt": problem, "label": str(answer), "datasource": f"{level}_{self.unit}"}
            for level, problem, answer in problems
        ]
