"""The Megatron actor on one GPU: correct numbers, reposition, throughput, memory.

    python benchmarks/gpu_actor.py [--device cuda] [--parameters 1500] [--rounds 5] [--out DIR]

Needs torch, megatron-core, transformers and safetensors, and uses Transformer Engine and flash-attn if they are
installed; needs no Ray, vLLM or OpenRLHF. Models are random. Each part runs in its own process:

- update: two SFPO updates (K = 2) of a small model on the device, compared with the same updates on the CPU, in fp32
  and bf16, with every available kind of layer and attention
- reposition: `SlowCopy.take` and `SlowCopy.reposition` of the large model's fp32 shards, compared with a
  device-to-device copy of as many bytes, which shows the memory bandwidth
- pass: a fast pass (forward, backward, optimizer) of the large model over --tokens tokens: tokens per second, model
  FLOPs utilization, and peak memory compared with what `openrlhf-sfpo plan` predicts

FLOPs per token are 6 for each parameter that multiplies it, plus 12 x layers x query width x positions it attends to
(Chowdhery et al. 2022, arXiv 2204.02311, appendix B, with half the positions since attention is causal). Recomputation
does not count. Utilization is relative to --peak_tflops, and to a large matrix product measured in the same run.
Prints a table and writes it to gpu_actor.md, with everything measured in gpu_actor.json.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from machine import cpu_name, write_result

from openrlhf_sfpo.megatron.settings import Attention, LayerSpec
from openrlhf_sfpo.report.tables import Table

SMALL: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
SEQUENCE = 2048


def main() -> None:
    args = parse()
    if args.job:
        print("RESULT " + json.dumps(globals()[f"job_{args.job}"](args, Path(args.directory), **json.loads(args.what))))
        return
    gpu = args.device == "cuda"
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        result = {
            "date": str(date.today()),
            "command": " ".join(["python benchmarks/gpu_actor.py", *sys.argv[1:]]),
            "machine": torch.cuda.get_device_name() if gpu else cpu_name(),
            "torch": torch.__version__,
            **measure(args, Path(directory)),
        }
    write_result(args.out, "gpu_actor", result, as_table(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parameters", type=int, default=1500, help="millions, of the large model")
    parser.add_argument("--tokens", type=int, default=65_536, help="of a pass, in sequences of --sequence")
    parser.add_argument("--sequence", type=int, default=SEQUENCE)
    parser.add_argument("--max_tokens", type=int, default=16_384, help="of a micro-batch")
    parser.add_argument("--recompute", choices=["none", "mlp", "full"], default="none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peak_tflops", type=float, default=989.0, help="bf16, dense; 989 is NVIDIA's for H100 and H200"
    )
    parser.add_argument("--directory", help="for the random models (default: the temporary one)")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--what", default="{}", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Run all parts, each in its own process."""
    write_model(directory / "small", SMALL)
    write_model(directory / "large", large(args.parameters))

    def run(name: str, device: str = args.device, **what: Any) -> dict[str, Any]:
        return in_a_process(args, directory, name, device, what)

    reference = {dtype: run("update", "cpu", dtype=dtype) for dtype in ("fp32", "bf16")}
    kinds = run("kinds")["kinds"]
    updates = []
    for dtype in ("fp32", "bf16"):
        for layers, attention in kinds[dtype]:
            found = run("update", dtype=dtype, layers=layers, attention=attention)
            updates.append(
                {"dtype": dtype, "layers": layers, "attention": attention, **compare(found, reference, dtype)}
            )
    passes = [
        {"layers": layers, "attention": attention, **run("pass", layers=layers, attention=attention)}
        for layers, attention in kinds["bf16"]
    ]
    return {"updates": updates, "reposition": run("reposition"), "passes": passes}


def in_a_process(
    args: argparse.Namespace, directory: Path, name: str, device: str, what: dict[str, Any]
) -> dict[str, Any]:
    """Run a job in its own process; on the CPU with GPUs hidden, because Megatron's CUDA calls are replaced there."""
    print(f"{name} on {device} {' '.join(str(value) for value in what.values())} ...", flush=True)
    words = [word for word in sys.argv[1:] if word]
    command = [sys.executable, __file__, *words, "--device", device, "--directory", str(directory)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    done = subprocess.run(
        [*command, "--job", name, "--what", json.dumps(what)],
        capture_output=True,
        text=True,
        env=os.environ | hidden | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", **rendezvous()},
        encoding="utf-8",
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{name} {what} failed:\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def rendezvous() -> dict[str, str]:
    from openrlhf_sfpo.system.ports import free_port

    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}


def large(millions: int) -> dict[str, Any]:
    """The smallest configuration with so many million parameters, in the proportions of Qwen2.5."""
    from openrlhf_sfpo.megatron.model.config import ModelConfig

    sizes = (_large(hidden) for hidden in range(128, 8192, 128))
    return next(one for one in sizes if parameters(ModelConfig.from_dict(one)) >= millions * 1e6)


def _large(hidden: int) -> dict[str, Any]:
    heads = max(2, hidden // 128)
    return {
        **SMALL,
        "num_hidden_layers": 28,
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 2 // 128 * 128,
        "num_attention_heads": heads,
        "num_key_value_heads": 2 if heads % 2 == 0 else 1,
        "head_dim": 128,
        "vocab_size": 32_000,
    }


def parameters(model: Any) -> int:
    """The number of parameters of a `ModelConfig`."""
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.weights.mapping import weight_plan

    return sum(entry.numel for entry in weight_plan(model, Layout()))


def write_model(directory: Path, config: dict[str, Any]) -> None:
    """A Hugging Face directory with random weights."""
    from safetensors.torch import save_file

    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.model.config import ModelConfig
    from openrlhf_sfpo.megatron.weights.mapping import weight_plan

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({**config, "rope_theta": 10_000.0}), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for entry in weight_plan(ModelConfig.from_dict(config), Layout()):
        for name, shape in zip(entry.converter.names, entry.converter.shapes, strict=True):
            center = 1.0 if "norm" in name else 0.0
            tensors[name] = (center + torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def samples_of(count: int, length: int, vocab: int, uneven: bool) -> list[Any]:
    """Random samples; the second half of each is the response."""
    from openrlhf_sfpo.megatron.data.batching import Sample

    generator = torch.Generator().manual_seed(1)
    samples = []
    for _ in range(count):
        size = int(torch.randint(length // 2, length, (), generator=generator)) if uneven else length
        mask = torch.arange(size - 1) >= size // 2
        advantage = torch.randn((), generator=generator)
        tokens = torch.randint(0, vocab, (size,), generator=generator)
        samples.append(Sample(tokens, mask, advantages=advantage * mask))
    return samples


def build(
    args: argparse.Namespace, model: Path, dtype: str, layers: LayerSpec, attention: Attention, **settings: Any
) -> Any:
    from openrlhf_sfpo.megatron.actor import MegatronActor
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.settings import ActorSettings, OptimizerSettings

    return MegatronActor(
        str(model),
        Layout(),
        ActorSettings(
            device=args.device,
            param_dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype],
            layer_spec=layers,
            attention=attention,
            optimizer=OptimizerSettings(lr=1e-4),
            **settings,
        ),
    )


def job_kinds(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """The pairs (layers, attention) that are available on this machine, for each dtype."""
    from openrlhf_sfpo.megatron.model.layers import choose_layers
    from openrlhf_sfpo.megatron.settings import ActorSettings
    from openrlhf_sfpo.system.errors import UsageError

    kinds: dict[str, list[list[str]]] = {"fp32": [], "bf16": []}
    for dtype, found in kinds.items():
        combinations: list[tuple[LayerSpec, Attention]] = [("local", "sdpa"), ("local", "flash"), ("te", "sdpa")]
        for layers, attention in combinations:
            chosen = getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[dtype])
            try:
                choose_layers(ActorSettings(args.device, chosen, layer_spec=layers, attention=attention))
            except UsageError:
                continue
            found.append([layers, attention])
    return {"kinds": kinds}


def job_update(
    args: argparse.Namespace, directory: Path, dtype: str, layers: LayerSpec = "local", attention: Attention = "sdpa"
) -> dict[str, Any]:
    """Make two updates; return the file with the log-probabilities before and the main parameters before and after."""
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    samples = samples_of(12, 300, SMALL["vocab_size"], uneven=True)
    actor = build(args, directory / "small", dtype, layers, attention, train_batch_size=6, max_tokens_per_gpu=1024)
    before, log_probs = mains_of(actor), actor.forward(samples)
    for sample, old in zip(samples, log_probs, strict=True):
        sample.old_log_probs = old
    update = SlowFastUpdate(actor.shards, 2, 0.8, Gate("off"))
    metrics = [actor.update(samples, PPOClipLoss(), update) for _ in range(2)][-1]
    place = directory / f"{args.device}_{dtype}_{layers}_{attention}.pt"
    torch.save({"log_probs": torch.cat(log_probs), "before": before, "after": mains_of(actor)}, place)
    return {"file": str(place), "grad_norm": metrics["actor_grad_norm"]}


def mains_of(actor: Any) -> torch.Tensor:
    """The fp32 main parameters of a rank with the whole model, flat, in an order that all kinds of layers share."""
    found: dict[str, torch.Tensor] = {}
    for _, parameter, shard in actor.shards.pairs():
        converter = actor.weights.entry_of(parameter).converter
        merged = converter.merge([shard.detach().view(parameter.shape)])
        found.update(zip(converter.names, merged, strict=True))
    return torch.cat([found[name].float().cpu().flatten() for name in sorted(found)])


def compare(found: dict[str, Any], reference: dict[str, dict[str, Any]], dtype: str) -> dict[str, float]:
    """Compare an update on the device with the CPU's in the same dtype, and the directions of both with the CPU's in
    fp32: with bf16's rounding, the device should be no further from fp32 than the CPU is."""
    ours, same, exact = (torch.load(one["file"]) for one in (found, reference[dtype], reference["fp32"]))
    moved = {name: one["after"] - one["before"] for name, one in (("ours", ours), ("same", same), ("exact", exact))}
    return {
        "log_prob_difference": (ours["log_probs"] - same["log_probs"]).abs().max().item(),
        "update_difference": ((moved["ours"] - moved["same"]).norm() / moved["same"].norm()).item(),
        "weight_difference": ((ours["after"] - same["after"]).norm() / same["after"].norm()).item(),
        "cosine_with_fp32": cosine(moved["ours"], moved["exact"]),
        "cpu_cosine_with_fp32": cosine(moved["same"], moved["exact"]),
        "grad_norm_difference": abs(found["grad_norm"] / reference[dtype]["grad_norm"] - 1),
    }


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """The cosine, in fp64: in fp32, that of a vector of millions with itself may exceed 1."""
    return torch.cosine_similarity(one.double(), other.double(), dim=0).item()


def seconds_of(
    device: str, rounds: int, function: Callable[[], Any], prepare: Callable[[], Any] = lambda: None
) -> float:
    """The median seconds of a call, after one to warm up."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(rounds + 1):
        prepare()
        wait()
        started = time.perf_counter()
        function()
        wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def job_reposition(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Time snapshot and reposition of the large model's shards, and a copy of as many bytes."""
    from openrlhf_sfpo.sfpo import SlowCopy

    actor = build(args, directory / "large", "bf16", "local", "sdpa")
    size = sum(shard.weight.numel() * 4 for shard in actor.shards.shards())
    result: dict[str, Any] = {"bytes": size, "copy_seconds": copy_seconds(args, size)}
    for place in ("same", "cpu"):
        copy = SlowCopy(actor.shards, "maintain", place)
        move = functools.partial(copy.reposition, 0.8)
        result[f"take_seconds_{place}"] = seconds_of(args.device, args.rounds, copy.take, copy.release)
        result[f"reposition_seconds_{place}"] = seconds_of(
            args.device, args.rounds, functools.partial(move, measure=False)
        )
        result[f"reposition_with_norms_seconds_{place}"] = seconds_of(args.device, args.rounds, move)
        copy.release()
    # A snapshot reads and writes the shard, as the copy does. A reposition reads two shards and writes one, then reads
    # that once more to write the 16-bit parameters.
    result["take_over_copy"] = result["take_seconds_same"] / result["copy_seconds"]
    result["reposition_over_copy"] = result["reposition_seconds_same"] / (result["copy_seconds"] * (3 + 1.5) / 2)
    return result


def copy_seconds(args: argparse.Namespace, size: int) -> float:
    """Seconds of a copy of `size` bytes on the device."""
    source = torch.ones(size // 4, device=args.device)
    target = torch.empty_like(source)
    return seconds_of(args.device, args.rounds, functools.partial(target.copy_, source))


def job_pass(args: argparse.Namespace, directory: Path, layers: LayerSpec, attention: Attention) -> dict[str, Any]:
    """Time a fast pass of one optimizer step of the large model."""
    from openrlhf_sfpo.megatron import cpu
    from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.megatron.train.pass_runner import PassRunner
    from openrlhf_sfpo.sfpo import Pass

    count = max(1, args.tokens // args.sequence)
    settings = {"train_batch_size": count, "max_tokens_per_gpu": args.max_tokens, "log_prob_chunk_size": 1024}
    recompute = None if args.recompute == "none" else args.recompute
    actor = build(args, directory / "large", "bf16", layers, attention, recompute=recompute, **settings)
    samples = samples_of(count, args.sequence, actor.model_config.vocab_size, uneven=False)

    def run() -> None:
        with cpu.device_scope():
            PassRunner(actor, RolloutBatch(actor.layout, actor.settings, samples), PPOClipLoss()).run_pass(Pass("fast"))

    seconds = seconds_of(args.device, args.rounds, run)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run()
    tokens = count * (args.sequence - 1)
    flops = tokens * flops_per_token(actor.model_config, args.sequence)
    product = matrix_product(args.device)
    return {
        "parameters": parameters(actor.model_config),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "tflops": flops / seconds / 1e12,
        "mfu": flops / seconds / (args.peak_tflops * 1e12),
        "matrix_product_tflops": product / 1e12,
        "over_matrix_product": flops / seconds / product,
        "peak_bytes": torch.cuda.max_memory_allocated() if args.device == "cuda" else None,
        "planned_bytes": planned(args, actor, layers, attention),
    }


def flops_per_token(model: Any, sequence: int) -> float:
    """FLOPs of forward and backward, without recomputation; see above. The embedding multiplies nothing."""
    weights = parameters(model)
    if not model.tied_embeddings:
        weights -= model.vocab_size * model.hidden_size
    # Half of the positions of a sequence are scored, as in `samples_of`.
    weights -= model.vocab_size * model.hidden_size / 2
    return 6 * weights + 12 * model.num_layers * model.num_heads * model.head_dim * sequence / 2


def matrix_product(device: str) -> float:
    """FLOPs per second of a large bf16 matrix product."""
    size = 8192 if device == "cuda" else 512
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(device, 10, lambda: one @ other)


def planned(args: argparse.Namespace, actor: Any, layers: LayerSpec, attention: Attention) -> int:
    """What `openrlhf-sfpo plan` predicts: the actor's state, a pass and its temporaries, without allowances."""
    from openrlhf_sfpo.plan.activations import moments
    from openrlhf_sfpo.plan.setup import Setup
    from openrlhf_sfpo.plan.state import states

    setup = Setup(
        model=actor.model_config,
        gpus=1,
        cuda=args.device == "cuda",
        layers=layers,
        attention=attention,
        recompute=args.recompute,
        overlap_grad_reduce=False,
        snapshot=0,
        max_len=args.sequence,
        samples=max(1, args.tokens // args.sequence),
        max_tokens_per_gpu=args.max_tokens,
    )
    (state,) = states(setup)
    return state.total + max(moment.total for moment in moments(setup, 0))


def as_table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = f"{result['machine']}, torch {result['torch']}, {result['date']}, `{result['command']}`"
    tables = (
        updates_table(result["updates"]),
        reposition_table(result["reposition"]),
        passes_table(result["passes"]),
    )
    return "\n\n".join([head, *(table.markdown().rstrip() for table in tables)]) + "\n"


def attention_of(row: dict[str, Any]) -> str:
    return "its own" if row["layers"] == "te" else row["attention"]


def updates_table(updates: list[dict[str, Any]]) -> Table:
    head = ["dtype", "layers", "attention", "log-probs, largest difference", "update, relative", "weights, relative"]
    lines = [
        [
            row["dtype"],
            row["layers"],
            attention_of(row),
            *(f"{row[name]:.1e}" for name in ("log_prob_difference", "update_difference", "weight_difference")),
            f"{row['cosine_with_fp32']:.4f}",
            f"{row['cpu_cosine_with_fp32']:.4f}",
        ]
        for row in updates
    ]
    title = "Two SFPO updates of a small model against the CPU's in the same dtype"
    return Table(title, [*head, "direction against fp32's, cosine", "the CPU's"], lines)


def reposition_table(move: dict[str, Any]) -> Table:
    speed = 2 * move["bytes"] / move["copy_seconds"] / 1e12
    lines = [
        [
            name,
            *(
                f"{move[f'{what}_seconds_{place}'] * 1e3:.1f}"
                for what in ("take", "reposition", "reposition_with_norms")
            ),
        ]
        for place, name in (("same", "on the device"), ("cpu", "in host memory"))
    ]
    return Table(
        f"Snapshot and reposition of {move['bytes'] / 1e9:.2f} GB of fp32 shards",
        ["theta_slow", "snapshot, ms", "reposition, ms", "with norms, ms"],
        lines,
        f"A copy of as many bytes takes {move['copy_seconds'] * 1e3:.1f} ms ({speed:.2f} TB/s, read and written). On "
        "the device, over the time of a copy of the least bytes that must move: snapshot "
        f"{move['take_over_copy']:.2f}, reposition {move['reposition_over_copy']:.2f}.",
    )


def passes_table(passes: list[dict[str, Any]]) -> Table:
    head = ["layers", "attention", "parameters", "tokens", "tokens/s", "TFLOP/s", "MFU", "over a matrix product's"]
    lines = [
        [
            row["layers"],
            attention_of(row),
            f"{row['parameters'] / 1e6:.0f} M",
            str(row["tokens"]),
            f"{row['tokens_per_second']:.0f}",
            f"{row['tflops']:.1f}",
            f"{row['mfu']:.1%}",
            f"{row['over_matrix_product']:.1%}",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f}",
            f"{row['planned_bytes'] / 1e9:.2f}",
        ]
        for row in passes
    ]
    return Table("A fast pass", [*head, "peak, GB", "planned, GB"], lines)


if __name__ == "__main__":
    main()
