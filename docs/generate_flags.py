"""Writes docs/flags.md, the flag reference, from the flags' declarations.

    python docs/generate_flags.py            writes it
    python docs/generate_flags.py --check    fails if it is not up to date

Flags of this package come with the help text of their declaration (openrlhf_sfpo/config/flags.py). OpenRLHF's come from
its parser; what they do in a run of this package is described here.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from openrlhf_sfpo.cli.flags import build_parser
from openrlhf_sfpo.config.flag_table import may_change_on_resume, may_change_on_reuse, path_flags, ranges
from openrlhf_sfpo.config.flags import SECTIONS
from openrlhf_sfpo.config.openrlhf_flags import CHOICES

_FLAG = re.compile(r"--[a-z][a-z_.-]*[a-z_](?:\.\*)?(?: [a-z]+(?=[,;:)]))?")
PAGE = Path(__file__).with_name("flags.md")

# Sections in the order of the page.
TITLES = {
    "sfpo": "the update",
    "megatron": "the Megatron actor",
    "actor": "model, optimizer and loss",
    "algo": "advantages, KL term and filtering",
    "data": "prompts",
    "reward": "rewards",
    "rollout": "rollout batches",
    "vllm": "the engines",
    "train": "batches, placement and failures",
    "eval": "evaluation during training",
    "ckpt": "checkpoints and models on disk",
    "run": "run directory and console",
    "logger": "TensorBoard and Weights & Biases",
    "ref": "the reference model",
    "ds": "sleep, and the DeepSpeed actor",
}

# OpenRLHF's flags that matter in a run of this package.
OPENRLHF = {
    "actor.adam.betas": "Adam's decay rates",
    "actor.adam.eps": "Adam's epsilon",
    "actor.adam.lr": "peak learning rate",
    "actor.adam.weight_decay": "decoupled weight decay; not applied to biases and norms",
    "actor.dual_clip": "bound of the dual clip, for tokens with a negative advantage; default: no dual clip",
    "actor.entropy_coef": "weight of the entropy bonus; default: no bonus",
    "actor.eps_clip": "clip range of the probability ratio, on both sides",
    "actor.eps_clip_low_high": "clip range below and above 1; default: `--actor.eps_clip` for both",
    "actor.gradient_checkpointing_enable": "the same as `--megatron.recompute full`",
    "actor.loss_agg_mode": "mean over all tokens of a train batch, or over sequences of each sequence's token mean",
    "actor.lr_scheduler": "learning-rate schedule, over the optimizer steps that GRPO would make",
    "actor.lr_warmup_ratio": "part of the schedule in which the rate rises from 0",
    "actor.max_norm": "global gradient norm above which gradients are scaled down; 0 disables clipping",
    "actor.min_lr_ratio": "final rate over peak rate, for schedules that have one",
    "actor.model_name_or_path": "the Hugging Face model directory to train; on DeepSpeed also a name on the Hub",
    "actor.num_gpus_per_node": "ranks of the actor on each node: GPUs, or processes where there are none",
    "actor.num_nodes": "nodes of the actor",
    "actor.policy_loss_type": "PPO's ratio for each token, or GSPO's for each sequence",
    "algo.advantage.estimator": "how rewards become advantages; `gae` needs a critic and is refused",
    "algo.advantage.gamma": "discount factor, for `reinforce`; the other estimators use 1",
    "algo.advantage.is_correction_gating": "what the correction compares with its threshold: the ratio of the actor's "
    "and the engine's probabilities, or a divergence between them",
    "algo.advantage.is_correction_level": "correct for the difference between engine and actor by token or by sequence",
    "algo.advantage.is_correction_mode": "leave out what is beyond the threshold, or clip it (by token, ratio only)",
    "algo.advantage.is_correction_threshold": "lower and upper bound, or the upper one alone",
    "algo.advantage.no_std_norm": "do not divide by the batch's deviation (`reinforce`, `reinforce_baseline`)",
    "algo.dynamic_filtering_enable": "sample further prompts in place of those whose mean score is out of range",
    "algo.dynamic_filtering_range": "the mean scores that are kept, both bounds excluded",
    "algo.kl.estimator": "estimator of the KL divergence from the reference model",
    "algo.kl.init_coef": "weight of the KL term; above 0 a reference model is loaded",
    "algo.kl.use_loss": "put the KL term into the loss instead of the rewards",
    "ckpt.best_metric_key": "evaluation metric that decides which checkpoint is the best; default: the first pass1; "
    "`none`: no such checkpoint",
    "ckpt.disable_ds": "write no checkpoints of the training state",
    "ckpt.load_enable": "continue from the newest complete checkpoint in `--ckpt.path`, in a new run directory",
    "ckpt.max_mem": "GiB that all checkpoints may take together",
    "ckpt.max_num": "how many checkpoints stay, apart from the best one",
    "ckpt.output_dir": "where the final model goes",
    "ckpt.path": "where checkpoints go",
    "ckpt.save_hf": "with each checkpoint also write a Hugging Face model",
    "ckpt.save_steps": "steps from one checkpoint to the next",
    "data.apply_chat_template": "render prompts with the model's chat template",
    "data.input_key": "field of the prompt",
    "data.input_template": "text around the prompt, `{}` in its place",
    "data.label_key": "field of the right answer",
    "data.max_len": "tokens of prompt and response together",
    "data.max_samples": "use this many rows of the data at most",
    "data.prompt_dataset": "training data: one or more sources, separated by commas",
    "data.prompt_probs": "probability of each source, separated by commas",
    "data.prompt_split": "split of sources that have several",
    "ds.enable_sleep": "with either actor: the optimizer's state, fp32 weights and gradients leave the GPU while "
    "engines generate",
    "ds.zero_stage": "ZeRO stage of the DeepSpeed actor: 1, 2 or 3",
    "eval.dataset": "held-out data: one or more sources, separated by commas",
    "eval.n_samples_per_prompt": "responses to each evaluation prompt",
    "eval.split": "split of sources that have several",
    "eval.steps": "steps from one evaluation to the next",
    "eval.temperature": "sampling temperature of evaluations",
    "logger.logging_steps": "steps from one entry in TensorBoard and W&B to the next",
    "logger.tensorboard_dir": "where the TensorBoard log goes",
    "logger.wandb.group": "W&B group",
    "logger.wandb.key": "`env` turns W&B on with the key of the environment or of `wandb login`",
    "logger.wandb.org": "W&B organization",
    "logger.wandb.project": "W&B project",
    "logger.wandb.run_name": "W&B name of the run",
    "ref.num_gpus_per_node": "GPUs of the reference model on each node",
    "ref.num_nodes": "nodes of the reference model",
    "ref.offload": "keep the reference model in host memory except while it computes",
    "reward.clip_range": "bounds of a response's advantage, before a KL term in the reward",
    "reward.overlong_buffer_len": "responses longer than `--rollout.max_new_tokens` minus this lose reward, linearly",
    "reward.overlong_penalty_factor": "what the longest response loses",
    "reward.remote_url": "built-in reward, `FILE.py`, `FILE.py:FUNCTION`, `MODULE:FUNCTION` or URLs",
    "reward.stop_properly_penalty_coef": "responses cut off at the length limit: factor for their reward or, if "
    "negative, the reward itself",
    "rollout.batch_size": "prompts in a rollout batch, that is in a step",
    "rollout.max_new_tokens": "tokens of a response at most; default: what `--data.max_len` leaves",
    "rollout.n_samples_per_prompt": "responses to each prompt",
    "rollout.temperature": "sampling temperature of rollouts",
    "rollout.top_p": "top-p of rollouts",
    "rollout.vllm_generate_batch_size": "prompts that are sent to the engines at a time; default: a rollout batch",
    "train.agent_func_path": "a Python file with an `AgentExecutor` for multi-turn rollouts, in place of a reward",
    "train.async_enable": "sample the next batch while this one is trained on",
    "train.async_queue_size": "rollout batches that may wait to be trained on",
    "train.batch_size": "responses in an optimizer step, over all ranks",
    "train.colocate_actor_ref": "put the reference model on the actor's GPUs",
    "train.colocate_all": "put engines and reference model on the actor's GPUs",
    "train.max_epochs": "traversals of the rollout batch in a pass",
    "train.max_tokens_per_gpu": "tokens in a micro-batch",
    "train.num_episodes": "traversals of the data",
    "train.partial_rollout_enable": "with `--train.async_enable`: responses continue across a weight update",
    "train.seed": "decides the order of the prompts, and the random numbers of engines and actors",
    "vllm.enable_prefix_caching": "reuse keys and values of a common beginning of prompts",
    "vllm.enable_sleep": "engines give up their key/value cache and weights while the actor trains",
    "vllm.enforce_eager": "no CUDA graphs and no compilation: starts faster, samples more slowly",
    "vllm.gpu_memory_utilization": "part of each GPU's memory that an engine takes",
    "vllm.num_engines": "engines that sample responses",
    "vllm.tensor_parallel_size": "GPUs of each engine",
}
# Flags with a meaning for the DeepSpeed actor alone.
NO_EFFECT = [
    "ds.zero_stage",
    "ds.zpg",
    "ds.overlap_comm",
    "ds.grad_accum_dtype",
    "ds.packing_samples",
    "train.dynamic_batch_enable",
    "train.micro_batch_size",
    "rollout.max_tokens_per_gpu",
    "train.full_determinism_enable",
    "vllm.sync_backend",
    "vllm.sync_with_ray",
    "ds.use_universal_ckpt",
]
# Defaults that depend on the run, or on the clock.
DEFAULTS = {
    "ckpt.path": "`RUN_DIR/checkpoints`",
    "ckpt.output_dir": "`RUN_DIR/hf`",
    "logger.tensorboard_dir": "`RUN_DIR/tensorboard`",
    "logger.wandb.run_name": "`ppo_` and the time",
    "run.dir": "`runs/TIME`",
}
_INTRODUCTION = """\
# Flags

<!-- Written by docs/generate_flags.py: change the declarations, not this file. -->

Every flag of this package, and OpenRLHF's flags that matter in a run. `openrlhf-sfpo train --help all` lists all of
OpenRLHF's, in its own words. How values are written, in files too: [Flags and files](configuration.md).

The last column says what a flag may change without making it another run: **resume**, a run may be
[continued](faults-and-resuming.md) with another value; **reuse**, the runs of a
[comparison](evaluating-and-comparing.md) may share engines and actors across different values. OpenRLHF's flags have
the names and meanings that they have in its `train_ppo_ray`.
"""


def page() -> str:
    """The page's text."""
    actions = {action.dest: action for action in build_parser()._actions}
    own = {f"{section}.{field.name}" for section, config in SECTIONS.items() for field in dataclasses.fields(config)}
    own.add("actor.backend")
    unknown = [name for name in [*OPENRLHF, *NO_EFFECT] if name not in actions]
    assert not unknown, f"no flags of OpenRLHF: {', '.join(unknown)}"
    parts = [_INTRODUCTION]
    for section, title in TITLES.items():
        parts.append(f"## {section}: {title}\n")
        for heading, known in (("", own), ("OpenRLHF's:\n\n", OPENRLHF)):
            names = sorted(name for name in actions if name.startswith(f"{section}.") and name in known)
            if names:
                table = _table([_row(actions[name]) for name in names])
                parts.append(f"{heading}{table}\n")
    rest = sorted(set(actions) - own - set(OPENRLHF) - {"help", "config", "local_rank"})
    parts.append(_remaining(rest))
    return "\n".join(parts)


def _remaining(rest: list[str]) -> str:
    return (
        "## Other flags\n\n`--config FILE.yaml` reads flags from a file; it may be given several times.\n\n"
        "With the Megatron actor these flags change nothing:\n\n"
        f"{_listed(NO_EFFECT)}\n\nFurther flags of OpenRLHF, some of which are refused "
        "(see [what is refused](index.md#what-works)):\n\n"
        f"{_listed([name for name in rest if name not in NO_EFFECT])}\n"
    )


def _listed(names: list[str]) -> str:
    """Flags in lines of at most 120 characters."""
    lines = [""]
    for name in names:
        word = f"`--{name}`" + ("," if name != names[-1] else ".")
        if len(lines[-1]) + 1 + len(word) > 120:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return "\n".join(lines)


def _table(rows: list[tuple[str, ...]]) -> str:
    header = ("flag", "takes", "default", "what it does", "may change on")
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))


def _row(action: argparse.Action) -> tuple[str, ...]:
    name = action.dest
    text = OPENRLHF.get(name) or _FLAG.sub(r"`\g<0>`", (action.help or "").strip())
    changes = [word for word, may in (("resume", may_change_on_resume), ("reuse", may_change_on_reuse)) if may(name)]
    text = text.replace("|", "\\|").replace(" * ", " \\* ")
    return f"`--{name}`", _takes(action), _default(action), text, ", ".join(changes)


def _takes(action: argparse.Action) -> str:
    """What follows the flag on a command line."""
    choices = action.choices or CHOICES.get(action.dest)
    if choices is not None:
        return ", ".join(f"`{choice}`" for choice in choices)
    if action.nargs == 0:
        return "on or off"
    limits = ranges().get(action.dest)
    kinds: dict[object, str] = {int: "a whole number", float: "a number"}
    kind = "a path" if action.dest in path_flags() else kinds.get(action.type, "text")
    if limits is not None:
        # "a number above 0" names the kind already, except that of whole numbers.
        within = str(limits).removeprefix("a number ").removeprefix("a ")
        kind = f"{kind}, {within}" if str(limits)[0].isdigit() or str(limits)[0] == "-" else f"{kind} {within}"
        kind = kind.replace("a number finite number", "a finite number")
    many = {2: "two of: ", "+": "one or more of: ", "*": "any number of: "}
    return f"{many.get(action.nargs, '')}{kind}"


def _default(action: argparse.Action) -> str:
    value = action.default
    if action.dest in DEFAULTS:
        return DEFAULTS[action.dest]
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return f"`{' '.join(str(one) for one in value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _stale_lines(text: str) -> Iterator[str]:
    """The first lines in which the page differs from the declarations."""
    found = PAGE.read_text(encoding="utf-8").split("\n") if PAGE.exists() else []
    for number, line in enumerate(text.split("\n"), 1):
        if number > len(found) or found[number - 1] != line:
            yield f"line {number}: {line[:100]}"
            return


def main() -> int:
    """Write or check the page; return the exit status."""
    text = page()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(
        f"{PAGE.name} is not up to date ({', '.join(_stale_lines(text))}): run .venv/bin/python docs/generate_flags.py"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
