"""Answers, rewards and data sets."""

import json
import re
from typing import Any

import pytest
from places import ROOT

from openrlhf_sfpo.tasks import rewards
from openrlhf_sfpo.tasks.labels import TEXT_REWARDS


def label_of(name: str, entry: dict[str, Any], **options: Any) -> str:
    return json.dumps({"dataset": name, "options": options, "entry": entry})


def test_built_in_rewards_have_their_names_in_all_places() -> None:
    """They get labels as text, also as MODULE:FUNCTION, and the documentation lists them."""
    assert set(TEXT_REWARDS) == set(rewards.BUILTIN)
    for name, reward in rewards.BUILTIN.items():
        assert getattr(rewards, f"{name}_reward") is reward
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    table = page.partition("## Built-in rewards")[2].partition("\n\n**")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(rewards.BUILTIN)


def test_last_integer_reward_takes_plain_and_generated_labels() -> None:
    generated = label_of("chain_sum", {"answer": "7"})
    result = rewards.last_integer_reward(["p 8 or 7", "p 7 or 8"], ["p", "p"], ["7", generated])
    assert result["rewards"] == [1.0, 0.0]


def test_last_integer_reward_wants_an_integer_to_compare_with() -> None:
    with pytest.raises(ValueError, match="'Paris'"):
        rewards.last_integer_reward(["Q no idea"], ["Q "], ["Paris"])


def test_reasoning_gym_reward_says_what_labels_it_needs() -> None:
    with pytest.raises(ValueError, match="reasoning_gym:NAME"):
        rewards.reasoning_gym_reward(["q"], ["q"], ["42"])


@pytest.mark.parametrize(
    ("response", "label", "reward", "with_boxed"),
    [
        (r"so \boxed{0.5}", r"\frac{1}{2}", 1.0, 1.0),
        (r"so \boxed{2x+1}", "1+2x", 1.0, 1.0),
        (r"so \boxed{3}", "4", 0.0, 0.1),
        ("so 4", "4", 0.0, 0.0),
    ],
)
def test_math_rewards(response: str, label: str, reward: float, with_boxed: float) -> None:
    assert rewards.math_reward([f"Q{response}"], ["Q"], [label])["rewards"] == [reward]
    boxed = rewards.math_boxed_reward([f"Q{response}"], ["Q"], [label])
    assert (boxed["rewards"], boxed["scores"]) == ([with_boxed], [reward])
