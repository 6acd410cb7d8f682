"""SFPO over a transformers model in a plain, single-process PyTorch loop: what every layout must reproduce."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from openrlhf_sfpo.sfpo import FastPart


def log_probs_of(model: Any, sample: Any, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies, fp32 [length - 1], of one unpadded sequence; zero outside the action mask."""
    logits = model(sample.tokens[None]).logits[0, :-1].float() / temperature
    log_p = torch.log_softmax(logits, dim=-1)
    chosen = log_p.gather(1, sample.tokens[1:, None]).squeeze(1)
    return chosen * sample.action_mask, -(log_p.exp() * log_p).sum(-1) * sample.action_mask


def load(path: str, dtype: torch.dtype = torch.float32) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")


def old_log_probs(path: str, samples: Sequence[Any]) -> list[torch.Tensor]:
    model = load(path)
    with torch.no_grad():
        return [log_probs_of(model, sample)[0] for sample in samples]


class Mains(torch.nn.Module):
    """fp32 copies of a 16-bit model's parameters, which the optimizer moves."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.values = torch.nn.ParameterList([parameter.detach().float() for parameter in model.parameters()])


class PlainSFPO:
    """The textbook loop. `train_batches` lists, for each optimizer step of a pass, the samples in it. With a 16-bit
    dtype the model computes in that, and fp32 main parameters are trained."""

    def __init__(
        self,
        path: str,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        max_norm: float = 1.0,
        clip: float = 0.2,
        entropy_coef: float = 0.0,
        dtype: torch.dtype = torch.float32,
        optimizer: str = "adam",
        frozen: str | None = None,
    ) -> None:
        self.model = load(path, dtype)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(frozen is None or frozen not in name)
        self.trained = self.model if dtype == torch.float32 else Mains(self.model)
        self.clip, self.max_norm, self.entropy_coef = clip, max_norm, entropy_coef
        decayed = [p for p in self.trained.parameters() if p.dim() > 1]
        rest = [p for p in self.trained.parameters() if p.dim() == 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer: torch.optim.Optimizer
        if optimizer == "adam":
            self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8)
        else:
            self.optimizer = torch.optim.SGD(groups, lr=lr)
        self.grad_norms: list[float] = []
        self.distances: list[dict[str, float]] = []  # from theta_0, at each optimizer step

    def update(
        self,
        train_batches: Sequence[Sequence[Any]],
        k: int,
        alpha: float,
        state: str = "maintain",
        preset: str = "sfpo",
    ) -> None:
        textbook_batch(
            self.trained,
            self.optimizer,
            len(train_batches),
            lambda step: self._gradients(train_batches[step]),
            lambda advance: self._step(),
            k,
            alpha,
            state,
            preset,
        )

    def predict(
        self, train_batches: Sequence[Sequence[Any]], k: int, alpha: float, retention: str, per: str, corrective: bool
    ) -> None:
        """A batch of PrePO."""
        numbers = list(range(len(train_batches)))
        for steps in [numbers] if per == "pass" else [[number] for number in numbers]:
            textbook_prediction(
                self.trained,
                self.optimizer,
                steps,
                lambda step: self._gradients(train_batches[step]),
                lambda advance: self._step(),
                k,
                alpha,
                "maintain",
                retention,
                corrective,
            )

    def move_outer(
        self, before: dict[str, torch.Tensor], memory: dict[str, torch.Tensor], momentum: float, lr: float
    ) -> None:
        """The outer momentum's move after a batch that began at `before`; `memory` is changed."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                delta = parameter - before[name]
                memory[name] = momentum * memory.get(name, torch.zeros_like(delta)) + delta
                parameter.copy_(before[name] + lr * (delta + momentum * memory[name]))

    def one_pass(self, train_batches: Sequence[Sequence[Any]]) -> None:
        for samples in train_batches:
            self._gradients(samples)
            self._step()

    def update_with_parts(
        self, train_batches: Sequence[Sequence[Any]], parts: Sequence[Sequence[Any]], whole: bool, k: int, alpha: float
    ) -> None:
        """SFPO whose fast passes train on `parts` of the train batches, with the divisors of these or of the whole."""
        slow = [p.detach().clone() for p in self.trained.parameters()]
        for _ in range(k):
            for part, batch in zip(parts, train_batches, strict=True):
                self._gradients(part, sum(int(one.action_mask.sum()) for one in (batch if whole else part)))
                self._step()
        with torch.no_grad():
            for parameter, before in zip(self.trained.parameters(), slow, strict=True):
                parameter.copy_(before + alpha * (parameter - before))
        self.one_pass(train_batches)

    def _gradients(self, samples: Sequence[Any], tokens: int | None = None) -> None:
        """Of the loss over `tokens` scored tokens, by default those of the samples."""
        self._refresh()
        self.model.zero_grad()
        tokens = tokens or sum(int(sample.action_mask.sum()) for sample in samples)
        ratios = []
        for sample in samples:
            log_probs, entropy = log_probs_of(self.model, sample)
            ratio = (log_probs - sample.old_log_probs).exp()
            clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
            gain = torch.minimum(ratio * sample.advantages, clipped * sample.advantages)
            loss = -((gain + self.entropy_coef * entropy) * sample.action_mask).sum() / tokens
            loss.backward()
            ratios.append(ratio.detach()[sample.action_mask].double())
        self._note(torch.cat(ratios), torch.cat([sample.advantages[sample.action_mask] for sample in samples]))
        if self.trained is not self.model:
            for main, parameter in zip(self.trained.parameters(), self.model.parameters(), strict=True):
                main.grad = parameter.grad.float()

    def _note(self, ratios: torch.Tensor, advantages: torch.Tensor) -> None:
        clipped = ratios.clamp(1 - self.clip, 1 + self.clip) * advantages < ratios * advantages
        self.distances.append(
            {
                "max_fast_kl": -ratios.log().mean().item(),
                "max_fast_clip_ratio": clipped.double().mean().item(),
                "min_fast_ess": (ratios.sum() ** 2 / (len(ratios) * ratios.square().sum())).item(),
            }
        )

    def _refresh(self) -> None:
        if self.trained is not self.model:
            with torch.no_grad():
                for main, parameter in zip(self.trained.parameters(), self.model.parameters(), strict=True):
                    parameter.copy_(main)

    def _step(self) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.max_norm)
        self.grad_norms.append(float(norm))
        self.optimizer.step()

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights by Hugging Face name; a tied lm_head.weight is left out."""
        self._refresh()
        tied = self.model.config.tie_word_embeddings
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if not (tied and n == "lm_head.weight")}


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weights[name].double().reshape(-1) for name in sorted(weights)])


def textbook_batch(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    gradients: Callable[[int], None],
    step: Callable[[bool], None],
    k: int,
    alpha: float,
    state: str,
    preset: str,
) -> None:
    """One rollout batch of `steps` train batches from the formulas, with copies of everything. `gradients(m)` computes
    those of train batch m, `step(advance)` applies them and, if told to, advances the schedule."""

    def one_pass(advance: bool, first: int = 0) -> None:
        for index in range(first, steps):
            gradients(index)
            step(advance)

    if k == 0 or preset == "grpo":
        return one_pass(True)
    if preset == "grpo_scaled_lr":
        return with_scaled_rate(optimizer, k * alpha + 1, one_pass)
    slow = copy.deepcopy(model.state_dict())
    slow_optimizer = copy.deepcopy(optimizer.state_dict())
    for index in range(k):
        one_pass(preset == "lookahead" and index == k - 1)
    if preset == "extragradient":
        gradients(0)
        _move(model, optimizer, slow, slow_optimizer, 0.0, state)
        step(True)
        return one_pass(True, first=1)
    if preset != "grpo_k_passes":
        _move(model, optimizer, slow, slow_optimizer, alpha, state)
    if preset != "lookahead":
        one_pass(True)
    return None


def textbook_prediction(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Sequence[int],
    gradients: Callable[[int], None],
    step: Callable[[bool], None],
    k: int,
    alpha: float,
    state: str,
    retention: str,
    corrective: bool,
) -> None:
    """PrePO on these train batches, from its formulas, coordinate by coordinate; each parameter is a tensor."""
    slow = copy.deepcopy(model.state_dict())
    slow_optimizer = copy.deepcopy(optimizer.state_dict())
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    observed: list[dict[str, np.ndarray]] = []
    for probe in range(2):
        before = {name: value.detach().clone() for name, value in trained}
        sums = {name: torch.zeros_like(value) for name, value in trained}
        kept = {name: 1.0 for name, _ in trained}
        for number in steps:
            gradients(number)
            for name, value in trained:
                (group,) = [one for one in optimizer.param_groups if any(value is other for other in one["params"])]
                if isinstance(optimizer, torch.optim.AdamW):
                    kept[name] *= 1 - group["lr"] * group["weight_decay"]
            step(probe == 1 and not corrective)
            for name, value in trained:  # the step may have clipped them
                assert value.grad is not None
                sums[name] += value.grad
        moved = {name: kept[name] * before[name] - value.detach() for name, value in trained}
        observed.append(
            {name: one.double().numpy() for name, one in (sums if retention == "gradient" else moved).items()}
        )
    with torch.no_grad():
        for name, value in trained:
            first, second = (one[name] for one in observed)
            small = abs(first) <= 1e-3 * np.sqrt((first**2).mean())
            r = second / np.where(small, 1.0, first)
            if retention == "tensor":
                r = np.full_like(first, (first * second).sum() / (first**2).sum())
            r = np.clip(r, -2.0, 3.0)
            whole = sum(r**power for power in range(k))
            half = 1.0 + r
            q = np.where(abs(half) <= 1e-8, 1.0, whole / np.where(abs(half) <= 1e-8, 1.0, half))
            q = np.where(small, 1.0, np.clip(q, 1.0, k / 2 + 1))
            value.copy_(slow[name] + torch.from_numpy(q).to(value.dtype) * (value - slow[name]))
    _move(model, optimizer, slow, slow_optimizer, alpha, state)
    if corrective:
        for number in steps:
            gradients(number)
            step(True)


def gate_openings(
    entropies: Sequence[float],
    kind: str,
    window: int,
    threshold: float,
    stop_step: int | None,
    warmup: int,
    patience: int,
    after: str,
    decay_steps: int,
) -> list[float]:
    """The gate's alpha scale for each batch, each computed from the whole series before it."""

    def fires(index: int) -> bool:
        if kind == "baseline":
            return fired[index]
        if index < max(window - 1, warmup) or kind == "off":
            return False
        seen = np.array(entropies[index + 1 - window : index + 1], dtype=float)
        z = (seen[-1] - seen.mean()) / (seen.std() + 1e-9)
        return bool(z >= threshold or (kind == "two_sided" and z <= -threshold))

    def closes(index: int) -> bool:
        return index + 1 >= patience and all(fires(index - back) for back in range(patience))

    # Against the values before that did not fire themselves.
    fired: list[bool] = []
    quiet: list[float] = []
    for index, entropy in enumerate(entropies):
        seen = np.array(quiet[-window:], dtype=float)
        enough = len(seen) == window and index >= warmup
        fired.append(bool(enough and (entropy - seen.mean()) / (seen.std() + 1e-9) >= threshold))
        quiet += [] if fired[-1] else [entropy]
    openings = []
    for batch in range(len(entropies)):
        closing = [index for index in range(batch) if closes(index)]
        opening = 1.0
        if stop_step is not None and batch >= stop_step:
            opening = 0.0
        elif after == "reopen":
            opening = 0.0 if batch and closes(batch - 1) else 1.0
        elif closing and after == "latch":
            opening = 0.0
        elif closing:
            opening = max(0.0, 1.0 - (batch - closing[0]) / (decay_steps + 1))
        openings.append(opening)
    return openings


def with_scaled_rate(optimizer: torch.optim.Optimizer, factor: float, one_pass: Callable[[bool], None]) -> None:
    """Run a pass at a multiple of the learning rate; a schedule that advances in the pass scales that rate."""
    for group in optimizer.param_groups:
        group["lr"] *= factor
    one_pass(True)
    for group in optimizer.param_groups:
        group["lr"] /= factor


def _move(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    slow: dict[str, Any],
    slow_optimizer: dict[str, Any],
    alpha: float,
    state: str,
) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(slow[name] + alpha * (value - slow[name]))
    now = optimizer.state_dict()
    kept: dict[int, dict[str, Any]] = copy.deepcopy(now["state"])
    if state == "restore":
        kept = slow_optimizer["state"]
    elif state == "reset":
        kept = {}
    elif state == "interpolate":
        for index, entries in kept.items():
            before = slow_optimizer["state"].get(index, {})
            for name in entries.keys() - {"step"}:
                if entries[name] is not None:
                    start = before.get(name, torch.zeros_like(entries[name]))
                    entries[name] = start + alpha * (entries[name] - start)
    optimizer.load_state_dict({**now, "state": kept})


STATE_MODES = ("maintain", "restore", "interpolate", "reset")


def with_old_log_probs(path: str, samples: list[Any]) -> list[Any]:
    for sample, log_probs in zip(samples, old_log_probs(path, samples), strict=True):
        sample.old_log_probs = log_probs
    return samples


def without_advantages(samples: Sequence[Any], numbers: Iterable[int]) -> list[Any]:
    """The samples, with advantages of zero for some."""
    found = list(samples)
    for number in numbers:
        found[number] = dataclasses.replace(found[number], advantages=torch.zeros_like(found[number].advantages))
    return found


def mean_advantage(sample: Any) -> float:
    return float((sample.advantages * sample.action_mask).sum() / sample.action_mask.sum())


def parts_of(train_batches: Sequence[Sequence[Any]], part: FastPart, number: int) -> list[list[Any]]:
    """What a rollout batch's fast passes train on, of each train batch, with the advantages weighted."""
    found = []
    for step, batch in enumerate(train_batches):
        weights = part.choose([mean_advantage(sample) for sample in batch], f"{number} {step}")
        found.append([dataclasses.replace(batch[i], advantages=batch[i].advantages * w) for i, w in weights.items()])
    return found


def recorded(directory: Path, samples: list[Any]) -> list[Any]:
    """The samples after a round trip through a rollout file; its rewards serve as advantages here."""
    from openrlhf_sfpo.megatron.data.batching import Sample
    from openrlhf_sfpo.rollout.recording import RolloutRecord, load_rollouts, save_rollouts

    records = [
        RolloutRecord(
            tokens=sample.tokens,
            action_mask=sample.action_mask,
            rollout_log_probs=sample.old_log_probs,
            reward=float(sample.advantages.sum() / sample.action_mask.sum()),
            score=0.0,
            truncated=False,
            prompt="",
            label="",
            info={},
        )
        for sample in samples
    ]
    return [
        Sample(
            record.tokens,
            record.action_mask,
            old_log_probs=record.rollout_log_probs,
            advantages=record.reward * record.action_mask.float(),
        )
        for record in load_rollouts(save_rollouts(directory, 1, records))
    ]


def updated_twice(model: str, batches: list[list[Any]], **how: Any) -> tuple[PlainSFPO, torch.Tensor]:
    """The plain loop after two rollout batches with K = 2 and alpha = 0.8, and its weights before them."""
    plain = PlainSFPO(model, lr=5e-5)
    start = flat(plain.weights())
    for _ in range(2):
        plain.update(batches, k=2, alpha=0.8, **how)
    return plain, start


def assert_same(weights: dict[str, torch.Tensor], plain: PlainSFPO, start: torch.Tensor) -> None:
    moved = (flat(plain.weights()) - start).norm()
    difference = (flat(weights) - flat(plain.weights())).norm()
    assert difference <= 1e-3 * moved
    assert difference <= 1e-6 * flat(weights).norm()
