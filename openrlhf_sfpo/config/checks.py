"""Flags checked on their own and against each other, before anything is started.

Importing this file imports nothing heavy, so that bad flags are reported at once.
"""

import math
from collections.abc import Iterable
from typing import Any

from openrlhf_sfpo.config.effective_update import has_outer_momentum
from openrlhf_sfpo.config.flag_table import ranges
from openrlhf_sfpo.config.flags import GROUP_FILTERS
from openrlhf_sfpo.config.namespaces import NestedFlags, value_of
from openrlhf_sfpo.config.openrlhf_flags import CHOICES
from openrlhf_sfpo.config.placement import check_placement
from openrlhf_sfpo.config.ranges import check_choices, check_ranges, shown
from openrlhf_sfpo.system.errors import UsageError


def check_flags(args: NestedFlags) -> None:
    """Check flags on their own and against each other; no files, no devices. `args` is nested as OpenRLHF nests it.

    Raises:
        UsageError: naming the flag and the fix.
    """
    check_values(args)
    if args.train.stages:  # `train` has made several runs of them
        raise UsageError("--train.stages", "is for openrlhf-sfpo train.", "Leave it out, or run the stages with train.")
    _check_rollout(args)
    _check_lengths(args)
    _check_pairs(args)
    _check_groups(args)
    _check_greso(args)
    _check_adaptive_entropy(args)
    _check_data(args)
    _check_recomputation(args)
    if args.actor.backend == "deepspeed" and args.train.colocate_all:
        raise UsageError(
            "--train.colocate_all",
            "is for --actor.backend megatron here.",
            "Drop it (--train.colocate_actor_ref works), or use the patched OpenRLHF (openrlhf-sfpo patch).",
        )
    check_backend(args)
    check_placement(args)
    check_ranks(args)


def check_values(args: NestedFlags, sections: tuple[str, ...] = ()) -> None:
    """Check each flag on its own, as it is declared in `config` and `openrlhf_flags`.

    Args:
        args: nested; sections may be missing.
        sections: look at flags of these only, such as "sfpo"; all by default.

    Raises:
        UsageError: for the first flag whose value is out of its range or not one of its choices.
    """

    def chosen(declared: dict[str, Any]) -> dict[str, Any]:
        return {name: what for name, what in declared.items() if not sections or name.split(".")[0] in sections}

    def values(names: Iterable[str]) -> dict[str, Any]:
        return {name: value_of(args, name, None) for name in names}

    limits, choices = chosen(ranges()), chosen(CHOICES)
    check_ranges(values(limits), limits)
    check_choices(values(choices), choices)


def _check_lengths(args: NestedFlags) -> None:
    new, longest = args.rollout.max_new_tokens, args.data.max_len
    if new is not None and new >= longest:
        raise UsageError(
            "--rollout.max_new_tokens",
            f"is {new}, and --data.max_len, prompt and response together, is {longest}: no room is left for a prompt.",
            f"Use {longest - 1} or less, or raise --data.max_len.",
        )
    buffer = args.reward.overlong_buffer_len
    if buffer is not None and buffer > (new or longest):
        raise UsageError(
            "--reward.overlong_buffer_len",
            f"is {buffer:g}, longer than a response can be ({new or longest} tokens).",
            f"Use {new or longest} or less.",
        )


def _check_pairs(args: NestedFlags) -> None:
    """Check flags that take two numbers, the lower one first."""
    for name, used in (
        ("reward.clip_range", True),
        ("algo.dynamic_filtering_range", args.algo.dynamic_filtering_enable),
        ("algo.advantage.is_correction_threshold", args.algo.advantage.is_correction_level != "off"),
    ):
        value = value_of(args, name)
        if name.endswith("threshold") and len(value) == 1:
            continue  # an upper bound alone
        if used and (len(value) != 2 or not value[0] < value[1]):
            raise UsageError(f"--{name}", f"is {shown(value)}.", "Use two numbers, the lower one first.")
    if args.actor.lr_scheduler == "polynomial" and args.actor.adam.lr <= _POLYNOMIAL_END:
        raise UsageError(
            "--actor.lr_scheduler",
            f"is polynomial, which ends at a rate of {_POLYNOMIAL_END}, and --actor.adam.lr is {args.actor.adam.lr}.",
            "Use linear, or a higher rate.",
        )
    for name in GROUP_FILTERS:
        if value_of(args, name) and args.rollout.n_samples_per_prompt < 2:
            raise UsageError(
                "--rollout.n_samples_per_prompt",
                f"is {args.rollout.n_samples_per_prompt}, and --{name} compares a prompt's samples.",
                "Use 2 or more.",
            )


# Those whose advantages are zero where a group's rewards are equal.
_BY_GROUP = ("group_norm", "dr_grpo", "rloo")


def _check_groups(args: NestedFlags) -> None:
    chosen = [name for name in GROUP_FILTERS if value_of(args, name)]
    if len(chosen) > 1:
        raise UsageError(
            f"--{chosen[1]}", f"is on, and so is --{chosen[0]}; both choose the groups of a batch.", "Drop one of them."
        )
    if chosen and chosen[0] != "algo.dynamic_filtering_enable" and args.algo.advantage.estimator not in _BY_GROUP:
        raise UsageError(
            f"--{chosen[0]}",
            "leaves out groups with equal rewards, which have advantages with --algo.advantage.estimator "
            f"{args.algo.advantage.estimator}.",
            f"Use {', '.join(_BY_GROUP[:-1])} or {_BY_GROUP[-1]}.",
        )


def _check_greso(args: NestedFlags) -> None:
    greso = args.algo.greso
    if not greso.enable:
        return
    if greso.wrong_score >= greso.right_score:
        raise UsageError(
            "--algo.greso.wrong_score",
            f"is {greso.wrong_score:g}, and --algo.greso.right_score {greso.right_score:g}.",
            "Use a lower one.",
        )
    most = greso.round_prompts or args.rollout.batch_size
    if greso.min_round_prompts is not None and greso.min_round_prompts > most:
        raise UsageError(
            "--algo.greso.min_round_prompts",
            f"is {greso.min_round_prompts}, and a round has at most {most} prompts (--algo.greso.round_prompts).",
            f"Use {most} or less.",
        )


def _check_adaptive_entropy(args: NestedFlags) -> None:
    adaptive = args.algo.adaptive_entropy
    if adaptive.enable and args.actor.entropy_coef:
        raise UsageError(
            "--algo.adaptive_entropy.enable",
            f"is on, and --actor.entropy_coef is {args.actor.entropy_coef:g}: two weights of the entropy bonus.",
            "Drop one of them.",
        )
    if adaptive.coefficient > adaptive.most:
        raise UsageError(
            "--algo.adaptive_entropy.coefficient",
            f"is {adaptive.coefficient:g}, more than --algo.adaptive_entropy.most {adaptive.most:g}.",
            "Lower it.",
        )


_POLYNOMIAL_END = 1e-7  # lr_end of transformers' schedule


def _check_data(args: NestedFlags) -> None:
    if args.data.min_difficulty > args.data.max_difficulty:
        raise UsageError(
            "--data.min_difficulty",
            f"is {args.data.min_difficulty}, and --data.max_difficulty {args.data.max_difficulty}.",
            "Lower it.",
        )
    if args.data.difficulty_model and args.data.format == "plain":
        raise UsageError(
            "--data.difficulty_model",
            "is given, and with --data.format plain rows have no difficulty.",
            "Drop one of them.",
        )
    probs, datasets = args.data.prompt_probs, args.data.prompt_dataset
    if probs is None or not datasets:
        return
    count = len(datasets.split(","))
    try:
        numbers = [float(part) for part in probs.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(0 <= n <= 1 for n in numbers) or abs(sum(numbers) - 1) > 1e-8:
        raise UsageError(
            "--data.prompt_probs",
            f"is {probs!r}, and --data.prompt_dataset names {count} data set(s).",
            "Give one probability for each, separated by commas, that add up to 1.",
        )


def check_ranks(args: NestedFlags) -> None:
    """Check that a rollout batch and an optimizer step have a sample for every copy of the model.

    Raises:
        UsageError: naming the flag and the fix.
    """
    batch, each, micro = args.rollout.batch_size, args.rollout.n_samples_per_prompt, args.rollout.micro_batch_size
    ranks, copies = args.actor.num_nodes * args.actor.num_gpus_per_node, model_copies(args)
    if batch * each // micro < copies:
        taken = f", taken {micro} at a time (--rollout.micro_batch_size)" if micro > 1 else ""
        raise UsageError(
            "--rollout.batch_size",
            f"is {batch}; with --rollout.n_samples_per_prompt {each} that makes {batch * each} samples{taken}, and the "
            f"actor's {ranks} rank(s) hold {copies} copies of the model, each of which needs some.",
            "Raise it, or use fewer ranks.",
        )
    if args.train.batch_size < copies and args.actor.backend == "megatron":  # a step would have no sample at all
        raise UsageError(
            "--train.batch_size",
            f"is {args.train.batch_size}, and the actor's {ranks} rank(s) hold {copies} copies of the model, each of "
            "which needs a sample in every optimizer step.",
            f"Use {copies} or more, or fewer ranks.",
        )
    generated = args.rollout.vllm_generate_batch_size
    if generated is not None and generated > args.rollout.batch_size and not args.train.async_enable:
        raise UsageError(
            "--rollout.vllm_generate_batch_size",
            f"is {generated}, more than --rollout.batch_size, {args.rollout.batch_size}; without --train.async_enable "
            "nothing would train on the rest.",
            "Leave it out, or add --train.async_enable.",
        )


def model_copies(args: NestedFlags) -> int:
    """Data-parallel copies of the actor's model; at least 1. Whether the ranks divide evenly is checked elsewhere."""
    ranks: int = args.actor.num_nodes * args.actor.num_gpus_per_node
    if args.actor.backend == "deepspeed":
        of_one: int = args.ds.ring_attn_size * args.ds.tensor_parallel_size
    else:
        sizes = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        of_one = math.prod(getattr(args.megatron, size) for size in sizes)
    return max(1, ranks // of_one)


def _check_recomputation(args: NestedFlags) -> None:
    whole_layers = args.megatron.recompute == "full" or args.actor.gradient_checkpointing_enable
    if args.megatron.recompute_num_layers is not None and not whole_layers:
        raise UsageError(
            "--megatron.recompute_num_layers",
            f"is {args.megatron.recompute_num_layers}, and --megatron.recompute {args.megatron.recompute} does not "
            "recompute whole layers.",
            "Drop it, or use --megatron.recompute full.",
        )
    if args.megatron.layer_spec == "te" and args.megatron.fp32_residual_connection:
        raise UsageError(
            "--megatron.fp32_residual_connection",
            "is given, and Transformer Engine's layers (--megatron.layer_spec te) do not take it.",
            "Drop it, or use --megatron.layer_spec local.",
        )


def _check_rollout(args: NestedFlags) -> None:
    estimator = args.algo.advantage.estimator
    if estimator in ("rloo", "reinforce_baseline", "group_norm", "dr_grpo") and args.rollout.n_samples_per_prompt < 2:
        raise UsageError(
            "--rollout.n_samples_per_prompt",
            f"is {args.rollout.n_samples_per_prompt}, so that every advantage of --algo.advantage.estimator "
            f"{estimator}, which compares the samples of one prompt, would be zero.",
            "Use 2 or more.",
        )
    if args.rollout.record_dir and args.rollout.replay_dir:
        raise UsageError("--rollout.replay_dir", "is given together with --rollout.record_dir.", "Use one of them.")
    if args.rollout.replay_dir and args.eval.dataset:
        raise UsageError("--eval.dataset", "needs an engine, and --rollout.replay_dir runs without.", "Drop one.")
    if args.train.async_enable and args.rollout.replay_dir:
        raise UsageError("--rollout.replay_dir", "works with the synchronous trainer.", "Drop --train.async_enable.")
    if args.train.async_enable and args.rollout.deterministic:
        raise UsageError(
            "--rollout.deterministic",
            "does not work with --train.async_enable, where timing decides which weights answer which prompts.",
            "Drop one.",
        )
    check_no_other_models(args, "openrlhf-sfpo train")
    if not args.rollout.replay_dir and not args.vllm.num_engines:
        problem = "is not given." if args.vllm.num_engines is None else "is 0, and no engine would sample responses."
        raise UsageError(
            "--vllm.num_engines", problem, "Use 1 or more, or --rollout.replay_dir to train on recorded ones."
        )


def check_no_other_models(args: NestedFlags, who: str) -> None:
    """Refuse critics and reward models in the cluster.

    Args:
        args: nested.
        who: component name for the error message.
    """
    refusals = [
        ("--algo.advantage.estimator", args.algo.advantage.estimator == "gae", "Use group_norm: there is no critic."),
        ("--reward.model_name_or_path", args.reward.model_name_or_path, "Serve it, and pass --reward.remote_url URL."),
    ]
    _refuse(args, who, refusals)


def check_backend(args: NestedFlags) -> None:
    """Check that the backend supports what the flags ask for.

    Raises:
        UsageError: naming a feature of OpenRLHF that would be ignored silently or be wrong.
    """
    _check_update(args)
    if args.actor.backend == "deepspeed":
        _refuse(args, _DEEPSPEED, _refused_by_deepspeed(args))
        _check_even_batches(args)
    else:
        _refuse(args, "the Megatron actor", _refused_by_megatron(args))


def _check_update(args: NestedFlags) -> None:
    """Check --sfpo.* flags that do not go together."""
    unlimited = {
        "lookahead": "whose number of passes must be known beforehand",
        "prepo": "which predicts from two fast passes and always makes both",
    }
    preset = args.sfpo.preset
    for name in ("max_fast_kl", "max_fast_clip_ratio", "min_fast_ess"):
        if preset in unlimited and value_of(args, f"sfpo.{name}") is not None:
            raise UsageError(
                f"--sfpo.{name}", f"is given with --sfpo.preset {preset}, {unlimited[preset]}.", "Drop one."
            )
    _check_prediction(args)
    if args.sfpo.fast_rescale and args.sfpo.fast_selection == "variance":
        raise UsageError(
            "--sfpo.fast_rescale",
            "needs the probabilities with which samples are chosen, and --sfpo.fast_selection variance has none.",
            "Drop it, or use advantage or random.",
        )


def _check_prediction(args: NestedFlags) -> None:
    """Check the flags of `prepo`, and those that need the gradients of certain passes."""
    sfpo = args.sfpo
    active = sfpo.enable and sfpo.k > 0
    predicts = active and sfpo.preset == "prepo"
    if predicts and sfpo.k == 1:
        raise UsageError("--sfpo.k", "is 1, and --sfpo.preset prepo predicts from two passes.", "Use 2 or more.")
    if predicts and sfpo.prepo_per == "train_batch" and has_outer_momentum(sfpo):
        raise UsageError(
            "--sfpo.prepo_per",
            "is train_batch, and --sfpo.outer_momentum and --sfpo.outer_lr need passes over the whole rollout batch.",
            "Use --sfpo.prepo_per pass, or drop them.",
        )
    if sfpo.gate != "cosine":
        return
    if sfpo.gate_after == "reopen":
        raise UsageError(
            "--sfpo.gate_after",
            "is reopen, and once a cosine gate has closed there is no cosine to open it again.",
            "Use latch or decay.",
        )
    if active and (sfpo.preset == "lookahead" or (predicts and not sfpo.prepo_corrective)):
        raise UsageError(
            "--sfpo.gate",
            "is cosine, which compares the slow pass's gradient, and there is no slow pass.",
            "Use another gate, or --sfpo.gate off.",
        )
    if active and sfpo.fast_fraction < 1 and sfpo.preset not in ("grpo", "grpo_scaled_lr"):
        raise UsageError(
            "--sfpo.gate",
            "is cosine, which compares gradients of the same samples, and --sfpo.fast_fraction is below 1.",
            "Use another gate, or leave the fraction 1.",
        )


_DEEPSPEED = "SFPO on the DeepSpeed actor"


def _refused_by_deepspeed(args: NestedFlags) -> list[tuple[str, Any, str]]:
    return [
        ("--actor.optim", args.actor.optim != "adam", "Use adam."),
        ("--ds.zero_stage", args.ds.zero_stage not in (1, 2, 3), "Use 1, 2 or 3."),
        ("--ds.lora.rank", args.ds.lora.rank, "Leave it 0: all parameters are trained."),
        ("--ds.load_in_4bit", args.ds.load_in_4bit, "Drop it."),
        ("--ds.tensor_parallel_size", args.ds.tensor_parallel_size > 1, "Leave it 1, or use --actor.backend megatron."),
        ("--ds.deepcompile", args.ds.deepcompile, "Drop it."),
    ]


def _check_even_batches(args: NestedFlags) -> None:
    """Check that a pass ends with an optimizer step: leftover gradients would belong to other weights in the next
    pass."""
    rollouts = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    if rollouts % args.train.batch_size:
        raise UsageError(
            "--train.batch_size",
            f"is {args.train.batch_size}, which does not divide the {rollouts} samples of a rollout batch "
            "(--rollout.batch_size times --rollout.n_samples_per_prompt).",
            f"With {_DEEPSPEED} use a divisor.",
        )
    ranks = args.actor.num_nodes * args.actor.num_gpus_per_node // args.ds.ring_attn_size
    micro_batches = ranks * (1 if args.train.dynamic_batch_enable else args.train.micro_batch_size)
    if args.train.batch_size % micro_batches:
        raise UsageError(
            "--train.batch_size",
            f"is {args.train.batch_size}, and the {ranks} rank(s) take {micro_batches} samples at a time.",
            f"Use a multiple of {micro_batches}.",
        )


def _refused_by_megatron(args: NestedFlags) -> list[tuple[str, Any, str]]:
    return [
        ("--actor.optim", args.actor.optim != "adam", "Use adam."),
        ("--actor.aux_loss_coef", args.actor.aux_loss_coef, "Leave it 0: the families supported have no experts."),
        ("--train.enable_ema", args.train.enable_ema, "Drop it."),
        ("--ds.lora.rank", args.ds.lora.rank, "Leave it 0: all parameters are trained."),
        ("--ds.load_in_4bit", args.ds.load_in_4bit, "Drop it."),
        ("--ds.adam_offload", args.ds.adam_offload, "Drop it."),
        ("--ds.use_liger_kernel", args.ds.use_liger_kernel, "Drop it."),
        ("--ds.ring_attn_size", args.ds.ring_attn_size > 1, "Leave it 1."),
        (
            "--ds.tensor_parallel_size",
            args.ds.tensor_parallel_size > 1,
            "Leave it 1 and use --megatron.tensor_model_parallel_size.",
        ),
        ("--ds.param_dtype", args.ds.param_dtype != "bf16", "Use bf16, or --megatron.param_dtype fp32."),
        ("--data.max_images_per_prompt", args.data.max_images_per_prompt, "Leave it 0: only text models."),
    ]


def _refuse(args: NestedFlags, who: str, refusals: list[tuple[str, Any, str]]) -> None:
    """Refuse the used features among (flag, whether it is used, what to do instead)."""
    for flag, used, fix in refusals:
        if used:
            raise UsageError(
                flag, f"is {value_of(args, flag.removeprefix('--'))!r}, which {who} does not support.", fix
            )
