"""SFPO in TRL's GRPOTrainer, on a CPU: small sums for a small model.

    python examples/trl_sfpo.py MODEL_DIR OUTPUT_DIR [--steps 8]

TRL trains on every rollout batch `num_iterations` times. With K + 1 iterations the first K are SFPO's fast passes and
the last is its slow one; the callback moves the weights between them. TRL's schedule advances with every pass, hence
the constant learning rate. Needs `pip install trl==1.16.0`.
"""

import argparse
import re
from typing import Any

import reasoning_gym
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from openrlhf_sfpo.sfpo import SlowCopy, TorchWeights

K, ALPHA = 3, 0.8


class SFPO(TrainerCallback):
    """Assumes one optimizer step per pass; with M steps, count modulo M (K + 1)."""

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> None:
        self.slow = SlowCopy(TorchWeights(optimizer))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % (K + 1) == 0:
            self.slow.take()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % (K + 1) == K:
            self.slow.reposition(ALPHA, measure=False)
            self.slow.release()


def correct(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """1 if the last integer in the completion is the answer."""
    found = [re.findall(r"-?\d+", text)[-1:] for text in completions]
    return [float(last == [expected]) for last, expected in zip(found, answer, strict=True)]


def make_trainer(
    model: str, output: str, steps: int, callbacks: list[TrainerCallback], batch_size: int = 32
) -> GRPOTrainer:
    """A GRPOTrainer for `steps` rollout batches."""
    problems = reasoning_gym.create_dataset("chain_sum", size=200, min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    rows = [
        {"prompt": f"Calculate: {entry['metadata']['expression']}\nResult:", "answer": entry["answer"]}
        for entry in problems
    ]
    config = GRPOConfig(
        output_dir=output,
        num_iterations=K + 1,
        max_steps=steps * (K + 1),
        per_device_train_batch_size=batch_size,
        num_generations=8,
        max_completion_length=4,
        learning_rate=1.5e-5,
        lr_scheduler_type="constant",
        model_init_kwargs={"dtype": "float32"},  # a blend in 16 bits would lose most of the update
        bf16=False,
        use_cpu=True,
        logging_steps=K + 1,
        report_to="none",
    )
    return GRPOTrainer(
        model, reward_funcs=correct, args=config, train_dataset=Dataset.from_list(rows), callbacks=callbacks
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="directory of a causal language model, such as models/SmolLM2-135M-Instruct")
    parser.add_argument("output", help="directory for the trained model")
    parser.add_argument("--steps", type=int, default=8, help="rollout batches")
    args = parser.parse_args()
    trainer = make_trainer(args.model, args.output, args.steps, [SFPO()])
    trainer.train()
    trainer.save_model(args.output)


if __name__ == "__main__":
    main()
