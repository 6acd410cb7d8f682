"""Runs of a comparison in one process each, without Ray, vLLM and Megatron-Core, to try many settings of the update.

    python examples/testbed/one_process.py CONFIG.yaml [--out DIRECTORY] [--parallel N]

CONFIG.yaml is as for `openrlhf-sfpo compare`; `openrlhf-sfpo report DIRECTORY` reads what this writes. The update is
this project's over a torch optimizer, in fp32, with GRPO's advantages and the clipped loss of the real system; the
model and its sampling are those of Transformers. A run takes a fraction of the time that the real system takes. Its
seconds say nothing about that system's: compare rollouts, passes and tokens, and with `--rollout_cost`.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from openrlhf_sfpo.cli.compare import plan
from openrlhf_sfpo.config.flags import SFPOConfig
from openrlhf_sfpo.orchestration.algorithm import build_update
from openrlhf_sfpo.report.console import Console, before_and_after
from openrlhf_sfpo.report.reading import read_metrics
from openrlhf_sfpo.report.run_writer import RunWriter
from openrlhf_sfpo.runs.parallel_runs import SETTINGS, PlannedRun, still_to_do
from openrlhf_sfpo.sfpo import Pass, SlowFastUpdate, TorchWeights
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.tasks.rewards import BUILTIN, load_reward

# Flags that are followed as in the real system, those that are without effect here, and those with their only value.
FOLLOWED = {
    *("actor.model_name_or_path", "actor.adam.lr", "actor.adam.betas", "actor.adam.eps", "actor.max_norm"),
    *("actor.eps_clip", "data.prompt_dataset", "data.input_key", "data.label_key", "data.max_samples"),
    *("eval.dataset", "eval.n_samples_per_prompt", "eval.steps", "reward.remote_url", "rollout.batch_size"),
    *("rollout.max_new_tokens", "rollout.n_samples_per_prompt", "run.dir", "train.batch_size", "train.seed"),
}
WITHOUT_EFFECT = ("vllm.", "run.kv_cache_mb", "data.max_len", "rollout.deterministic", "train.max_tokens_per_gpu")
ONLY = {
    "actor.lr_scheduler": "constant",
    "actor.num_gpus_per_node": 1,
    "ckpt.best_metric_key": "none",
    "eval.temperature": 1.0,
    "rollout.temperature": 1.0,
    "train.skip_zero_advantage": "auto",
}


def check(run: PlannedRun) -> None:
    """Refuse what would be another run in the real system.

    Raises:
        UsageError: naming the flag.
    """
    flat = vars(run.flat)
    for name in sorted(run.given):
        if name in ONLY and flat[name] != ONLY[name]:
            raise UsageError(f"--{name}", f"is {flat[name]!r}.", f"One process has only {ONLY[name]!r}.")
        if not (name in FOLLOWED or name in ONLY or name.startswith(("sfpo.", *WITHOUT_EFFECT))):
            raise UsageError(f"--{name}", "has no effect in one process.", "Use openrlhf-sfpo compare.")
    samples = flat["rollout.batch_size"] * flat["rollout.n_samples_per_prompt"]
    if samples % flat["train.batch_size"]:
        raise UsageError("--train.batch_size", f"is {flat['train.batch_size']}.", f"Use a divisor of {samples}.")


@dataclass
class Responses:
    """Sampled responses to a list of problems.

    Attributes:
        tokens: int64 [N, prompt + response], prompts padded on the left and responses on the right.
        attended: int64 of the same shape, 1 for tokens and 0 for padding.
        scored: bool [N, response], the responses' tokens with the end of the text.
        of: int64 [N], the numbers of the problems, ascending.
        rewards: fp32 [N].
    """

    tokens: torch.Tensor
    attended: torch.Tensor
    scored: torch.Tensor
    of: torch.Tensor
    rewards: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of each response, int64 [N]."""
        return self.scored.sum(1)


class Policy:
    """A causal language model with its tokenizer and the reward of its answers. The responses to a prompt share its
    keys and values, which have gradients in training."""

    def __init__(self, flat: dict[str, Any]) -> None:
        path = flat["actor.model_name_or_path"]
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        self.max_new_tokens = flat["rollout.max_new_tokens"]
        self._spec = flat["reward.remote_url"]
        self._reward: Callable[..., Any] = load_reward(self._spec)

    @torch.no_grad()
    def sample(self, problems: list[dict[str, str]], count: int, seed: int) -> Responses:
        """`count` responses to each problem, at temperature 1; at least one token before the end, as OpenRLHF asks."""
        torch.manual_seed(seed)
        prompts = [problem["prompt"] for problem in problems]
        encoded = self.tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        of = torch.arange(len(problems)).repeat_interleave(count)
        logits, cache = self._read(encoded.input_ids, encoded.attention_mask, of)
        logits[:, self.tokenizer.eos_token_id] = -torch.inf
        attended, going = encoded.attention_mask[of], torch.ones(len(of), dtype=torch.bool)
        drawn, scored = [], []
        while True:
            token = torch.where(going, logits.softmax(-1).multinomial(1)[:, 0], self.tokenizer.pad_token_id)
            drawn.append(token)
            scored.append(going)
            attended = torch.cat([attended, going[:, None]], 1)
            going = going & (token != self.tokenizer.eos_token_id)
            if len(drawn) == self.max_new_tokens or not going.any():
                break
            logits = self._continue(token[:, None], attended, cache)[:, -1]
        tokens = torch.cat([encoded.input_ids[of], torch.stack(drawn, 1)], 1)
        texts = self.tokenizer.batch_decode(torch.stack(drawn, 1), skip_special_tokens=True)
        rewards = self._rewards([problems[number] for number in of.tolist()], texts)
        return Responses(tokens, attended, torch.stack(scored, 1), of, rewards)

    def _rewards(self, problems: list[dict[str, str]], texts: list[str]) -> torch.Tensor:
        prompts, labels = ([problem[key] for problem in problems] for key in ("prompt", "label"))
        if self._spec in BUILTIN:
            return torch.tensor(BUILTIN[self._spec].grade(texts, labels)["rewards"])
        queries = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        return torch.tensor(self._reward(queries, prompts, labels))

    def log_probs(self, responses: Responses, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies, fp32 [rows, response], of some of the responses."""
        width = responses.scored.shape[1]
        tokens, attended = responses.tokens[rows], responses.attended[rows]
        prompts, of = responses.of[rows].unique(return_inverse=True)
        first = torch.searchsorted(responses.of, prompts)  # a response to each prompt
        read = responses.tokens[first, :-width], responses.attended[first, :-width]
        logits, cache = self._read(*read, of)
        logits = torch.cat([logits[:, None], self._continue(tokens[:, -width:-1], attended[:, :-1], cache)], 1)
        logs = logits.log_softmax(-1)
        entropies = -(logs.exp() * logs).sum(-1).detach()
        return logs.gather(-1, tokens[:, -width:, None])[..., 0], entropies

    def _read(
        self, tokens: torch.Tensor, attended: torch.Tensor, of: torch.Tensor
    ) -> tuple[torch.Tensor, DynamicCache]:
        """Logits [N, V] after the prompts, and a cache of their keys and values, for N responses to prompts `of`."""
        cache = DynamicCache(config=self.model.config)
        logits = self.model(
            tokens,
            attention_mask=attended,
            position_ids=_positions(attended),
            past_key_values=cache,
            logits_to_keep=1,
        ).logits[:, 0]
        cache.batch_select_indices(of)
        return logits[of], cache

    def _continue(self, tokens: torch.Tensor, attended: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Logits, fp32 [N, width, V], after each of the tokens, int64 [N, width], that follow those in the cache."""
        return self.model(
            tokens,
            attention_mask=attended,
            position_ids=_positions(attended)[:, -tokens.shape[1] :],
            past_key_values=cache,
        ).logits


def _positions(attended: torch.Tensor) -> torch.Tensor:
    """The tokens' positions in texts that are padded on the left."""
    return (attended.long().cumsum(1) - 1).clamp(min=0)


class Batch:
    """A rollout batch to train on: a `PassRunner`. Its train batches follow each other as they were sampled."""

    def __init__(
        self, policy: Policy, optimizer: torch.optim.Optimizer, flat: dict[str, Any], responses: Responses
    ) -> None:
        self._policy, self._optimizer, self._responses = policy, optimizer, responses
        self._clip, self._max_norm = flat["actor.eps_clip"], flat["actor.max_norm"]
        groups = responses.rewards.view(-1, flat["rollout.n_samples_per_prompt"])
        advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-9)
        self.advantages = advantages.flatten()
        self._train_batches = torch.arange(len(self.advantages)).split(flat["train.batch_size"])
        self._old: torch.Tensor | None = None
        self._entropy: float | None = None

    @property
    def train_batches(self) -> int:
        return len(self._train_batches)

    def zero_rewards(self) -> float:
        return (self._responses.rewards == 0).float().mean().item()

    def start_entropy(self) -> float:
        return float("nan") if self._entropy is None else self._entropy

    def run_pass(self, pass_: Pass) -> dict[str, float]:
        """See `openrlhf_sfpo.sfpo.PassRunner`. Samples without an advantage are left out: they have no gradient."""
        if self._old is None and (pass_.choose is not None or self.train_batches > 1):
            # A step would come before some samples' first pass, or that would see only some of them.
            every = self.advantages.nonzero()[:, 0]
            if len(every):
                with torch.no_grad():
                    self._keep(every, *self._policy.log_probs(self._responses, every))
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * pass_.learning_rate_factor
        wanted = range(self.train_batches) if pass_.train_batch is None else (pass_.train_batch,)
        steps: list[dict[str, float]] = []
        for number in wanted:
            self._optimizer.zero_grad(set_to_none=False)
            steps.append(self._gradient(pass_, number))
            if number == wanted[0]:
                pass_.before_first_step()
            parameters = list(self._policy.model.parameters())
            steps[-1]["actor_grad_norm"] = torch.nn.utils.clip_grad_norm_(parameters, self._max_norm).item()
            self._optimizer.step()
        return {
            **{name: torch.tensor([step[name] for step in steps]).nanmean().item() for name in steps[0]},
            "backward_tokens": sum(step["backward_tokens"] for step in steps),
            "actor_grad_norm": steps[-1]["actor_grad_norm"],
        }

    def _gradient(self, pass_: Pass, number: int) -> dict[str, float]:
        """Add the gradient of a train batch to the parameters'; the metrics of a step."""
        members = self._train_batches[number]
        advantages = self.advantages[members]
        divided_by = members
        if pass_.choose is not None:
            weights = pass_.choose(advantages.tolist(), number)
            chosen = torch.tensor(list(weights))
            advantages = torch.zeros_like(advantages).index_put((chosen,), torch.tensor(list(weights.values())))
            advantages *= self.advantages[members]
            divided_by = members if pass_.whole_divisors else members[chosen]
        divisor = self._responses.lengths[divided_by].sum().item()
        kept = advantages.nonzero()[:, 0]
        if not len(kept):
            return {"entropy": math.nan, "ppo_kl": 0.0, "clip_ratio": 0.0, "ess": 1.0, "backward_tokens": 0.0}
        return self._backward(members[kept], advantages[kept, None], divisor)

    def _backward(self, rows: torch.Tensor, advantages: torch.Tensor, divisor: float) -> dict[str, float]:
        """Add the gradient of some samples' loss (PPO, arXiv 1707.06347, equation 7) to the parameters'."""
        scored = self._responses.scored[rows]
        log_probs, entropies = self._policy.log_probs(self._responses, rows)
        if self._old is None:
            self._keep(rows, log_probs, entropies)
        assert self._old is not None
        log_ratio = torch.where(scored, log_probs - self._old[rows], 0.0)
        ratio = log_ratio.exp()
        free, clipped = ratio * advantages, ratio.clamp(1 - self._clip, 1 + self._clip) * advantages
        (-torch.minimum(free, clipped)[scored].sum() / divisor).backward()
        weights = ratio.detach()[scored]
        return {
            "entropy": entropies[scored].mean().item(),
            "ppo_kl": -log_ratio.detach()[scored].mean().item(),
            "clip_ratio": (clipped < free)[scored].float().mean().item(),
            "ess": (weights.mean() ** 2 / weights.square().mean()).item(),
            "backward_tokens": float(self._responses.attended[rows].sum()),
        }

    def _keep(self, rows: torch.Tensor, log_probs: torch.Tensor, entropies: torch.Tensor) -> None:
        """Keep what the policy at theta_0 gives the samples that can be trained on."""
        self._old = torch.zeros(self._responses.scored.shape).index_put((rows,), log_probs.detach())
        self._entropy = entropies[self._responses.scored[rows]].mean().item()


def train(flat: dict[str, Any], write: Callable[[dict[str, Any]], Any]) -> None:
    """One run; passes the events that `RunWriter` takes to `write`."""
    seed, size = flat["train.seed"], flat["rollout.batch_size"]
    problems = _read(flat["data.prompt_dataset"], flat)[: flat["data.max_samples"]]
    evaluated = _read(flat["eval.dataset"], flat)
    order = torch.randperm(len(problems), generator=torch.Generator().manual_seed(seed)).tolist()
    policy = Policy(flat)
    optimizer = torch.optim.AdamW(
        policy.model.parameters(),
        flat["actor.adam.lr"],
        flat["actor.adam.betas"],
        flat["actor.adam.eps"],
        weight_decay=0.0,
        fused=True,
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    config = SFPOConfig(**{field.name: flat[f"sfpo.{field.name}"] for field in fields(SFPOConfig)})
    update = build_update(config, TorchWeights(optimizer), lambda stage: None)
    steps = len(problems) // size
    for step in range(steps + 1):
        if step:
            chosen = [problems[i] for i in order[(step - 1) * size : step * size]]
            metrics = _step(policy, optimizer, update, flat, chosen, seed * 10**6 + 2 * step)
            write({"kind": "step", "step": step, "metrics": metrics})
        if step % flat["eval.steps"] == 0 or step == steps:
            rewards = policy.sample(evaluated, flat["eval.n_samples_per_prompt"], seed * 10**6 + 2 * step + 1).rewards
            write({"kind": "eval", "step": step, "metrics": {"eval_all_pass1": rewards.mean().item()}})


def _step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    update: SlowFastUpdate,
    flat: dict[str, Any],
    problems: list[dict[str, str]],
    seed: int,
) -> dict[str, Any]:
    """Sample, and update on, one rollout batch."""
    began = time.perf_counter()
    responses = policy.sample(problems, flat["rollout.n_samples_per_prompt"], seed)
    sampled = time.perf_counter()
    last, metrics = update.step(Batch(policy, optimizer, flat, responses))
    return {
        **last,
        **metrics,
        "total_length": responses.attended.sum(1).float().mean().item(),
        "rollout/num_samples": len(responses.rewards),
        "rollout/reward_mean": responses.rewards.mean().item(),
        "rollout/response_length_mean": responses.lengths.float().mean().item(),
        "timing/generation": sampled - began,
        "timing/step_total": time.perf_counter() - began,
    }


def _read(path: str, flat: dict[str, Any]) -> list[dict[str, str]]:
    """The problems of a JSONL file."""
    rows = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
    return [{"prompt": row[flat["data.input_key"]], "label": row[flat["data.label_key"]]} for row in rows]


def execute(run: PlannedRun) -> PlannedRun:
    """One run, into its directory."""
    torch.set_num_threads(1)
    run.directory.mkdir(parents=True)
    (run.directory / SETTINGS).write_text(json.dumps(run.settings, indent=1), encoding="utf-8")
    writer = RunWriter(run.directory, vars(run.flat))
    train(vars(run.flat), writer.handle)
    writer.close("finished")
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument("--out", type=Path, help="(default: runs/one_process_NAME_OF_CONFIG)")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="processes, each on one core (default: 1)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a flag for every run")
    args = parser.parse_args()
    out = args.out or Path("runs") / f"one_process_{args.config.stem}"
    try:
        runs = plan(args.config, out, args.set)
        for run in runs:
            check(run)
        todo = still_to_do(runs)
    except UsageError as error:
        print(f"one_process.py: error: {error}", file=sys.stderr)
        return 2
    console = Console()
    console.say(f"{len(runs)} runs in {out}, {len(runs) - len(todo)} of them finished")
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(args.parallel) as pool:
        for done, run in enumerate(pool.imap_unordered(execute, todo), 1):
            left = (time.monotonic() - began) / done * (len(todo) - done)
            console.say(f"{done}/{len(todo)} {run.name}; about {left / 60:.0f} min left")
            for sentence in before_and_after(read_metrics(run.directory)):
                console.plain(f"        {sentence}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
