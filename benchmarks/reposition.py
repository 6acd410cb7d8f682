"""What SFPO's snapshot and reposition cost, compared with the authors' code and with a plain copy.

    python benchmarks/reposition.py [--sizes 10 30 100 300 1000] [--device cpu|cuda] [--out DIR]

For Llama models of about --sizes million fp32 parameters, in one run and in turn:

- ours: `SlowCopy.take`, then `SlowCopy.reposition`; and the same with the two norms of the `sfpo/displacement` metrics,
  which a training run computes; the other variants do not;
- two clones, as in the released SFPO code: a clone of all weights before the fast passes, another after them, a blend
  of the two into temporaries, copied back;
- plain copy: `Tensor.copy_` of the fewest bytes that have to move. A snapshot reads and writes every weight, a
  reposition reads two and writes one: five times the weights, which is what a copy of 2.5 times the weights moves.

Extra bytes are measured: the peak of live tensors minus what was alive before (memory.py). For the share of an
optimizer pass, the same run times forward and backward passes over --tokens tokens, in sequences of 256, and one AdamW
step. A pass over a rollout batch of T tokens takes at least T / --tokens times the former plus one of the latter.
Prints a table and writes it to reposition.md, with everything measured in reposition.json.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from machine import cpu_name, write_result
from memory import peak_bytes
from transformers import LlamaConfig, LlamaForCausalLM

from openrlhf_sfpo.sfpo import SlowCopy, TorchWeights
from openrlhf_sfpo.system.cpus import keep_freed_memory

ALPHA = 0.8
SEQUENCE = 256
BATCH_TOKENS = 65_536  # 128 responses of 512 tokens: a small rollout batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 30, 100, 300, 1000], help="millions of parameters")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, help="of the measured forward and backward pass; 512, on a GPU 16384")
    parser.add_argument("--out", type=Path, default=Path("."))
    args = parser.parse_args()
    args.tokens = args.tokens or (16_384 if args.device == "cuda" else 512)
    if args.device == "cpu":
        keep_freed_memory()  # as the actor does; otherwise page faults would dominate all measurements
    rows = []
    for size in args.sizes:
        print(f"{size} M parameters ...", flush=True)
        rows.append(measure(size, args.device, args.rounds, args.tokens))
    gpu = args.device == "cuda"
    result = {
        "date": str(date.today()),
        "command": f"python benchmarks/reposition.py --rounds {args.rounds} --tokens {args.tokens}",
        "machine": torch.cuda.get_device_name() if gpu else f"{cpu_name()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "rounds": args.rounds,
        "tokens": args.tokens,
        "rows": rows,
    }
    write_result(args.out, "reposition", result, as_table(result))


def measure(millions: int, device: str, rounds: int, tokens: int) -> dict[str, Any]:
    """Seconds and bytes of every variant, for one model."""
    model = make_model(millions).to(device)
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-6)
    slow_copy = SlowCopy(TorchWeights(optimizer))

    def ours(measure: bool = False) -> None:
        slow_copy.take()
        slow_copy.reposition(ALPHA, measure=measure)
        slow_copy.release()

    def with_norms() -> None:
        ours(measure=True)

    @torch.no_grad()
    def clones() -> None:
        slow = [weight.detach().clone() for weight in weights]
        fast = [weight.detach().clone() for weight in weights]
        for weight, before, after in zip(weights, slow, fast, strict=True):
            weight.copy_(before + ALPHA * (after - before))

    row: dict[str, Any] = {"parameters": sum(weight.numel() for weight in weights)}
    for function in (with_norms, clones):
        row[f"{function.__name__}_bytes"] = peak_bytes(function, device)
    row.update(interleaved([ours, with_norms, clones, plain_copy(weights)], device, rounds))
    row.update(interleaved([forward_and_backward(model, tokens), optimizer.step], device, 1))
    # An optimizer pass over a rollout batch, with a single optimizer step.
    row["pass"] = row["forward_and_backward"] * BATCH_TOKENS / tokens + row["step"]
    return row


def make_model(millions: int) -> LlamaForCausalLM:
    """A Llama of about so many million parameters, as deep as that takes."""
    hidden = {10: 256, 30: 512, 100: 768, 300: 1024, 1000: 2048}.get(millions, 2048)
    per_layer = 12 * hidden * hidden
    vocab = 8192
    layers = max(1, round((1e6 * millions - vocab * hidden) / per_layer))
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=hidden,
            intermediate_size=8 * hidden // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
            vocab_size=vocab,
            tie_word_embeddings=True,
        )
    )


def plain_copy(weights: list[torch.nn.Parameter]) -> Callable[[], None]:
    """A function that copies 2.5 times the weights to buffers of its own, whose pages are already mapped."""
    sources = [weight.detach().view(-1) for weight in weights]
    targets = [torch.zeros_like(source) for source in sources]

    def copy() -> None:
        for _ in range(2):
            for source, target in zip(sources, targets, strict=True):
                target.copy_(source)
        for source, target in zip(sources, targets, strict=True):
            half = source.numel() // 2
            target[:half].copy_(source[:half])

    return copy


def forward_and_backward(model: LlamaForCausalLM, tokens: int) -> Callable[[], None]:
    inputs = torch.randint(0, model.config.vocab_size, (tokens // SEQUENCE, SEQUENCE), device=model.device)

    def forward_and_backward() -> None:
        # On a GPU models train in bf16.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            loss = model(inputs, labels=inputs).loss
        loss.backward()

    return forward_and_backward


def interleaved(functions: list[Callable[[], Any]], device: str, rounds: int) -> dict[str, float]:
    """Median seconds of each function, called in turn, after one warm-up round."""
    seconds: dict[str, list[float]] = {function.__name__: [] for function in functions}
    for number in range(-1, rounds):
        for function in functions:
            synchronize(device)
            started = time.perf_counter()
            function()
            synchronize(device)
            if number >= 0:
                seconds[function.__name__].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def as_table(result: dict[str, Any]) -> str:
    heads = [
        "parameters",
        "ours",
        "with norms",
        "two clones",
        "plain copy",
        "time, ours / copy",
        "with norms / copy",
        "with norms / two clones",
        "extra bytes / weights, with norms",
        "two clones",
        f"with norms / a pass over {BATCH_TOKENS} tokens, extrapolated from {result['tokens']}",
    ]
    lines = [
        f"{result['machine']}, torch {result['torch']}, {result['date']}; medians of {result['rounds']} rounds.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
    ]
    for row in result["rows"]:
        size = 4 * row["parameters"]
        cells = [
            f"{row['parameters'] / 1e6:.0f} M",
            *(f"{1e3 * row[name]:.1f} ms" for name in ("ours", "with_norms", "clones", "copy")),
            f"{row['ours'] / row['copy']:.2f}",
            f"{row['with_norms'] / row['copy']:.2f}",
            f"{row['with_norms'] / row['clones']:.2f}",
            f"{row['with_norms_bytes'] / size:.3f}",
            f"{row['clones_bytes'] / size:.3f}",
            f"{100 * row['with_norms'] / row['pass']:.3f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
