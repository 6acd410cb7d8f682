"""These tests run in verl's own virtual environment (run.sh), and are skipped in others."""

import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "support")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    with suppress(PackageNotFoundError):
        version("verl")
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="verl has a virtual environment of its own: tests/in_verl/run.sh"))
