"""What leaving out samples without an advantage saves: the time of an SFPO update with and without them.

    python benchmarks/zero_advantage.py [--model DIR] [--groups 8] [--responses 4] [--rounds 3] [--out DIR]

On CPU, in fp32, with one rank and one optimizer step in a pass. A rollout batch has --groups prompts with --responses
responses of uneven lengths each; in a part of the groups all rewards are equal, so their advantages are zero. One actor
makes both updates in turn: skip (samples without an advantage are left out) and keep. Old
log-probabilities come from a forward pass before, over all samples, which is not in the time. Prints a table and writes
it to zero_advantage.md, with everything measured in zero_advantage.json.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from actor_update import ROOT, on_one_rank, random_sample
from machine import cpu_name, write_result

from openrlhf_sfpo.megatron.data.batching import Sample

PARTS = (0.0, 0.25, 0.5, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    parser.add_argument("--groups", type=int, default=8, help="prompts of a rollout batch")
    parser.add_argument("--responses", type=int, default=4, help="to each prompt")
    parser.add_argument("--longest", type=int, default=192, help="tokens of the longest sample")
    parser.add_argument("--k", type=int, default=1, help="fast passes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("."))
    args = parser.parse_args()
    result: dict[str, Any] = {
        "date": str(date.today()),
        "command": " ".join(["python benchmarks/zero_advantage.py", *sys.argv[1:]]),
        "machine": f"{cpu_name()}, {os.cpu_count()} processors",
        "settings": {**{name: value for name, value in vars(args).items() if name != "out"}, "model": args.model.name},
        "rows": measure(args),
    }
    write_result(args.out, "zero_advantage", result, as_table(result))


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    from openrlhf_sfpo.megatron.actor import MegatronActor
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.settings import ActorSettings

    on_one_rank()
    settings = ActorSettings(
        param_dtype=torch.float32,
        train_batch_size=args.groups * args.responses,
        max_tokens_per_gpu=1024,
        log_prob_chunk_size=256,
        num_threads=torch.get_num_threads(),
    )
    actor = MegatronActor(str(args.model), Layout(1, 1, 1), settings)
    generator = torch.Generator().manual_seed(0)
    vocabulary = actor.model_config.vocab_size
    pairs = [random_sample(args.longest, vocabulary, generator) for _ in range(args.groups * args.responses)]
    old = actor.forward([Sample(tokens, mask) for tokens, mask in pairs])
    advantages = torch.randn(len(pairs), generator=generator).tolist()
    rows = []
    for part in PARTS:
        equal = round(part * args.groups) * args.responses  # samples of groups with equal rewards
        samples = [
            Sample(tokens, mask, old_log_probs=log_probs, advantages=(0.0 if number < equal else value) * mask.float())
            for number, ((tokens, mask), log_probs, value) in enumerate(zip(pairs, old, advantages, strict=True))
        ]
        trained_on = sum(len(sample.tokens) for sample in samples[equal:]) / sum(len(s.tokens) for s in samples)
        seconds: dict[str, list[float]] = {"skip": [], "keep": []}
        update_in(actor, settings, samples, args.k)  # to warm up
        for _ in range(args.rounds):
            for name, skips in (("skip", True), ("keep", False)):
                seconds[name].append(update_in(actor, settings, samples, args.k, skips))
        found = {name: statistics.median(values) for name, values in seconds.items()}
        rows.append({"groups_with_equal_rewards": part, "tokens": trained_on, "seconds": seconds, **found})
        print(f"{part:.0%}: {found['skip']:.2f} s, {found['keep']:.2f} s", flush=True)
    return rows


def update_in(actor: Any, settings: Any, samples: list[Sample], k: int, skips: bool = False) -> float:
    """Seconds of an update. That the weights move does not change how much there is to compute."""
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    actor.settings = dataclasses.replace(settings, skip_zero_advantages=skips)
    update = SlowFastUpdate(actor.shards, k, 0.8, Gate("off"))
    started = time.perf_counter()
    actor.update(samples, PPOClipLoss(), update)
    return time.perf_counter() - started


def as_table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"{result['date']}, {result['machine']}. `{result['command']}`",
        "",
        "| groups with equal rewards | tokens trained on | seconds, skip | seconds, keep | skip/keep |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['groups_with_equal_rewards']:.0%} | {row['tokens']:.0%} | {row['skip']:.2f} | {row['keep']:.2f} | "
            f"{row['skip'] / row['keep']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
