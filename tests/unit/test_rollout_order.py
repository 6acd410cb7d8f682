"""--rollout.deterministic: the order of the rollouts must not depend on which engine was faster."""

import random
from typing import Any

import pytest
import torch

from openrlhf_sfpo.system.flash_attn_stub import install_if_missing


@pytest.fixture(scope="module")
def in_lasting_order() -> Any:
    install_if_missing()
    from openrlhf_sfpo.orchestration.sample_generator import in_lasting_order

    return in_lasting_order


def experience(prompt: str, response: int) -> Any:
    from openrlhf.trainer.ppo_utils.experience import Experience

    return Experience(prompts=[prompt], sequences=torch.tensor([[*prompt.encode(), response]]))


def test_groups_have_one_order_however_they_arrive(in_lasting_order: Any) -> None:
    """Even if a prompt is in the batch twice; responses must keep their places within a group."""
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


@pytest.mark.parametrize(
    ("adds", "prompt", "said"), [(True, "2 + 2", True), (True, "<s>2 + 2", False), (False, "2 + 2", False)]
)
def test_a_missing_start_token_is_reported(adds: bool, prompt: str, said: bool) -> None:
    from tokenizers import Tokenizer, processors
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    from openrlhf_sfpo.orchestration.sample_generator import missing_start

    words = Tokenizer(WordLevel({"<s>": 0, "2": 1, "+": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    if adds:
        words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    found = missing_start(PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>"), prompt)
    assert (found is not None) == said
    if said:
        assert "--data.input_template '<s>{}'" in found


def test_copies_of_a_prompt_are_one_prompt_in_evaluations(in_lasting_order: Any) -> None:
    from openrlhf_sfpo.orchestration.evaluation import Evaluated, evaluation_errors

    samples = []
    for prompt in ("1+1=", "2+2=", "1+1=", "2+2="):
        for reward in (0.0, 1.0):
            sample = experience(prompt, 0)
            sample.rewards = torch.tensor([reward if prompt == "2+2=" else 0.0])
            samples.append(sample)
    loader = [(["sums"] * 4, ["1+1=", "2+2=", "1+1=", "2+2="], [""] * 4, [None] * 4)]
    errors = evaluation_errors(Evaluated(samples, 2), loader)
    assert errors["eval_sums_prompts"] == 2
    assert errors["eval_sums_pass1_stderr"] == pytest.approx(0.25)
