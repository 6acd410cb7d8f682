"""One GRPO update on the same rollout batch: our Megatron actor, OpenRLHF's DeepSpeed actor, TRL's GRPOTrainer.

    python benchmarks/actor_update.py [--model DIR] [--rollouts FILE.safetensors] [--rounds 3] [--out DIR]

On CPU, in fp32, with one rank and one optimizer step over the whole batch. Each actor has its own process, which loads
the model and makes one update to warm up. Then the processes take turns, round after round; while one computes, the
others wait. The samples have uneven lengths, as rollouts do. In a second series all are as long as the longest, so
padding costs nothing. benchmarks/rollouts/gsm_symbolic.safetensors holds responses of SmolLM2-135M-Instruct, recorded
by `openrlhf-sfpo train --rollout.record_dir`; without --rollouts the tokens are random.

Ours packs samples up to --max_tokens. OpenRLHF packs with flash-attention, which needs CUDA; here it pads
micro-batches of --micro_batch samples, and TRL pads to the longest of all. Those two are measured with every
--micro_batch given, each time against ours. Peak memory is the process's peak resident memory, model and optimizer
included, minus what it held after its imports.

Prints a table and writes it to actor_update.md, with everything measured in actor_update.json.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import torch
from machine import cpu_name, write_result

from openrlhf_sfpo.megatron.data.batching import Sample
from openrlhf_sfpo.system.ports import free_port

ROOT = Path(__file__).parent.parent
NAMES = {"megatron": "ours, Megatron-Core", "openrlhf": "OpenRLHF, DeepSpeed ZeRO-2", "trl": "TRL GRPOTrainer"}
LEARNING_RATE = 1e-6


def main() -> None:
    args = parse()
    if args.child:
        child(args)
        return
    result: dict[str, Any] = {
        "date": str(date.today()),
        "command": " ".join(["python benchmarks/actor_update.py", *sys.argv[1:]]),
        "machine": f"{cpu_name()}, {torch.get_num_threads()} threads",
        "versions": versions(),
        "series": {},
    }
    with tempfile.TemporaryDirectory() as directory:
        uneven = rollouts(args)
        for name, samples in (("uneven lengths", uneven), ("equal lengths", stretched(uneven))):
            batch = Path(directory) / "batch.pt"
            torch.save([vars(sample) for sample in samples], batch)
            result["series"][name] = measure(args, batch, samples)
    write_result(args.out, "actor_update", result, as_table(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    parser.add_argument("--rollouts", type=Path, help="a file that --rollout.record_dir wrote")
    parser.add_argument("--samples", type=int, default=16, help="of the file, or random ones")
    parser.add_argument("--longest", type=int, default=192, help="tokens of the longest random sample")
    parser.add_argument("--micro_batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--max_tokens", type=int, default=1024, help="of our micro-batches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--child", choices=list(NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "megatron-core", "openrlhf", "deepspeed", "trl", "transformers")}


def rollouts(args: argparse.Namespace) -> list[Sample]:
    """The recorded samples, or random ones; advantages are random, old log-probabilities come from each actor."""
    generator = torch.Generator().manual_seed(0)
    if args.rollouts:
        from openrlhf_sfpo.rollout.recording import load_rollouts

        records = load_rollouts(args.rollouts)[: args.samples]
        pairs = [(record.tokens.long(), record.action_mask.bool()) for record in records]
    else:
        vocabulary = json.loads((args.model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        pairs = [random_sample(args.longest, vocabulary, generator) for _ in range(args.samples)]
    return [
        Sample(tokens, mask, advantages=float(torch.randn((), generator=generator)) * mask.float())
        for tokens, mask in pairs
    ]


def random_sample(longest: int, vocabulary: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A prompt an eighth as long as the longest sample, and a response of uniformly drawn length."""
    prompt = longest // 8
    length = int(torch.randint(2 * prompt, longest + 1, (), generator=generator))
    mask = torch.arange(1, length) >= prompt
    return torch.randint(vocabulary, (length,), generator=generator), mask


def stretched(samples: list[Sample]) -> list[Sample]:
    """The samples with their responses repeated up to the longest sample's length."""
    longest = max(len(sample.tokens) for sample in samples)
    found = []
    for sample in samples:
        assert sample.advantages is not None
        first = int(sample.action_mask.int().argmax()) + 1  # the response's first token
        response = sample.tokens[first:]
        repeats = -(-(longest - first) // len(response))
        tokens = torch.cat([sample.tokens[:first], response.repeat(repeats)[: longest - first]])
        mask = torch.arange(1, longest) >= first
        found.append(Sample(tokens, mask, advantages=float(sample.advantages.max()) * mask.float()))
    return found


def measure(args: argparse.Namespace, batch: Path, samples: list[Sample]) -> dict[str, Any]:
    """Ours against the others, for each number of samples that those take at a time: all would not fit in memory."""
    tokens = sum(len(sample.tokens) for sample in samples)
    groups = [
        {"micro_batch": size, "rows": take_turns(args, size, batch, tokens)}
        for size in args.micro_batch
        if len(samples) % size == 0
    ]
    return {"samples": len(samples), "tokens": tokens, "groups": groups}


def take_turns(args: argparse.Namespace, micro_batch: int, batch: Path, tokens: int) -> list[dict[str, Any]]:
    """Measure the candidates in turn; return each one's medians over the rounds."""
    children: list[Child] = []
    try:
        for name in NAMES:
            children.append(Child(args, name, micro_batch, batch))
            children[-1].update()
        for number in range(args.rounds):
            for child_ in children:
                child_.seconds.append(child_.update())
            print(f"round {number + 1}/{args.rounds}", flush=True)
        return [
            {
                "name": child_.name,
                "seconds": statistics.median(child_.seconds),
                "all_seconds": child_.seconds,
                "tokens_per_second": tokens / statistics.median(child_.seconds),
                "peak_mb": child_.finish(),
            }
            for child_ in children
        ]
    finally:
        for child_ in children:
            child_.process.kill()
            child_.process.wait()


class Child:
    """A candidate in its own process, which updates on request."""

    def __init__(self, args: argparse.Namespace, name: str, micro_batch: int, batch: Path) -> None:
        self.name = name
        self.seconds: list[float] = []
        values = {
            "child": name,
            "batch": batch,
            "model": args.model,
            "max_tokens": args.max_tokens,
            "micro_batch": micro_batch,
            "rounds": args.rounds,
        }
        words = [f"--{flag}={value}" for flag, value in values.items()]
        self._log = batch.parent / f"{name}-{micro_batch}.log"
        with self._log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        self._answer()  # wait until it is ready
        print(f"{NAMES[name]}: loaded", flush=True)

    def update(self) -> float:
        """Make one update; return the seconds it took."""
        self._say("go")
        return float(self._answer())

    def finish(self) -> float:
        """End the process; return its peak resident memory in MB, minus what it held after its imports."""
        self._say("end")
        return float(self._answer())

    def _say(self, word: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._ended()

    def _answer(self) -> str:
        """The next line that is an answer; libraries print to the same pipe."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                return line.split()[1]
        self._ended()

    def _ended(self) -> NoReturn:
        status = self.process.wait()
        why = "was killed, perhaps because memory ran out" if status == -9 else f"ended with status {status}"
        raise SystemExit(f"{self.name} {why}:\n{self._log.read_text(encoding='utf-8')[-3000:]}")


def child(args: argparse.Namespace) -> None:
    """Load the model, then make an update for each "go" on standard input."""
    from openrlhf_sfpo.system import flash_attn_stub

    flash_attn_stub.install_if_missing()
    samples = [Sample(**fields) for fields in torch.load(args.batch)]
    build: dict[str, Callable[..., Iterator[Any]]] = {"megatron": megatron, "openrlhf": openrlhf, "trl": trl}
    updates = build[args.child](args, samples)
    before = next(updates)  # after the imports
    next(updates)  # the model is loaded
    answer("ready")
    for word in sys.stdin:
        if word.strip() != "go":
            break
        started = time.perf_counter()
        next(updates)
        answer(time.perf_counter() - started)
    answer((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20)
    os._exit(0)


def answer(value: Any) -> None:
    print(f"ANSWER {value}", flush=True)


def resident() -> int:
    """Resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


def on_one_rank() -> None:
    port = str(free_port())
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)


# Each of these yields the resident bytes after its imports, then once the model is loaded, then after each update.


def megatron(args: argparse.Namespace, samples: list[Sample]) -> Iterator[Any]:
    from openrlhf_sfpo.megatron.actor import MegatronActor
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.settings import ActorSettings, OptimizerSettings
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate

    yield resident()
    on_one_rank()
    settings = ActorSettings(
        param_dtype=torch.float32,
        train_batch_size=len(samples),
        max_tokens_per_gpu=args.max_tokens,
        log_prob_chunk_size=256,
        optimizer=OptimizerSettings(lr=LEARNING_RATE),
        num_threads=torch.get_num_threads(),
    )
    actor = MegatronActor(str(args.model), Layout(1, 1, 1), settings)
    for sample, log_probs in zip(samples, actor.forward(samples), strict=True):
        sample.old_log_probs = log_probs
    update = SlowFastUpdate(actor.shards, 0, 0.8, Gate("off"))
    while True:
        yield None
        actor.update(samples, PPOClipLoss(), update)


def openrlhf(args: argparse.Namespace, samples: list[Sample]) -> Iterator[Any]:
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
    from openrlhf.utils import get_strategy

    from openrlhf_sfpo.config.namespaces import nested
    from openrlhf_sfpo.orchestration import deepspeed_cpu as cpu
    from openrlhf_sfpo.orchestration.openrlhf_parser import openrlhf_parser
    from openrlhf_sfpo.orchestration.ray_classes import unwrap_ray_class

    yield resident()
    on_one_rank()
    cpu.install(torch.get_num_threads())
    flat = openrlhf_parser().parse_args([])
    vars(flat).update(
        {
            "actor.adam.lr": LEARNING_RATE,
            "actor.lr_scheduler": "constant",
            "actor.eps_clip_low_high": (0.2, 0.2),
            "actor.entropy_coef": 0.0,  # the other two compute the entropy as well
            "ds.attn_implementation": "sdpa",
            "ds.param_dtype": "fp32",
            "train.batch_size": len(samples),
            "train.micro_batch_size": args.micro_batch[0],
        }
    )
    policy: Any = unwrap_ray_class(PolicyModelActor)
    actor = policy.__new__(policy)
    actor._rank, actor._world_size = 0, 1
    actor.init_model_from_pretrained(get_strategy(nested(flat)), str(args.model), max_steps=1000)
    batches = []
    for sample in samples:
        assert sample.advantages is not None
        masks = (sample.action_mask[None], torch.ones_like(sample.tokens)[None])
        log_probs = actor.forward(sample.tokens[None], *masks)
        batches.append(
            Experience(
                sequences=sample.tokens[None],
                action_mask=masks[0],
                attention_mask=masks[1],
                action_log_probs=log_probs,
                advantages=sample.advantages[None],
                total_length=torch.tensor([float(len(sample.tokens))]),
                info={},
            )
        )
    while True:
        yield None
        for batch in batches:
            actor.append(batch)
        actor.fit()


def trl(args: argparse.Namespace, samples: list[Sample]) -> Iterator[Any]:
    import threading

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    yield resident()
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class InTurn(TrainerCallback):
        """Makes each step wait until it is requested."""

        def on_step_begin(self, *ignored: Any, **kwargs: Any) -> None:
            done.release()
            go.acquire()

    class Recorded(GRPOTrainer):
        """Trains on the recorded batch instead of generating one."""

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            return padded(samples, self.processing_class.pad_token_id or 0)

    config = GRPOConfig(
        output_dir=str(args.batch.parent / "trl"),
        per_device_train_batch_size=args.micro_batch[0],
        gradient_accumulation_steps=len(samples) // args.micro_batch[0],
        num_generations=len(samples),
        max_steps=args.rounds + 2,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        beta=0.0,
    )
    rows = Dataset.from_list([{"prompt": "x"}] * 64)
    trainer = Recorded(
        str(args.model),
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        args=config,
        train_dataset=rows,
        callbacks=[InTurn()],
    )
    threading.Thread(target=trainer.train, daemon=True).start()
    done.acquire()
    while True:
        yield None
        go.release()
        done.acquire()


def padded(samples: list[Sample], pad: int) -> dict[str, Any]:
    """A batch in TRL's layout: prompts padded on the left, completions on the right."""
    cuts = [int(sample.action_mask.int().argmax()) + 1 for sample in samples]
    prompts = [sample.tokens[:cut].flip(0) for sample, cut in zip(samples, cuts, strict=True)]
    answers = [sample.tokens[cut:] for sample, cut in zip(samples, cuts, strict=True)]

    def pad_right(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    return {
        "prompt_ids": pad_right(prompts, pad).flip(1),
        "prompt_mask": pad_right([torch.ones_like(row) for row in prompts], 0).flip(1),
        "completion_ids": pad_right(answers, pad),
        "completion_mask": pad_right([torch.ones_like(row) for row in answers], 0),
        "advantages": torch.stack([sample.advantages.max() for sample in samples if sample.advantages is not None]),
        "num_items_in_batch": torch.tensor(sum(len(row) for row in answers)),
    }


def as_table(result: dict[str, Any]) -> str:
    lines = [f"{result['machine']}, {result['date']}; `{result['command']}`."]
    for name, series in result["series"].items():
        lines += [
            "",
            f"{name.capitalize()}: {series['samples']} samples, {series['tokens']} tokens.",
            "",
            "| actor | samples at a time | seconds | tokens/s | peak memory, MB | ours is faster by |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for group in series["groups"]:
            ours = next(row for row in group["rows"] if row["name"] == "megatron")
            for row in group["rows"]:
                cells = [
                    NAMES[row["name"]],
                    "packed" if row is ours else str(group["micro_batch"]),
                    f"{row['seconds']:.2f}",
                    f"{row['tokens_per_second']:.0f}",
                    f"{row['peak_mb']:.0f}",
                    "" if row is ours else f"{row['seconds'] / ours['seconds']:.2f}",
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
