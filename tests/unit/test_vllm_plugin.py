"""The plugin that vLLM loads in each of its processes, also in those of other programs."""

import sys
from types import ModuleType

import pytest

from openrlhf_sfpo.rollout import plugin


@pytest.fixture
def older_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM without weight transfer on the trainer's side, such as 0.22.1, which OpenRLHF 0.10.4 pins."""
    for name in ("vllm", "vllm.distributed", "vllm.distributed.weight_transfer"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))


@pytest.mark.usefixtures("older_vllm")
def test_a_vllm_of_another_version_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """It must start as without this package; the engines of a run must not."""
    plugin.register()
    assert "leaves this vLLM as it is: cannot import name" in caplog.text
    with pytest.raises(ImportError):
        plugin.prepare_vllm()
