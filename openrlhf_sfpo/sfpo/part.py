"""The part of a batch that the fast passes train on."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

Selection = Literal["advantage", "variance", "random"]


@dataclass(frozen=True)
class FastPart:
    """Which samples of each train batch the fast passes train on; the slow pass trains on all of them.

    | by          | chosen                                                                                  |
    | `advantage` | the samples with the largest absolute advantages (as CPPO, arXiv 2503.22342)            |
    | `variance`  | the samples whose advantages have the largest variance: the highest and the lowest ones |
    |             | (as PODS, arXiv 2504.13818, here over a train batch and not for each prompt)            |
    | `random`    | any, each with the same probability                                                     |

    Without `rescale` a fast pass's loss is the mean over the chosen samples. With it, its gradient is an unbiased
    estimate of the whole batch's (Horvitz and Thompson): the divisors are the whole batch's, and a sample that was
    chosen with probability p has weight 1 / p. `advantage` then draws the samples with probabilities proportional to
    their absolute advantages, as far as these are below 1.

    Args:
        fraction: of each train batch's samples, in (0, 1], rounded up to whole samples.
        by: one of the above.
        rescale: see above; `variance` has no probabilities.

    Raises:
        ValueError: a fraction out of range, an unknown selection, or `variance` with `rescale`.
    """

    fraction: float = 1.0
    by: Selection = "advantage"
    rescale: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")
        if self.by not in ("advantage", "variance", "random"):
            raise ValueError(f"unknown selection {self.by!r}")
        if self.by == "variance" and self.rescale:
            raise ValueError("variance chooses without probabilities, so nothing can be rescaled by them")

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the batch."""
        return self.fraction == 1

    def choose(self, advantages: Sequence[float], seed: str) -> dict[int, float]:
        """Choose samples of a train batch; a pure function of its arguments.

        Args:
            advantages: one for each sample, such as its mean over the sample's tokens.
            seed: of the random numbers.

        Returns:
            The weights of the chosen samples, by index, in increasing order.
        """
        count = math.ceil(self.fraction * len(advantages) - 1e-9)
        if self.by == "random":
            weight = len(advantages) / count if self.rescale and count else 1.0
            return dict.fromkeys(sorted(random.Random(seed).sample(range(len(advantages)), count)), weight)
        if self.by == "variance":
            return dict.fromkeys(_most_varied(advantages, count), 1.0)
        if self.rescale and any(advantages):
            return _drawn([abs(value) for value in advantages], count, random.Random(seed).random())
        largest = sorted(range(len(advantages)), key=lambda index: (-abs(advantages[index]), index))
        return dict.fromkeys(sorted(largest[:count]), 1.0)


def _most_varied(values: Sequence[float], count: int) -> list[int]:
    """The indices of the `count` values with the largest variance: some of the highest, the others the lowest."""
    order = sorted(range(len(values)), key=lambda index: (values[index], index))
    sums = [0.0, *accumulate(values[index] for index in order)]
    squares = [0.0, *accumulate(values[index] ** 2 for index in order)]

    def variance(low: int) -> float:
        """Times count, of the `low` lowest and the `count - low` highest values."""
        first = len(order) - (count - low)
        total = sums[low] + sums[-1] - sums[first]
        return squares[low] + squares[-1] - squares[first] - total**2 / count

    low = max(range(count + 1), key=variance) if count else 0
    return sorted([*order[:low], *order[len(order) - (count - low) :]])


def _drawn(sizes: Sequence[float], count: int, start: float) -> dict[int, float]:
    """Draw indices with probabilities proportional to sizes, at most 1, that sum to `count` (or to the number of sizes
    above 0): systematic sampling. `start` in [0, 1) is the only random number. Returns the reciprocal probabilities."""
    probabilities = [0.0] * len(sizes)
    left = [index for index, size in enumerate(sizes) if size > 0]
    count = min(count, len(left))  # still to be divided among those left
    while left:
        total = math.fsum(sizes[index] for index in left)
        certain = {index for index in left if sizes[index] * count >= total}
        for index in certain or left:
            probabilities[index] = 1.0 if certain else sizes[index] * (count / total)
        if not certain:
            break
        count -= len(certain)
        left = [index for index in left if index not in certain]
    ends = list(accumulate(probabilities))
    # Chosen are those whose interval of the sums contains start, start + 1, start + 2, ...
    crossed = [math.ceil(end - start - 1e-12) for end in ends]
    chosen = [i for i, now in enumerate(crossed) if now > (crossed[i - 1] if i else 0)]
    return {index: 1 / probabilities[index] for index in chosen}
