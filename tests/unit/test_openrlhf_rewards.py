"""What OpenRLHF's executor has graded, given prompts that tokenizers change and responses that models write.

The executor is OpenRLHF's; a fake engine gives the responses under test.
"""

import asyncio
import functools
import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openrlhf.utils.agent import SingleTurnAgentExecutor
from text_tokenizers import QWEN, ids, tokenizer

from openrlhf_sfpo.orchestration.response_rewards import SAMPLED, post_response, reward_response
from openrlhf_sfpo.tasks.responses import Response, ResponseDecoder, ended_by_token
from openrlhf_sfpo.tasks.rewards import BOXED, CheckedReward

OVERLONG = "word " * 200 + "Put the answer in \\boxed{}, as in \\boxed{42}."
CAFE = unicodedata.normalize("NFD", "Le café ouvre à 7 h. Réponse dans \\boxed{}.")


class Engine:
    """Answers every prompt alike, and records the response as `RolloutEngine.generate` does."""

    def __init__(self, one: Any, response: str) -> None:
        self._response = ids(one, response)
        self._decode = ResponseDecoder(one)

    async def generate(self, prompt: list[int], parameters: Any, multi_modal_data: Any = None) -> Any:
        output = SimpleNamespace(token_ids=self._response, finish_reason="stop", stop_reason=None, logprobs=None)
        SAMPLED.set(self._decode(prompt, output.token_ids, ended_by_token(output)))
        return SimpleNamespace(outputs=[output])


def execute(reward: str | CheckedReward, prompt: str, response: str, label: str) -> dict[str, Any]:
    """What the executor makes of a response."""
    one = tokenizer(**QWEN)
    executor = SingleTurnAgentExecutor()
    checked = CheckedReward(reward) if isinstance(reward, str) else reward
    executor.reward_func = functools.partial(reward_response, checked)
    executor.reward_endpoints = ["a reward"]
    parameters = SimpleNamespace(max_tokens=32, logprobs=None)
    return asyncio.run(
        executor.execute(
            prompt=prompt,
            label=label,
            sampling_params=parameters,
            max_length=128,
            hf_tokenizer=one,
            llm_engine=Engine(one, response),
        )
    )


@pytest.mark.parametrize("prompt", [OVERLONG, CAFE, "P"], ids=["cut", "normalized", "plain"])
@pytest.mark.parametrize(
    ("response", "label", "reward", "boxed"),
    [
        (" I cannot tell.<|im_end|>", "42", 0.0, 0.0),
        (" \\boxed{41}<|im_end|>", "42", 0.1, 1.0),
        (" \\boxed{42}<|im_end|>", "42", 1.0, 1.0),
    ],
)
def test_the_prompts_boxes_are_not_graded(prompt: str, response: str, label: str, reward: float, boxed: float) -> None:
    output = execute("math_boxed", prompt, response, label)
    assert output["reward"] == reward
    assert output["extra_logs"][BOXED] == boxed


@pytest.mark.parametrize("prompt", [OVERLONG, CAFE], ids=["cut", "normalized"])
def test_own_rewards_can_remove_the_prompt(prompt: str, tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    file = tmp_path / "sees_all.py"
    file.write_text(
        "import json\ndef reward_func(queries, prompts, labels):\n"
        f"    open({str(seen)!r}, 'w').write(json.dumps(queries[0].removeprefix(prompts[0])))\n    return [1.0]\n"
    )
    assert execute(str(file), prompt, " 42<|im_end|>", "42")["reward"] == 1.0
    assert json.loads(seen.read_text()) == " 42<|im_end|>"


def test_a_reward_that_fails_is_remembered(tmp_path: Path) -> None:
    """OpenRLHF continues without a reward, so the failure must be kept."""
    file = tmp_path / "fails.py"
    file.write_text("def reward_func(queries, prompts, labels):\n    return None\n")
    reward = CheckedReward(str(file))
    assert execute(reward, "P", "4", "4")["reward"] is None
    assert "fails.py does not work: it returned None" in reward.failure


def test_concurrent_responses_are_not_mixed_up() -> None:
    function = functools.partial(reward_response, CheckedReward("exact"))

    async def sample(number: int) -> float:
        await asyncio.sleep(0.01 * (number % 3))
        SAMPLED.set(Response(f" {number}", f" {number}</s>"))
        await asyncio.sleep(0.01 * (number % 2))
        chunk = asyncio.to_thread(function, ["not the prompt"], ["P"], [str(number)])
        (result,) = await asyncio.gather(chunk)
        return result["rewards"]

    async def all_samples() -> list[float]:
        return await asyncio.gather(*map(sample, range(40)))

    assert asyncio.run(all_samples()) == [1.0] * 40


def test_reward_servers_get_the_same_query() -> None:
    posted: list[Any] = []

    async def post(*lists: list[str]) -> list[Any]:
        posted.append(lists)
        return [{"rewards": 1.0}]

    async def send() -> None:
        SAMPLED.set(Response(" 4", " 4</s>"))
        await post_response(post, ["not the prompt"], ["P"], ["4"])

    asyncio.run(send())
    assert posted == [(["P 4</s>"], ["P"], ["4"])]
