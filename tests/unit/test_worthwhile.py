"""Batches of groups that teach something: refill, order, the data's end, continuing."""

import argparse
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_sfpo.orchestration.worthwhile import BatchSize, WorthwhilePrompts, without_equal_groups
from openrlhf_sfpo.rollout.batch_metrics import attach, take
from openrlhf_sfpo.rollout.greso import Greso, GresoSettings, key_of

SIZE = 4


def prompts_of(numbers: range, batch: int = 1) -> Iterator[Any]:
    for start in range(numbers.start, numbers.stop, batch):
        texts = [f"prompt {number}" for number in range(start, min(start + batch, numbers.stop))]
        yield ["data"] * len(texts), texts, ["label"] * len(texts), [None] * len(texts)


def answers(wanted: list[Any], useful: Any, reverse: bool = False) -> list[Experience]:
    """A group for each prompt, in the given order or the other one."""
    found: list[Experience] = []
    for _, (text,), (label,), _ in reversed(wanted) if reverse else wanted:
        differs = useful(int(text.split()[1]))
        found += [
            Experience(
                prompts=[text],
                labels=[label],
                rewards=torch.tensor([float(differs and sample % 2)]),
                scores=torch.tensor([float(differs and sample % 2)]),
                info={},
            )
            for sample in range(SIZE)
        ]
    return found


def worthwhile(groups: int = 8, unit: int = 1, multiple: bool = False, **settings: Any) -> WorthwhilePrompts:
    sizes = {"round_prompts": groups, "min_round_prompts": 2, **settings}
    episodes = sizes.pop("episodes", 1)
    return WorthwhilePrompts(Greso(GresoSettings(**sizes), 1), groups, BatchSize(SIZE, unit, multiple), episodes)


def fill(prompts: WorthwhilePrompts, data: Iterator[Any], useful: Any, reverse: bool = False) -> tuple[Any, list[int]]:
    batch, rounds = prompts.new_batch(), []
    while not batch.is_complete:
        wanted = batch.draw(data)
        rounds.append(len(wanted))
        batch.add(answers(wanted, useful, reverse))
        assert len(rounds) < 50, "the refill ends"
    return batch, rounds


def numbers_of(batch: Any) -> list[int]:
    return [int(sample.prompts[0].split()[1]) for sample in batch.samples[::SIZE]]


@pytest.mark.parametrize("reverse", [False, True])
def test_rounds_until_the_batch_is_full(reverse: bool) -> None:
    """Whatever the order of the answers. Every second prompt is useful: after 8 prompts 4 groups are missing, for which
    10 prompts are drawn, at most 8."""
    prompts = worthwhile()
    batch, rounds = fill(prompts, prompts_of(range(100)), lambda number: number % 2, reverse)
    assert rounds == [8, 8]
    assert numbers_of(batch) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert (batch.consumed, batch.exhausted) == (16, False)
    metrics = prompts.end_batch()
    assert metrics["greso/rounds"] == 2
    assert metrics["greso/zero_variance_ratio"] == 0.5
    assert metrics["greso/hard_ratio"] == 0.5


def test_the_last_round_may_leave_the_batch_short() -> None:
    """After 8 prompts one group is missing, and two prompts are to give it, which they do not."""
    batch, rounds = fill(worthwhile(), prompts_of(range(100)), lambda number: number not in (3, 8, 9))
    assert rounds == [8, 2]
    assert numbers_of(batch) == [0, 1, 2, 4, 5, 6, 7]


def test_what_a_batch_does_not_need_is_left_out() -> None:
    batch, rounds = fill(worthwhile(round_prompts=12), prompts_of(range(100), batch=5), lambda number: True)
    assert rounds == [15], "a batch of the loader is drawn whole"
    assert numbers_of(batch) == list(range(8))


@pytest.mark.parametrize(("unit", "multiple", "kept"), [(1, False, 7), (29, False, 0), (8, True, 6), (12, True, 6)])
def test_batches_that_the_actor_can_train_on(unit: int, multiple: bool, kept: int) -> None:
    """At the data's end there are 7 groups of 4."""
    batch, _ = fill(worthwhile(unit=unit, multiple=multiple), prompts_of(range(8)), lambda number: number < 7)
    assert batch.exhausted
    assert numbers_of(batch) == list(range(kept))


def test_too_few_groups_at_the_end_of_an_episode_begin_the_next_one() -> None:
    prompts = worthwhile(episodes=2)
    batch, _ = fill(prompts, prompts_of(range(6)), lambda number: number != 2)
    assert batch.exhausted
    assert batch.samples == []
    batch, _ = fill(prompts, prompts_of(range(10, 20)), lambda number: True)
    assert numbers_of(batch) == [0, 1, 3, 4, 5, 10, 11, 12]
    batch, _ = fill(prompts, prompts_of(range(3)), lambda number: True)
    assert batch.exhausted
    assert numbers_of(batch) == [0, 1, 2], "there is no other episode"


def test_refilling_ends_with_the_data_where_nothing_is_useful() -> None:
    prompts = worthwhile()
    batch, rounds = fill(prompts, prompts_of(range(100)), lambda number: False)
    assert batch.exhausted
    assert batch.samples == []
    assert sum(rounds) == 100
    assert prompts.greso.epoch == 1
    _, rounds = fill(prompts, prompts_of(range(100)), lambda number: False)
    assert 30 < sum(rounds) < 70, "half of the prompts that taught nothing are skipped"
    assert prompts.greso.epoch == 2
    for _ in range(20):
        _, rounds = fill(prompts, prompts_of(range(100)), lambda number: False)
    assert sum(rounds) < 15


def test_the_end_of_the_data_is_counted_once() -> None:
    """A run that is continued at the end of an episode sees the end again."""
    prompts, other = worthwhile(), worthwhile()
    batch, _ = fill(prompts, prompts_of(range(6)), lambda number: True)
    assert batch.exhausted
    other.load_state_dict(prompts.state_dict(), at_end=True)
    again, _ = fill(other, iter(()), lambda number: True)
    assert again.exhausted
    assert again.samples == []
    assert other.greso.epoch == prompts.greso.epoch == 1
    fill(other, prompts_of(range(6)), lambda number: True)
    assert other.greso.epoch == 2


def test_settings_come_from_the_flags() -> None:
    from openrlhf_sfpo.config.flag_table import defaults
    from openrlhf_sfpo.config.namespaces import nested

    others = {"rollout.batch_size": 100, "rollout.n_samples_per_prompt": 8, "train.seed": 3, "train.batch_size": 400}
    others |= {
        "actor.backend": "deepspeed",
        "algo.greso.p_hard": 0.3,
        "algo.greso.enable": True,
        "train.num_episodes": 2,
    }
    args = nested(argparse.Namespace(**{**defaults("algo.greso"), **others}))
    found = WorthwhilePrompts.of(args)
    assert found is not None
    assert found.greso.settings.round_prompts == 100
    assert found.greso.settings.min_round_prompts == 25
    assert (found.greso.p_easy, found.greso.p_hard) == (0.5, 0.3)
    assert found.size.usable(99) == 50, "DeepSpeed takes whole train batches"
    args.algo.greso.enable = False
    assert WorthwhilePrompts.of(args) is None


def test_metrics_travel_with_the_samples() -> None:
    samples = answers([("", ("prompt 1",), ("a",), "")], lambda number: True)
    samples[0].info["reward"] = torch.tensor([1.0])
    attach(samples, {"rollout/num_sampled": 7.0})
    assert take(samples) == {"rollout/num_sampled": 7.0}
    assert [list(sample.info) for sample in samples] == [["reward"], [], [], []]
    assert take(samples) == {}


def test_keys_tell_problems_apart() -> None:
    assert key_of("a", "b") == key_of("a", "b")
    assert len({key_of("a", "b"), key_of("ab", ""), key_of("", "ab"), key_of("a", "")}) == 4


@pytest.mark.parametrize(("unit", "multiple", "kept"), [(1, False, 3), (12, False, 3), (13, False, 0), (8, True, 2)])
def test_equal_groups_are_left_out(unit: int, multiple: bool, kept: int) -> None:
    samples = answers(list(prompts_of(range(5))), lambda number: number in (0, 2, 3))
    left, dropped = without_equal_groups(samples, BatchSize(SIZE, unit, multiple))
    assert [int(sample.prompts[0].split()[1]) for sample in left[::SIZE]] == [0, 2, 3][:kept]
    assert (len(left), dropped) == (kept * SIZE, 2)
