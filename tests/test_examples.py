"""The examples that are not shell scripts around the trainer."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_model


def test_sfpo_in_trl(tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's real trainer, two rollout batches: the weights after each step are where SFPO has them."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    from transformers import TrainerCallback
    from trl_sfpo import ALPHA, SFPO, K, make_trainer

    class Recorder(TrainerCallback):
        """The weights at the end of each step; once before SFPO's callback and once after it."""

        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

        def on_train_begin(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
            self.on_step_end(model=model)

        def on_step_end(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
            self.seen.append(torch.cat([value.detach().view(-1).clone() for value in model.parameters()]))

    model = make_model(tmp_path / "model", "llama", vocab_size=49152)
    for file in smollm2.glob("*token*"):
        shutil.copy(file, model)
    before, after = Recorder(), Recorder()
    trainer = make_trainer(str(model), str(tmp_path / "out"), 2, [before, SFPO(), after], batch_size=8)
    monkeypatch.setattr(trainer, "reward_funcs", [lambda completions, **kwargs: [float(len(c)) for c in completions]])
    trainer.train()
    assert len(after.seen) == 2 * (K + 1) + 1
    for batch in range(2):
        start = batch * (K + 1)
        slow, fast, moved = after.seen[start], before.seen[start + K], after.seen[start + K]
        assert (fast - slow).norm() > 0
        torch.testing.assert_close(moved, slow + ALPHA * (fast - slow), rtol=0, atol=1e-7)
        for step in (*range(1, K), K + 1):
            assert torch.equal(before.seen[start + step], after.seen[start + step])
        assert not torch.equal(after.seen[start + K + 1], moved), "the slow pass"
