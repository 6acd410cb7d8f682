"""The weight of the entropy bonus against its rule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_sfpo.sfpo import AdaptiveEntropy


@given(st.lists(st.floats(0, 0.5), max_size=200))
def test_the_rule(entropies: list[float]) -> None:
    found = AdaptiveEntropy(True, target=0.2, delta=1e-3, most=5e-3)
    c = 0.0
    for e in entropies:
        assert found.weight(e) == (pytest.approx(c) if e < 0.2 else 0.0)
        c = min(max(c + (1e-3 if e < 0.2 else -1e-3), 0.0), 5e-3)


def test_nothing_happens_without_it_or_without_tokens() -> None:
    off, on = AdaptiveEntropy(), AdaptiveEntropy(True, coefficient=1e-3)
    assert [off.weight(0.0) for _ in range(3)] == [0.0] * 3
    assert on.weight(math.nan) == 0.0
    assert on.coefficient == 1e-3


def test_continues_from_its_state() -> None:
    one, other = AdaptiveEntropy(True), AdaptiveEntropy(True)
    for _ in range(5):
        one.weight(0.1)
    other.load_state_dict(one.state_dict())
    assert one.weight(0.1) == other.weight(0.1) == pytest.approx(5e-4)
