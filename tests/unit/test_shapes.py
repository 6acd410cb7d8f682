"""The run-time checks of shapes and dtypes must find errors, and cover every seam."""

from typing import Annotated

import pytest
import shapes
import torch
from shapes import ShapeError

from openrlhf_sfpo.megatron.data.batching import Sample, pack
from openrlhf_sfpo.megatron.data.loss_types import LossNorm
from openrlhf_sfpo.megatron.train.loss import PPOClipLoss


def sample(length: int = 5, **fields: torch.Tensor) -> Sample:
    return Sample(torch.arange(length), torch.ones(length - 1, dtype=torch.bool), **fields)


def test_shape_checks_are_installed_once() -> None:
    shapes.install()
    assert hasattr(PPOClipLoss.__call__, "checks_shapes")
    assert shapes.install() == 0


@pytest.mark.parametrize(
    "wrong",
    [{"old_log_probs": torch.zeros(5)}, {"advantages": torch.zeros(4, dtype=torch.float64)}],
    ids=["as long as the tokens", "fp64"],
)
def test_a_wrong_field_of_a_sample(wrong: dict[str, torch.Tensor]) -> None:
    (name,) = wrong
    with pytest.raises(ShapeError, match=rf"Sample\.{name} is .*, and should be float32 length-1"):
        sample(**wrong)


def test_a_transposed_tensor_is_refused() -> None:
    fields = {"old_log_probs": torch.zeros(4), "advantages": torch.ones(4)}
    batch = pack([sample(**fields), sample(**fields)], "cpu")
    values = torch.zeros(2, 4)
    loss, _ = PPOClipLoss()(values, values, batch, LossNorm(8.0, 2.0))
    assert loss.shape == ()
    with pytest.raises(ShapeError, match=r"entropy is torch\.float32 \[4, 2\], and should be float32 batch actions"):
        PPOClipLoss()(values, values.T, batch, LossNorm(8.0, 2.0))


def test_tensors_in_containers_are_checked() -> None:
    def function(parts: list[Annotated[torch.Tensor, "int64 n"]]) -> dict[str, Annotated[torch.Tensor, "bool n"]]:
        return {"mask": parts[0] > 0}

    checked = shapes.checking(function)
    checked([torch.ones(3, dtype=torch.long), torch.ones(3, dtype=torch.long)])
    with pytest.raises(ShapeError, match=r"function: parts\[1\] is torch\.int64 \[4\]"):
        checked([torch.ones(3, dtype=torch.long), torch.ones(4, dtype=torch.long)])
