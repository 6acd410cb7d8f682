"""Fixtures: processes that play ranks, small random models, the pretrained model, and what is skipped where."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import RankPool

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Rank processes, shared by all tests."""
    pool = RankPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The pretrained model of the quickstart, made once and kept beside the repository's other caches."""
    from openrlhf_sfpo.tasks.smollm2 import make

    return make(ROOT / "models" / "SmolLM2-135M-Instruct")
