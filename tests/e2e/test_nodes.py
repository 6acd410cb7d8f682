"""Which machine each rank is on."""

import json
import subprocess
import sys

import pytest
from places import SUPPORT

from openrlhf_sfpo.cluster.nodes import divided_groups


@pytest.mark.slow
def test_neighboring_ranks_are_on_one_machine() -> None:
    """Three Ray nodes with six GPUs each, and one placement group for all of them."""
    command = [sys.executable, str(SUPPORT / "bundles_probe.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    for nodes in found.values():
        assert len(nodes) == 18
        assert [nodes.count(node) for node in set(nodes)] == [6, 6, 6]
    assert divided_groups(found["ours"], 6) == []
    assert divided_groups(found["ray"], 6), "what it is for is gone: Ray numbers bundles machine by machine"


def test_groups_on_several_machines_are_found() -> None:
    nodes = ["a"] * 3 + ["b"] * 5
    assert divided_groups(nodes, 1) == []
    assert divided_groups(nodes, 2) == [range(2, 4)]
    assert divided_groups(nodes, 4) == [range(0, 4)]
    assert divided_groups(["a", "a", "b", "b"], 2) == []
