"""Answers, rewards and data sets."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from openrlhf_sfpo.tasks import answers, rewards


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3 + 4 = 7", 7), ("so 4 - 9 is -5.", -5), ("about 1,234 of them", 1234), ("none", None), ("7, then 8,5", 5)],
)
def test_last_integer(text: str, expected: int | None) -> None:
    assert answers.last_integer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"first \boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a{b}{c}} rest", "a{b}{c}"),
        (r"\boxed{never closed", None),
        ("nothing", None),
    ],
)
def test_last_boxed(text: str, expected: str | None) -> None:
    assert answers.last_boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "numeric", "expected"),
    [
        ("I think <answer> 12 </answer> not 13", True, "12"),
        (r"\boxed{5} apples, 6 pears", True, "5"),
        ("3 or 4.5", True, "4.5"),
        ("first\n the end \n\n", False, "the end"),
        ("", False, None),
    ],
)
def test_final_answer(text: str, numeric: bool, expected: str | None) -> None:
    assert answers.final_answer(text, numeric) == expected


def test_the_response_is_what_follows_the_prompt_without_special_tokens() -> None:
    prompt = "<|im_start|>user\n9 9<|im_end|>\n<|im_start|>assistant\n"
    assert answers.response_text(f"{prompt}It is 7.<|im_end|>", prompt) == "It is 7."


def label_of(name: str, entry: dict[str, Any], **options: Any) -> str:
    return json.dumps({"dataset": name, "options": options, "entry": entry})


def test_last_integer_reward_takes_plain_and_generated_labels() -> None:
    generated = label_of("chain_sum", {"answer": "7"})
    result = rewards.last_integer_reward(["p 8 or 7", "p 7 or 8"], ["p", "p"], ["7", generated])
    assert result["rewards"] == [1.0, 0.0]


def test_last_integer_reward_wants_an_integer_to_compare_with() -> None:
    with pytest.raises(ValueError, match="'Paris'"):
        rewards.last_integer_reward(["Q no idea"], ["Q "], ["Paris"])


def test_reasoning_gym_reward_is_its_own_score() -> None:
    import reasoning_gym

    options = {"size": 3, "seed": 1, "min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    dataset = reasoning_gym.create_dataset("chain_sum", **options)
    for entry in dataset:
        label = label_of("chain_sum", entry, **options)
        for said in (entry["answer"], f"1{entry['answer']}", "nothing"):
            expected = dataset.score_answer(answers.final_answer(said, True), entry)
            assert rewards.reasoning_gym_reward([f"Q it is {said}"], ["Q"], [label])["rewards"] == [expected]


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


def test_math_verify_works_off_the_main_thread() -> None:
    """OpenRLHF calls rewards in threads, where math-verify's own time limit cannot work."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(rewards.math_reward, [r"Q\boxed{1/4}"], ["Q"], ["0.25"]).result(timeout=120)
    assert result["rewards"] == [1.0]


def write_reward(path: Path, body: str, name: str = "reward_func") -> str:
    code = f"def {name}(queries, prompts, labels):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    path.write_text(code)
    return str(path)


def test_a_checked_reward_gives_openrlhf_plain_numbers(tmp_path: Path) -> None:
    import torch

    spec = write_reward(
        tmp_path / "mine.py",
        """
        import torch
        return {"rewards": torch.tensor([0.5]), "scores": [1], "extra_logs": {"length": torch.tensor([7])}}
        """,
        name="mine",
    )
    reward = rewards.CheckedReward(f"{spec}:mine")
    assert reward(["q"], ["p"], ["l"]) == {"rewards": 0.5, "scores": 1.0, "extra_logs": {"length": 7.0}}
    assert reward.failure is None
    assert not isinstance(reward(["q"], ["p"], ["l"])["rewards"], torch.Tensor)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('gone')", "KeyError: 'gone'"),
        ("return {'rewards': [float('nan')]}", "rewards must be finite"),
        ("return {'rewards': [1.0, 2.0]}", "2 'rewards' for 1 samples"),
        ("return {'scores': [1.0]}", "without 'rewards'"),
    ],
)
def test_a_checked_reward_remembers_what_went_wrong(tmp_path: Path, body: str, message: str) -> None:
    reward = rewards.CheckedReward(write_reward(tmp_path / "bad.py", body))
    with pytest.raises((KeyError, ValueError)):
        reward(["q"], ["p"], ["l"])
    assert message in reward.failure
    assert "bad.py" in reward.failure


def test_rewards_load_from_modules_and_files(tmp_path: Path) -> None:
    assert rewards.load_reward("math") is rewards.math_reward
    assert rewards.load_reward("openrlhf_sfpo.tasks.rewards:math_reward") is rewards.math_reward
    spec = write_reward(tmp_path / "one.py", "return {'rewards': [1.0]}")
    assert rewards.load_reward(spec)([""], [""], [""]) == {"rewards": [1.0]}


@pytest.mark.parametrize("spec", ["math", "http://host:1/score", "openrlhf_sfpo.tasks.rewards:math_reward"])
def test_good_rewards_pass_the_check(spec: str) -> None:
    rewards.check_reward(spec)
