"""Rewritings of reference answers to mathematical problems: acceptable ones, and wrong ones that look alike.

They are made from the reference's LaTeX by rules that share no code with the grader. An acceptable rewriting has the
reference's value, in a form that such a reference can have; a wrong one does not.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from acceptable_rewritings import boxed, of_kind, typeset
from answer_kinds import Pair, kind_of, surely_differ
from wrong_rewritings import perturbed, wrong_of_kind, wrongly_boxed


@dataclass(frozen=True)
class Rewriting:
    """A response to be graded against a reference answer, and the correct verdict."""

    kind: str
    response: str
    label: str
    acceptable: bool


def rewritings(label: str, neighbors: list[str], generator: random.Random) -> list[Rewriting]:
    """All rewritings of one reference answer.

    Args:
        label: the reference answer.
        neighbors: other reference answers of its kind, which are wrong here.
        generator: for random choices.
    """
    kind = kind_of(label)
    good: list[Pair] = [("unchanged", label), *typeset(label), *of_kind(kind, label)]
    bad: list[Pair] = [*wrong_of_kind(kind, label), *perturbed(label)]
    bad += [("a neighbour's answer", other) for other in neighbors if kind != "choice" and surely_differ(label, other)]
    made = [Rewriting(name, _respond(answer, generator), label, True) for name, answer in _distinct(good)]
    made += [Rewriting(name, response, label, True) for name, response in boxed(label, kind)]
    made += [Rewriting(name, _respond(answer, generator), label, False) for name, answer in _distinct(bad)]
    made += [Rewriting(name, response, label, False) for name, response in wrongly_boxed(label, kind)]
    return made


def _distinct(pairs: list[Pair]) -> Iterator[Pair]:
    seen: set[str] = set()
    for name, answer in pairs:
        if answer not in seen:
            seen.add(answer)
            yield name, answer


def _respond(answer: str, generator: random.Random) -> str:
    return generator.choice(
        [
            rf"So the answer is $\boxed{{{answer}}}$.",
            rf"\boxed{{{answer}}}",
            rf"We get \[ \boxed{{{answer}}} \]",
            rf"**Answer:** $$\boxed{{{answer}}}$$",
            rf"Therefore \(\boxed{{{answer}}}\) is what was asked for, as 2 + 2 = 4.",
        ]
    )
