"""Comparisons in one process: the same log-probabilities, updates and run directories as elsewhere."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from reference import PlainSFPO, assert_same, flat, parts_of, without_advantages

from openrlhf_sfpo.cli import report
from openrlhf_sfpo.megatron.data.batching import Sample
from openrlhf_sfpo.sfpo import FastPart, Gate, SlowFastUpdate, TorchWeights
from openrlhf_sfpo.tasks.data import write_rows

sys.path.append(str(ROOT / "examples" / "testbed"))
import one_process
import prepare
import sums

CONFIG = """
base:
  actor: {{model_name_or_path: {0}/model, num_gpus_per_node: 1, lr_scheduler: constant}}
  sfpo.gate: 'off'
  vllm.num_engines: 1
  data: {{prompt_dataset: {0}/train.jsonl, input_key: prompt, label_key: label, max_samples: 8}}
  reward.remote_url: exact
  rollout: {{batch_size: 4, n_samples_per_prompt: 4, max_new_tokens: 3}}
  train.batch_size: 16
  eval: {{dataset: {0}/eval.jsonl, n_samples_per_prompt: 2, temperature: 1.0, steps: 1}}
  ckpt.best_metric_key: none
  {1}
variants:
  grpo: {{sfpo.preset: grpo}}
  part: {{sfpo.preset: sfpo, sfpo.k: 2, sfpo.fast_fraction: 0.5}}
seeds: [1, 2]
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model and problems of sums."""
    directory = tmp_path_factory.mktemp("task")
    prepare.make_random_model(directory / "model", 0, sums.TASK.characters)
    problems = sums.TASK.held_out(4)
    write_rows(sums.TASK.as_rows(problems), directory / "train.jsonl")
    write_rows(sums.TASK.as_rows(problems[:3]), directory / "eval.jsonl")
    return directory


def flags_of(task: Path, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(task, ""))
    return vars(one_process.plan(path, tmp_path / "out", [])[0].flat)


def test_log_probs_are_those_of_whole_sequences(task: Path, tmp_path: Path) -> None:
    flags = flags_of(task, tmp_path)
    policy = one_process.Policy(flags)
    responses = policy.sample(one_process._read(flags["data.prompt_dataset"], flags)[:5], 4, seed=1)
    assert [len(set(map(tuple, group.tolist()))) for group in responses.tokens[:, :-3].view(5, 4, -1)] == [1] * 5
    rows = torch.tensor([0, 3, 9, 10, 19])
    log_probs, entropies = policy.log_probs(responses, rows)
    for row, found, entropy in zip(rows.tolist(), log_probs, entropies, strict=True):
        sample = as_sample(responses, row)
        logs = policy.model(sample.tokens[None]).logits[0, :-1].log_softmax(-1)[sample.action_mask]
        count = len(logs)
        expected = logs.gather(1, sample.tokens[-count:, None])[:, 0]
        torch.testing.assert_close(found[:count], expected, rtol=0, atol=2e-6)
        torch.testing.assert_close(entropy[:count], -(logs.exp() * logs).sum(-1), rtol=0, atol=2e-6)


def as_sample(responses: Any, row: int, **fields: Any) -> Sample:
    """A response without padding."""
    tokens = responses.tokens[row][responses.attended[row].bool()]
    count = int(responses.lengths[row])
    mask = torch.zeros(len(tokens) - 1, dtype=torch.bool)
    mask[-count:] = True
    return Sample(tokens, mask, **fields)


@pytest.mark.parametrize("size", [16, 8])
@pytest.mark.parametrize("part", [FastPart(), FastPart(0.5), FastPart(0.4, "random", rescale=True)], ids=str)
def test_updates_equal_a_plain_loop(task: Path, tmp_path: Path, part: FastPart, size: int) -> None:
    flags = {**flags_of(task, tmp_path), "rollout.n_samples_per_prompt": 4, "train.batch_size": size}
    policy = one_process.Policy(flags)
    responses = policy.sample(one_process._read(flags["data.prompt_dataset"], flags)[:4], 4, seed=1)
    responses.rewards = (torch.arange(16) % 3 == 0).float()
    responses.rewards[:4] = 1.0  # a group without advantages
    optimizer = torch.optim.AdamW(policy.model.parameters(), 5e-5, (0.9, 0.95), weight_decay=0.0)
    optimizer.param_groups[0]["initial_lr"] = 5e-5
    batch = one_process.Batch(policy, optimizer, flags, responses)
    log_probs = policy.log_probs(responses, torch.arange(16))[0].detach()
    samples = []
    for row, advantage in enumerate(batch.advantages.tolist()):
        sample = as_sample(responses, row)
        sample.advantages = advantage * sample.action_mask
        sample.old_log_probs = torch.zeros(len(sample.action_mask))
        sample.old_log_probs[sample.action_mask] = log_probs[row, : int(responses.lengths[row])]
        samples.append(sample)
    assert without_advantages(samples, range(4))[0].advantages.tolist() == samples[0].advantages.tolist()
    plain = PlainSFPO(flags["actor.model_name_or_path"], lr=5e-5, weight_decay=0.0)
    start = flat(plain.weights())
    train_batches = [samples[first : first + size] for first in range(0, 16, size)]
    plain.update_with_parts(train_batches, parts_of(train_batches, part, 0), part.rescale, 2, 0.8)
    update = SlowFastUpdate(TorchWeights(optimizer), 2, 0.8, Gate("off"), part=part)
    last, _ = update.step(batch)
    assert_same({name: value.detach() for name, value in policy.model.named_parameters()}, plain, start)
    assert last["actor_grad_norm"] == pytest.approx(plain.grad_norms[-1], rel=1e-4)


def test_a_comparison_that_the_report_reads(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(CONFIG.format(task, ""))
    monkeypatch.setattr(sys, "argv", ["one_process.py", str(config), "--out", str(out)])
    assert one_process.main() == 0
    runs = sorted((out / "runs").iterdir())
    assert [run.name for run in runs] == ["grpo_seed=1", "grpo_seed=2", "part_seed=1", "part_seed=2"]
    lines = [json.loads(line) for line in (runs[2] / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert lines[-1]["rollouts_total"] == 32
    assert lines[-1]["sfpo/backward_passes_total"] == 6
    assert all("eval/all_pass1" in line for line in lines)
    before = [(run / "metrics.jsonl").read_bytes() for run in runs]
    assert one_process.main() == 0
    assert [(run / "metrics.jsonl").read_bytes() for run in runs] == before, "finished runs are not repeated"
    assert report.main([str(out), "--rollout_cost", "3"]) == 0
    assert "part" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("actor.entropy_coef: 0.1", "--actor.entropy_coef: has no effect in one process. Use openrlhf-sfpo compare."),
        ("rollout.temperature: 0.5", "--rollout.temperature: is 0.5. One process has only 1.0."),
        ("train.batch_size: 5", "--train.batch_size: is 5. Use a divisor of 16."),
        ("sfpo.nothing: 8", "sfpo.nothing"),
    ],
)
def test_what_would_be_another_run_is_refused(
    task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    message: str,
) -> None:
    config = tmp_path / "config.yaml"
    name = line.partition(":")[0]
    text = "".join(one for one in CONFIG.splitlines(keepends=True) if not one.strip().startswith(name))
    config.write_text(text.format(task, line))
    monkeypatch.setattr(sys, "argv", ["one_process.py", str(config), "--out", str(tmp_path / "out")])
    assert one_process.main() == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
