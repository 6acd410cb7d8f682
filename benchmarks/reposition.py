"""What SFPO's snapshot and reposition cost, against the authors' way of doing it and against a plain copy.

    python benchmarks/reposition.py [--sizes 10 30 100 300 1000] [--device cpu|cuda] [--out DIR]

For weights of the given sizes (millions of fp32 parameters, cut into tensors of 4 M as a model of a few billion has
them), in one run and in turns:

- ours: `SlowCopy.take`, then `SlowCopy.reposition` with its norms;
- two clones: the released SFPO code's way, a clone of all weights before the fast passes, another after them, a blend
  of the two into temporaries, copied back;
- plain copy: `Tensor.copy_` of the least bytes that have to move. A snapshot reads and writes every weight, a
  reposition reads two and writes one: five times the weights, which is what a copy of 2.5 times the weights moves.

and, for the share of a training step, one AdamW step over the same weights (without the forward and backward pass that
a real one has). Extra bytes are those of the copies held. Prints a table, writes reposition.json.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from openrlhf_sfpo.megatron.cpu import keep_freed_memory
from openrlhf_sfpo.sfpo import SlowCopy, TorchWeights

ALPHA = 0.8
TENSOR = 4_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 30, 100, 300, 1000], help="millions of parameters")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("."))
    args = parser.parse_args()
    if args.device == "cpu":
        keep_freed_memory()  # as the actor does: otherwise page faults are most of what is measured, for all three
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    rows = [measure(size * 1_000_000, args.device, args.rounds) for size in args.sizes]
    print(f"{machine}, torch {torch.__version__}, {date.today()}; medians of {args.rounds} rounds\n")
    columns = (
        "parameters|ours|two clones|plain copy|ours / copy|ours / two clones|bytes, ours / two clones|ours / AdamW"
    )
    print(f"|{columns}|\n|{' --- |' * (columns.count('|') + 1)}")
    for row in rows:
        print(
            f"| {row['parameters'] / 1e6:.0f} M | {1e3 * row['ours']:.1f} ms | {1e3 * row['clones']:.1f} ms "
            f"| {1e3 * row['copy']:.1f} ms | {row['ours'] / row['copy']:.2f} | {row['ours'] / row['clones']:.2f} "
            f"| {row['ours_bytes'] / row['clones_bytes']:.2f} | {row['ours'] / row['adamw']:.2f} |"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine, "host": platform.machine(), "torch": torch.__version__, "rows": rows}
    (args.out / "reposition.json").write_text(json.dumps(result, indent=2) + "\n")


def measure(parameters: int, device: str, rounds: int) -> dict[str, Any]:
    count = max(1, parameters // TENSOR)
    weights = [torch.nn.Parameter(torch.randn(parameters // count, device=device) * 0.02) for _ in range(count)]
    optimizer = torch.optim.AdamW(weights, lr=1e-6)
    slow_copy = SlowCopy(TorchWeights(optimizer))
    taken: dict[str, int] = {}

    def ours() -> None:
        taken["ours_bytes"] = slow_copy.take()
        slow_copy.reposition(ALPHA)
        slow_copy.release()

    def clones() -> None:
        with torch.no_grad():
            slow = [weight.detach().clone() for weight in weights]
            fast = [weight.detach().clone() for weight in weights]
            for weight, before, after in zip(weights, slow, fast, strict=True):
                weight.copy_(before + ALPHA * (after - before))
            taken["clones_bytes"] = sum(tensor.numel() * 4 for tensor in [*slow, *fast])

    def adamw() -> None:
        optimizer.step()

    source = [torch.randn(parameters // count, device=device) for _ in range(min(count, 8))]
    target = [torch.empty_like(tensor) for tensor in source]

    def copy() -> None:
        left = 5 * parameters // 2
        while left:
            for to, origin in zip(target, source, strict=True):
                count = min(left, origin.numel())
                to[:count].copy_(origin[:count])
                left -= count

    row: dict[str, Any] = {"parameters": parameters, **interleaved([ours, clones, copy], device, rounds)}
    row.update(taken)
    del source[:], target[:]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    row.update(interleaved([adamw], device, 3))
    return row


def interleaved(functions: list[Callable[[], None]], device: str, rounds: int) -> dict[str, float]:
    """Median seconds of each function, called in turns after one round to warm up."""
    seconds: dict[str, list[float]] = {function.__name__: [] for function in functions}
    for number in range(rounds + 1):
        for function in functions:
            synchronize(device)
            started = time.perf_counter()
            function()
            synchronize(device)
            if number:
                seconds[function.__name__].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
