"""Which samples the fast passes train on, and with what weights."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_sfpo.sfpo import FastPart

# Multiples of a quarter: sums of them are exact.
ADVANTAGES = st.lists(st.integers(-12, 12).map(lambda n: n / 4), min_size=1, max_size=9)
FRACTIONS = st.sampled_from([0.01, 0.25, 1 / 3, 0.5, 0.75, 0.99, 1.0])


def variance(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).var(correction=0).item()


@given(ADVANTAGES, FRACTIONS, st.sampled_from(["advantage", "variance", "random"]))
@settings(deadline=None)
def test_what_is_chosen(advantages: list[float], fraction: float, by: Any) -> None:
    chosen = FastPart(fraction, by).choose(advantages, "seed")
    count = math.ceil(fraction * len(advantages))
    assert len(chosen) == count
    assert list(chosen) == sorted(chosen)
    assert set(chosen.values()) == {1.0}
    assert FastPart(fraction, by).choose(advantages, "seed") == chosen
    found = [advantages[index] for index in chosen]
    if by == "advantage":
        rest = [abs(value) for index, value in enumerate(advantages) if index not in chosen]
        assert min(map(abs, found)) >= max(rest, default=0.0)
    if by == "variance":
        best = max(variance(list(subset)) for subset in itertools.combinations(advantages, count))
        assert variance(found) == pytest.approx(best, abs=1e-9)


@given(ADVANTAGES, FRACTIONS, st.sampled_from(["advantage", "random"]))
@settings(deadline=None, max_examples=30)
def test_weights_make_the_estimate_unbiased(advantages: list[float], fraction: float, by: Any) -> None:
    """The mean over many draws of a weighted sum of the advantages is their sum, within five standard errors."""
    part, draws = FastPart(fraction, by, rescale=True), 400
    sums, sizes = [], set()
    for draw in range(draws):
        chosen = part.choose(advantages, str(draw))
        sums.append(math.fsum(weight * advantages[index] for index, weight in chosen.items()))
        sizes.add(len(chosen))
        assert min(chosen.values(), default=1.0) >= 1.0 - 1e-12, "reciprocal probabilities"
    mean, error = sum(sums) / draws, (variance(sums) / draws) ** 0.5
    assert mean == pytest.approx(math.fsum(advantages), abs=5 * error + 1e-9)
    count = math.ceil(fraction * len(advantages))
    if by == "random" or not any(advantages):
        assert sizes == {count}
    else:
        assert sizes == {min(count, sum(value != 0 for value in advantages))}


def test_samples_are_drawn_in_proportion_to_their_advantages() -> None:
    part = FastPart(0.5, "advantage", rescale=True)
    drawn = [part.choose([4.0, 1.0, -2.0, 1.0], str(draw)) for draw in range(2000)]
    assert all(0 in chosen for chosen in drawn), "twice its share of two is more than 1"
    assert drawn[0][0] == 1.0
    for index, probability in ((1, 0.25), (2, 0.5), (3, 0.25)):
        assert sum(index in chosen for chosen in drawn) / 2000 == pytest.approx(probability, abs=0.05)
        assert {chosen[index] for chosen in drawn if index in chosen} == {1 / probability}


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": 1.1}, "fraction"),
        ({"fraction": math.nan}, "fraction"),
        ({"by": "length"}, "selection"),
        ({"by": "variance", "rescale": True}, "variance"),
    ],
)
def test_parts_that_do_not_exist(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastPart(**settings_)
