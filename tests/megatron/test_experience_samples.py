"""The means of the numbers that OpenRLHF logs for each sample, over ranks with different samples and names."""

import math
from typing import Any

import pytest
from ranks import RankPool

# By rank, one dictionary for each sample. The third rank has no samples.
INFOS: list[list[dict[str, float]]] = [
    [{"reward": 0.1, "response_length": 2.0**40 + 1, "format": 1.0}, {"reward": 0.7, "response_length": 3.0}],
    [{"reward": 1 / 3, "response_length": 5.0, "boxed": 0.25}, {"reward": -7e-9, "response_length": 2.0**41}],
    [],
]


def means(infos: list[list[dict[str, float]]]) -> tuple[dict[str, float], list[Any]]:
    """This rank's means, and the objects that it sent to the others."""
    import torch.distributed as dist

    from openrlhf_sfpo.orchestration.experience_samples import mean_infos

    sent = []
    gather = dist.all_gather_object

    def recorded(into: list[Any], mine: Any) -> None:
        sent.append(mine)
        gather(into, mine)

    dist.init_process_group("gloo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_gather_object", recorded)
        return mean_infos(infos[dist.get_rank()]), sent


def test_means_are_over_the_samples_of_all_ranks_that_have_the_name(ranks: RankPool) -> None:
    results = ranks.run(3, means, INFOS)
    everything = [info for rank in INFOS for info in rank]
    wanted = {}
    for name in ("boxed", "format", "response_length", "reward"):
        values = [info[name] for info in everything if name in info]
        wanted[name] = math.fsum(values) / len(values)
    first = results[0][0]
    assert list(first) == list(wanted), "sorted by name"
    assert first == pytest.approx(wanted, rel=1e-14, abs=0)
    assert all(result == first for result, _ in results), "the same bits on every rank"


def test_names_alone_travel_as_objects(ranks: RankPool) -> None:
    """A rank's dictionaries would be sent to every other one, also to those that hold the same model copy."""
    sent = [objects for _, objects in ranks.run(3, means, INFOS)]
    assert sent == [[["format", "response_length", "reward"]], [["boxed", "response_length", "reward"]], [[]]]


def test_a_copy_of_the_samples_on_another_rank_does_not_change_the_means(ranks: RankPool) -> None:
    ((once, _),) = ranks.run(1, means, INFOS[:1])
    for twice, _ in ranks.run(2, means, [INFOS[0], INFOS[0]]):
        assert twice == pytest.approx(once, rel=1e-14, abs=0)


def test_without_samples_there_are_no_means_and_nan_stays(ranks: RankPool) -> None:
    assert [result for result, _ in ranks.run(2, means, [[], []])] == [{}, {}]
    for result, _ in ranks.run(2, means, [[{"return": math.nan, "reward": 1.0}], [{"return": 2.0, "reward": 0.0}]]):
        assert math.isnan(result["return"])
        assert result["reward"] == 0.5
