"""Make the testbed: a Qwen2 model of a million parameters that knows some arithmetic, and problems to train it on.

    python examples/testbed/prepare.py [DIRECTORY] [--task sums|countdown]

Writes DIRECTORY/model (a Hugging Face directory with a tokenizer of single characters), train.jsonl and eval.jsonl.
The Megatron actor trains the model on a corpus of problems with answers, half of which are only rough (sums.py) or
wrong (countdown.py), so it answers a part of the problems correctly. That takes two to three minutes on two cores.
Reinforcement learning, which rewards right answers only, can gain the rest.
"""

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import countdown
import sums
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from openrlhf_sfpo.megatron.actor import MegatronActor
from openrlhf_sfpo.megatron.data.batching import MicroBatch, Sample
from openrlhf_sfpo.megatron.data.loss_types import LossNorm
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.settings import ActorSettings, OptimizerSettings
from openrlhf_sfpo.sfpo import Gate, SlowFastUpdate
from openrlhf_sfpo.tasks.data import write_rows

TASKS = {"sums": sums.TASK, "countdown": countdown.TASK}
PAD, END = "<|pad|>", "<|end|>"
EVALUATED = 150  # problems, in equal parts of each level


def make_tokenizer(characters: str) -> PreTrainedTokenizerFast:
    """One token for each character."""
    vocabulary = {token: index for index, token in enumerate([PAD, END, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def make_random_model(path: Path, seed: int, characters: str) -> PreTrainedTokenizerFast:
    """Save a random model and its tokenizer."""
    tokenizer = make_tokenizer(characters)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return tokenizer


class NextTokenLoss:
    """Cross-entropy of the answers: the mean of -log p over the train batch's answer tokens."""

    def __call__(
        self, log_probs: torch.Tensor, entropy: torch.Tensor, batch: MicroBatch, norm: LossNorm
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `openrlhf_sfpo.megatron.data.loss_types.LossFunction`."""
        zero = log_probs.new_zeros(())
        return -(log_probs * batch.action_mask).sum() / norm.num_tokens, {"ppo_kl": zero, "clip_ratio": zero}


def train(
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterator[tuple[str, str]],
    steps: int,
    batch: int,
    lr: float,
) -> None:
    """Train the model in `path` on (problem, answer) pairs, supervised, on one rank of the Megatron actor; save the
    result in its place."""
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    actor = MegatronActor(
        str(path),
        Layout(),
        ActorSettings(
            device="cpu",
            param_dtype=torch.float32,
            fp32_residual=True,
            temperature=1.0,
            train_batch_size=batch,
            max_tokens_per_gpu=16384,
            overlap_grad_reduce=False,
            overlap_param_gather=False,
            optimizer=OptimizerSettings(
                lr=lr,
                betas=(0.9, 0.98),
                weight_decay=0.01,
                schedule="cosine",
                warmup_ratio=0.05,
                total_steps=steps,
            ),
        ),
    )
    plain = SlowFastUpdate(actor.shards, k=0, alpha=0.0, gate=Gate("off", 2, 1.0))
    started = time.monotonic()
    for step in range(1, steps + 1):
        samples = []
        for problem, answer in itertools.islice(texts, batch):
            prompt = tokenizer.encode(problem)
            tokens = torch.tensor([*prompt, *tokenizer.encode(answer), tokenizer.eos_token_id])
            mask = torch.zeros(len(tokens) - 1, dtype=torch.bool)
            mask[len(prompt) - 1 :] = True
            samples.append(Sample(tokens, mask))
        metrics = actor.update(samples, NextTokenLoss(), plain)
        if step % 50 == 0 or step == steps:
            print(
                f"step {step}/{steps}  loss {metrics['policy_loss']:.3f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    actor.save_pretrained(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "directory", nargs="?", type=Path, help="(default: runs/testbed for sums, runs/countdown for countdown)"
    )
    parser.add_argument("--task", choices=TASKS, default="sums")
    parser.add_argument("--steps", type=int, default=400, help="supervised steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="problems of one step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train_problems", type=int, default=20000, help="(default: %(default)s)")
    args = parser.parse_args()
    task = TASKS[args.task]
    directory = args.directory or Path("runs") / ("testbed" if args.task == "sums" else args.task)
    evaluation = task.held_out(EVALUATED // len(task.levels))
    excluded = frozenset(problem for _, problem, _ in evaluation)
    write_rows(task.as_rows(evaluation), directory / "eval.jsonl")
    problems = task.stream(args.seed + 1, excluded)
    training = list(itertools.islice(problems, args.train_problems))
    write_rows(task.as_rows(training), directory / "train.jsonl")
    tokenizer = make_random_model(directory / "model", args.seed, task.characters)
    texts = task.corpus(args.seed + 2, excluded)
    train(directory / "model", tokenizer, texts, args.steps, args.batch, args.lr)
    print(f"made {directory}/model, train.jsonl and eval.jsonl")


if __name__ == "__main__":
    main()
