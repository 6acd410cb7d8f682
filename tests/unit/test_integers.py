"""The integer that a text ends with."""

import time

import pytest

from openrlhf_sfpo.tasks.integers import last_integer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7", 7),
        ("none", None),
        ("7, then 8,5", 5),
        ("**42**.", 42),
        ("<answer>12</answer>", 12),
        ("007", 7),
        # signs
        ("so 4 - 9 is -5.", -5),
        ("\u22124", -4),
        ("x=-5", -5),
        ("it is = - 4", -4),
        (r"\boxed{-42}", -42),
        ("$-$5", -5),
        ("-$5", -5),
        ("8-3", 3),
        ("pages 3\u20135", 5),
        ("- 4", 4),
        ("+5", 5),
        # thousands
        ("about 1,234 of them", 1234),
        ("1{,}234", 1234),
        (r"1\,234", 1234),
        ("1\u202f234", 1234),
        ("1'234'567", 1234567),
        ("1_000", 1000),
        ("about 1 234.", 1234),
        ("5 100 20", 20),
        ("20 5 100", 100),
        ("1,2345", 2345),
        # integers in other forms
        ("5.0", 5),
        ("$1,234.00", 1234),
        ("8/2", 4),
        (r"-\frac{8}{4}", -2),
        ("1.5e3", 1500),
        (r"4 \times 10^{3}", 4000),
        ("2^10", 1024),
        ("\uff17\uff18", 78),
        # numbers that are not integers, whose digits do not count
        ("The answer is 3.5", None),
        (".5", None),
        ("3/4", None),
        (r"\frac{3}{4}", None),
        ("2 1/2", None),
        ("5e-1", None),
        (r"9.6 \times 10^{-4}", None),
        ("version 1.2.3", None),
        ("1/0", None),
        ("5 apples for 3.50", 5),
        # too large to compute
        ("9^999999999", None),
        ("1e999999999", None),
        ("7" * 5000, None),
    ],
)
def test_last_integer(text: str, expected: int | None) -> None:
    assert last_integer(text) == expected


@pytest.mark.parametrize("text", ["1,", "-", "= ", "10^", "1 ", " ", "1.1"])
def test_long_repetitions_take_no_time(text: str) -> None:
    """Twice the text must take about twice the time: nothing may be read again from every position."""

    def seconds(length: int) -> float:
        begin = time.perf_counter()
        last_integer(text * (length // len(text)))
        return time.perf_counter() - begin

    seconds(10_000)
    assert seconds(80_000) < 0.5 + 20 * seconds(10_000)
