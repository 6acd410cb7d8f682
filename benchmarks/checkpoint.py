"""What a checkpoint adds to a training step: in the background, synchronously, and with torch.save.

    python benchmarks/checkpoint.py [--model DIR] [--rollouts FILE.safetensors] [--rounds 5] [--out DIR]

One rank. A step is one GRPO update on a recorded rollout batch. The variants take turns in each round:

- no checkpoint: the step alone
- asynchronous: `CheckpointWriter.save`, then the step while the files are written (a run's default)
- synchronous: `CheckpointWriter.save(wait=True)`, then the step (--no-ckpt.async_save)
- torch.save: the same tensors into one file, flushed to the disk, without checksums or manifest, then the step

Writing that outlasts the step is awaited before the next measurement and reported separately.
Prints a table and writes it to checkpoint.md, with everything measured in checkpoint.json.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from actor_update import ROOT, on_one_rank, rollouts
from machine import cpu_name, write_result

MODES = ("no checkpoint", "asynchronous", "synchronous", "torch.save")


def main() -> None:
    args = parse()
    on_one_rank()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        result = {
            "date": str(date.today()),
            "command": " ".join(["python benchmarks/checkpoint.py", *sys.argv[1:]]),
            "machine": f"{cpu_name()}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            **measure(args, Path(directory)),
        }
    write_result(args.out, "checkpoint", result, as_table(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    parser.add_argument("--rollouts", type=Path, default=ROOT / "benchmarks" / "rollouts" / "gsm_symbolic.safetensors")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where checkpoints are written (default: the temporary one)")
    parser.add_argument("--out", type=Path, default=Path("."))
    return parser.parse_args()


def measure(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    from openrlhf_sfpo.megatron.actor import MegatronActor
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.settings import ActorSettings
    from openrlhf_sfpo.megatron.state.writer import CheckpointWriter, Saved
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    settings = ActorSettings(param_dtype=torch.float32, train_batch_size=args.samples, max_tokens_per_gpu=1024)
    actor = MegatronActor(str(args.model), Layout(), settings)
    update = SlowFastUpdate(actor.shards, 0, 0.8, Gate("off"))
    samples = rollouts(args)
    for sample, log_probs in zip(samples, actor.forward(samples), strict=True):
        sample.old_log_probs = log_probs
    saved: list[Saved] = []
    writer = CheckpointWriter(saved.append)

    def step() -> None:
        actor.update(samples, PPOClipLoss(), update)

    def before(mode: str, number: int) -> None:
        if mode == "torch.save":
            save_with_torch(actor, directory / f"step{number}.pt")
        elif mode != "no checkpoint":
            target = directory / f"global_step{number}"
            writer.save(target, lambda: actor.contents(number, {}, {}), wait=mode == "synchronous")

    step()  # creates Adam's moments
    return {
        "parameters": sum(shard.weight.numel() for shard in actor.shards.shards()),
        "tokens": sum(len(sample.tokens) for sample in samples),
        **in_turns(args.rounds, directory, before, step, writer, saved),
    }


def in_turns(
    rounds: int,
    directory: Path,
    before: Callable[[str, int], None],
    step: Callable[[], None],
    writer: Any,
    saved: list[Any],
) -> dict[str, Any]:
    """Seconds by mode, after a warm-up round: saving and step, training blocked, until the files are on disk."""
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    blocked: dict[str, list[float]] = {mode: [] for mode in MODES}
    whole: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(-1, rounds):
        for mode in MODES:
            started = time.perf_counter()
            before(mode, number + 2)
            waited = time.perf_counter() - started
            step()
            ended = time.perf_counter() - started
            writer.wait()
            assert not saved or saved[-1].error is None, saved[-1].error
            if number >= 0:
                seconds[mode].append(ended)
                blocked[mode].append(waited)
                whole[mode].append(saved[-1].seconds if mode.endswith("synchronous") else waited)
            print(f"round {number + 1}, {mode}: waited {waited:.2f} s, step ended after {ended:.2f} s", flush=True)
            size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) or None
            for path in directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if size and mode == "asynchronous":
                checkpoint_bytes = size
    return {"rounds": rounds, "seconds": seconds, "blocked": blocked, "whole": whole, "bytes": checkpoint_bytes}


def save_with_torch(actor: Any, path: Path) -> None:
    tensors = [(shard.weight, shard.state["exp_avg"], shard.state["exp_avg_sq"]) for shard in actor.shards.shards()]
    with path.open("wb") as file:
        torch.save([[tensor.detach().clone() for tensor in one] for one in tensors], file)
        file.flush()
        os.fsync(file.fileno())


def as_table(result: dict[str, Any]) -> str:
    medians = {mode: statistics.median(values) for mode, values in result["seconds"].items()}
    alone = medians["no checkpoint"]
    added = {mode: median - alone for mode, median in medians.items()}
    lines = [
        f"{result['machine']}, torch {result['torch']}, {result['date']}; medians of {result['rounds']} rounds. "
        f"{result['parameters'] / 1e6:.0f} M parameters, a checkpoint of {result['bytes'] / 1e9:.2f} GB, steps of "
        f"{result['tokens']} tokens.",
        "",
        "| | step, s | training waited, s | added to the step, s | added / synchronous | files there after, s |",
        "|" + " --- |" * 6,
    ]
    for mode in MODES:
        cells = [mode, f"{medians[mode]:.2f}"]
        if mode == "no checkpoint":
            cells += ["", "", "", ""]
        else:
            cells += [
                f"{statistics.median(result['blocked'][mode]):.2f}",
                f"{added[mode]:.2f}",
                f"{added[mode] / added['synchronous']:.2f}",
                f"{statistics.median(result['whole'][mode]):.2f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
