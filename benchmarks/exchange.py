"""What it costs to move a step's samples to the ranks that train on them: bytes sent, and seconds.

    python benchmarks/exchange.py [--samples 512] [--longest 2048] [--passes 4] [--ranks 1 2 4 8] [--out DIR]

CPU processes joined by gloo, without a model. A step requests the micro-batches for old log-probabilities, returns the
results to the owners, and requests the micro-batches of every pass of the update. Compared are

- ours: each rank gets the samples that it trains on, packed once for scoring and all passes
- gathered: every rank gets all samples, for scoring and again for the update, and packs them in each pass. This is what
  version 0.1 did, repeated here; results come back as pickled tensors

Bytes are what was sent over the loopback interface in a step (/proc/net/dev, all ranks together), divided by the number
of ranks. The minimum over --rounds counts, because other traffic on the machine can only add to it. Prints a table and
writes it to exchange.md, with everything measured in exchange.json.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import cpu_name, write_result

from openrlhf_sfpo.megatron.data.batching import PackSharding, Sample, pack, plan_micro_batches, plan_train_batches
from openrlhf_sfpo.system.ports import free_port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512, help="of a rollout batch, over all ranks")
    parser.add_argument("--longest", type=int, default=2048, help="tokens of the longest sample")
    parser.add_argument("--passes", type=int, default=4, help="traversals of the update, K + 1")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("."))
    args = parser.parse_args()
    result: dict[str, Any] = {
        "date": str(date.today()),
        "command": " ".join(["python benchmarks/exchange.py", *sys.argv[1:]]),
        "machine": f"{cpu_name()}, {os.cpu_count()} processors",
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "ranks": {},
    }
    for ranks in args.ranks:
        print(f"{ranks} ranks", flush=True)
        queue: Any = torch.multiprocessing.get_context("spawn").Queue()
        torch.multiprocessing.spawn(measure, args=(ranks, free_port(), args, queue), nprocs=ranks)
        result["ranks"][ranks] = queue.get()
    write_result(args.out, "exchange", result, as_table(result))


def measure(rank: int, ranks: int, port: int, args: argparse.Namespace, queue: Any) -> None:
    """Measure on one rank; rank 0 reports."""
    from openrlhf_sfpo.megatron import cpu
    from openrlhf_sfpo.megatron.layout import Layout, start_distributed
    from openrlhf_sfpo.megatron.settings import ActorSettings

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    cpu.install()
    with cpu.device_scope():
        start_distributed(Layout(), use_cuda=False, timeout=timedelta(minutes=10))
    settings = ActorSettings(train_batch_size=args.samples, max_tokens_per_gpu=8192)
    own = samples_of(rank, ranks, args)
    found = {}
    for name, step in (("ours", ours), ("gathered", gathered)):
        # One more round to warm up: the first one allocates memory from the system.
        measured = functools.partial(step, Layout(), settings, own, args.passes)
        _, *rounds = [timed(measured) for _ in range(args.rounds + 1)]
        found[name] = {
            "bytes_per_rank": min(sent for sent, _ in rounds) / ranks,
            "seconds": statistics.median(seconds for _, seconds in rounds),
        }
    if rank == 0:
        queue.put(found)
    dist.barrier()
    dist.destroy_process_group()


def samples_of(rank: int, ranks: int, args: argparse.Namespace) -> list[Sample]:
    """This rank's samples, with the fields that an update needs and uniformly drawn lengths."""
    generator = torch.Generator().manual_seed(rank)
    samples = []
    for _ in range(args.samples // ranks):
        length = int(torch.randint(args.longest // 8, args.longest + 1, (), generator=generator))
        mask = torch.arange(1, length) >= args.longest // 16
        tokens = torch.randint(100_000, (length,), generator=generator)
        samples.append(Sample(tokens, mask, advantages=mask.float(), rollout_log_probs=-mask.float()))
    return samples


def timed(step: Callable[[], None]) -> tuple[int, float]:
    """Bytes sent over the loopback interface while all ranks make a step, and the seconds it took."""
    dist.barrier()
    time.sleep(0.2)
    before, started = loopback_bytes(), time.perf_counter()
    step()
    seconds = time.perf_counter() - started
    dist.barrier()
    return loopback_bytes() - before, seconds


def loopback_bytes() -> int:
    """Bytes sent over the loopback interface since boot."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.strip().startswith("lo:")]
    return int(line.split(":")[1].split()[8])


def ours(layout: Any, settings: Any, own: list[Sample], passes: int) -> None:
    from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch

    scored = RolloutBatch(layout, settings, [Sample(sample.tokens, sample.action_mask) for sample in own])
    results = {}
    for members in scored.micro_batches(0)[0]:
        results.update({number: torch.zeros(scored.length(number) - 1) for number in members})
    batch = RolloutBatch(layout, settings, with_old(own, scored.to_owners(results)), scored)
    for _ in range(passes):
        batch.micro_batches(0)


def with_old(own: list[Sample], log_probs: list[torch.Tensor]) -> list[Sample]:
    return [Sample(**{**vars(one), "old_log_probs": old}) for one, old in zip(own, log_probs, strict=True)]


def gathered(layout: Any, settings: Any, own: list[Sample], passes: int) -> None:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    everything = all_of([Sample(sample.tokens, sample.action_mask) for sample in own])
    plan = plan_of(everything, settings)
    results = {}
    for members in plan[0][rank]:
        pack([everything[rank_of][n] for rank_of, n in members], "cpu", PackSharding())
        results.update({pair: torch.zeros(len(everything[pair[0]][pair[1]].tokens) - 1) for pair in members})
    parts: list[Any] = [None] * ranks
    dist.all_gather_object(parts, results)
    back = {pair: value for part in parts for pair, value in part.items()}
    everything = all_of(with_old(own, [back[rank, index] for index in range(len(own))]))
    plan = plan_of(everything, settings)
    for _ in range(passes):
        for members in plan[0][rank]:
            pack([everything[rank_of][n] for rank_of, n in members], "cpu", PackSharding())


def all_of(own: list[Sample]) -> list[list[Sample]]:
    """Gather every rank's samples on every rank, packed into a few long tensors."""
    names = [name for name, value in vars(own[0]).items() if isinstance(value, torch.Tensor)]
    flat = {name: torch.cat([getattr(sample, name) for sample in own]) for name in names}
    flat["tokens"] = flat["tokens"].to(torch.int32)
    flat["lengths"] = torch.tensor([len(sample.tokens) for sample in own])
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, flat)
    found = []
    for part in parts:
        lengths = part.pop("lengths").tolist()
        tokens = part.pop("tokens").long().split(lengths)
        shorter = [length - 1 for length in lengths]
        fields = {name: value.split(shorter) for name, value in part.items()}
        found.append(
            [Sample(tokens[i], **{name: value[i] for name, value in fields.items()}) for i in range(len(lengths))]
        )
    return found


def plan_of(everything: list[list[Sample]], settings: Any) -> Any:
    """The micro-batches; each sample is a pair of its rank and its index there."""
    pairs = [(rank, index) for rank, samples in enumerate(everything) for index in range(len(samples))]
    lengths = [[len(sample.tokens) for sample in samples] for samples in everything]
    batches = plan_train_batches(lengths, settings.train_batch_size)
    plan = plan_micro_batches(lengths, batches, settings.max_tokens_per_gpu)
    return [[[[pairs[n] for n in members] for members in rank] for rank in step] for step in plan]


def as_table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['date']}, {result['machine']}. `{result['command']}`",
        "",
        "| data-parallel ranks | MB sent per rank, ours | gathered | ours/gathered | seconds, ours | gathered | "
        "ours/gathered |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for ranks, found in result["ranks"].items():
        a, b = found["ours"], found["gathered"]
        sent = "" if not b["bytes_per_rank"] else f"{a['bytes_per_rank'] / b['bytes_per_rank']:.2f}"
        lines.append(
            f"| {ranks} | {a['bytes_per_rank'] / 1e6:.1f} | {b['bytes_per_rank'] / 1e6:.1f} | {sent} | "
            f"{a['seconds']:.2f} | {b['seconds']:.2f} | {a['seconds'] / b['seconds']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
