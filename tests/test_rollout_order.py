"""--rollout.deterministic: the order of the rollouts does not tell which engine was faster."""

import random
from typing import Any

import pytest
import torch

from openrlhf_sfpo.orchestration.flash_attn_stub import install_if_missing


@pytest.fixture(scope="module")
def in_lasting_order() -> Any:
    install_if_missing()
    from openrlhf_sfpo.orchestration.rollouts import in_lasting_order

    return in_lasting_order


def experience(prompt: str, response: int) -> Any:
    from openrlhf.trainer.ppo_utils.experience import Experience

    return Experience(prompts=[prompt], sequences=torch.tensor([[*prompt.encode(), response]]))


def test_groups_have_one_order_however_they_arrive(in_lasting_order: Any) -> None:
    """A prompt that is in the batch twice included; responses keep their places within a group."""
    prompts = ["1+1=", "2+2=", "3+3=", "2+2=", "9-9="]
    groups = [[experience(prompt, 10 * number - 3 * row) for row in range(4)] for number, prompt in enumerate(prompts)]

    def shown(samples: list[Any]) -> list[list[int]]:
        return [sample.sequences[0].tolist() for sample in samples]

    orders = []
    for seed in range(20):
        random.Random(seed).shuffle(groups)
        ordered = shown(in_lasting_order([sample for group in groups for sample in group], 4))
        arrived = [shown(group) for group in groups]
        assert sorted(ordered[start : start + 4] for start in range(0, 20, 4)) == sorted(arrived)
        orders.append(ordered)
    assert all(order == orders[0] for order in orders)
