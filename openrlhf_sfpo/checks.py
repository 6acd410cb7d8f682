"""Flags checked on their own and against each other, before anything is taken or started.

Importing this file imports nothing heavy, so that bad flags are answered at once.
"""

from typing import Any

from openrlhf_sfpo.config import SFPOConfig, section
from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.placement import check_placement


def check_flags(args: Any) -> None:
    """Check flags against each other; no files, no devices. `args` is nested as OpenRLHF nests it.

    Raises:
        UsageError: naming the flag and the fix.
    """
    check_sfpo(section(SFPOConfig, args.sfpo))
    _check_rollout(args)
    _check_recomputation(args)
    if args.actor.backend == "deepspeed" and args.train.colocate_all:
        raise UsageError(
            "--train.colocate_all",
            "is for --actor.backend megatron here.",
            "Drop it (--train.colocate_actor_ref works), or use the patched OpenRLHF (openrlhf-sfpo patch).",
        )
    check_backend(args)
    check_numbers(args)
    check_placement(args)


def check_numbers(args: Any) -> None:
    """Check that sizes, counts and times are not out of their range.

    Raises:
        UsageError: naming the flag and the fix.
    """
    for flag, value in (
        ("--megatron.weight_bucket_mb", args.megatron.weight_bucket_mb),
        ("--megatron.log_prob_chunk_size", args.megatron.log_prob_chunk_size),
        ("--megatron.ddp_bucket_size", args.megatron.ddp_bucket_size),
        ("--megatron.recompute_num_layers", args.megatron.recompute_num_layers),
        ("--run.kv_cache_mb", args.run.kv_cache_mb),
        ("--train.max_tokens_per_gpu", args.train.max_tokens_per_gpu),
        ("--train.batch_size", args.train.batch_size),
        ("--rollout.batch_size", args.rollout.batch_size),
        ("--train.max_epochs", args.train.max_epochs),
        ("--data.max_len", args.data.max_len),
        ("--actor.num_nodes", args.actor.num_nodes),
        ("--actor.num_gpus_per_node", args.actor.num_gpus_per_node),
        ("--vllm.tensor_parallel_size", args.vllm.tensor_parallel_size),
    ):
        if value is not None and value < 1:
            raise UsageError(flag, f"is {value}.", "Use 1 or more.")
    if not 0 < args.vllm.gpu_memory_utilization <= 1:
        value = args.vllm.gpu_memory_utilization
        raise UsageError("--vllm.gpu_memory_utilization", f"is {value:g}.", "Use a part of 1, such as 0.9.")
    for flag, value in (
        ("--train.timeout", args.train.timeout),
        ("--rollout.engine_timeout", args.rollout.engine_timeout),
        ("--rollout.engine_start_timeout", args.rollout.engine_start_timeout),
    ):
        if not value > 0:
            raise UsageError(flag, f"is {value:g} seconds.", "Use a number above 0.")
    if not 0 <= args.run.interrupted_exit_status <= 255:
        value = args.run.interrupted_exit_status
        raise UsageError("--run.interrupted_exit_status", f"is {value}.", "Use 0 to 255, such as 143.")
    for flag, value in (
        ("--train.max_restarts", args.train.max_restarts),
        ("--train.grace_seconds", args.train.grace_seconds),
    ):
        if value < 0:
            raise UsageError(flag, f"is {value:g}.", "Use 0 or more.")


def _check_recomputation(args: Any) -> None:
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


def check_sfpo(sfpo: SFPOConfig) -> None:
    """Check the --sfpo.* flags.

    Raises:
        UsageError: naming the flag and the fix.
    """
    if sfpo.k < 0:
        raise UsageError("--sfpo.k", f"is {sfpo.k}.", "Use 0 (plain GRPO) or more; the paper uses 3.")
    if not 0.0 <= sfpo.alpha <= 1.0:
        raise UsageError("--sfpo.alpha", f"is {sfpo.alpha}.", "Use a number from 0 to 1; the paper uses 0.8.")
    if sfpo.gate_window < 2:
        raise UsageError("--sfpo.gate_window", f"is {sfpo.gate_window}.", "Use 2 or more; the paper uses 30.")
    if sfpo.gate_threshold <= 0:
        raise UsageError("--sfpo.gate_threshold", f"is {sfpo.gate_threshold}.", "Use a number above 0.")
    if sfpo.stop_step is not None and sfpo.stop_step < 0:
        raise UsageError("--sfpo.stop_step", f"is {sfpo.stop_step}.", "Use 0 or more, or leave it out.")
    if sfpo.gate_warmup < 0:
        raise UsageError("--sfpo.gate_warmup", f"is {sfpo.gate_warmup}.", "Use 0 or more.")
    for name in ("gate_patience", "gate_decay_steps"):
        if getattr(sfpo, name) < 1:
            raise UsageError(f"--sfpo.{name}", f"is {getattr(sfpo, name)}.", "Use 1 or more.")


def _check_rollout(args: Any) -> None:
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
    if args.eval.top_p is not None and not 0 < args.eval.top_p <= 1:
        raise UsageError("--eval.top_p", f"is {args.eval.top_p}.", "Use a number above 0 and up to 1.")
    if args.rollout.replay_dir and args.eval.dataset:
        raise UsageError("--eval.dataset", "needs an engine, and --rollout.replay_dir runs without.", "Drop one.")
    if args.train.async_enable and args.rollout.replay_dir:
        raise UsageError("--rollout.replay_dir", "works with the synchronous trainer.", "Drop --train.async_enable.")
    if args.train.async_enable and args.rollout.deterministic:
        raise UsageError(
            "--rollout.deterministic",
            "cannot be had with --train.async_enable, where it depends on time which weights answer which prompts.",
            "Drop one.",
        )
    check_no_other_models(args, "openrlhf-sfpo train")
    if not args.rollout.replay_dir and not args.vllm.num_engines:
        raise UsageError("--vllm.num_engines", "is not given.", "Use 1 or more, or --rollout.replay_dir.")


def check_no_other_models(args: Any, who: str) -> None:
    """Refuse critics and reward models in the cluster.

    Args:
        args: nested.
        who: cannot do with them, in words.
    """
    refusals = [
        ("--algo.advantage.estimator", args.algo.advantage.estimator == "gae", "Use group_norm: there is no critic."),
        ("--reward.model_name_or_path", args.reward.model_name_or_path, "Serve it, and pass --reward.remote_url URL."),
    ]
    _refuse(args, who, refusals)


def check_backend(args: Any) -> None:
    """Check that the backend can do what the flags ask for.

    Raises:
        UsageError: naming a feature of OpenRLHF that would be silently ignored or wrong.
    """
    if args.actor.backend == "deepspeed":
        _refuse(args, _DEEPSPEED, _refused_by_deepspeed(args))
        _check_even_batches(args)
    else:
        _refuse(args, "the Megatron actor", _refused_by_megatron(args))


_DEEPSPEED = "SFPO on the DeepSpeed actor"


def _refused_by_deepspeed(args: Any) -> list[tuple[str, Any, str]]:
    return [
        ("--actor.optim", args.actor.optim != "adam", "Use adam."),
        ("--ds.zero_stage", args.ds.zero_stage not in (1, 2, 3), "Use 1, 2 or 3."),
        ("--ds.lora.rank", args.ds.lora.rank, "Leave it 0: all parameters are trained."),
        ("--ds.load_in_4bit", args.ds.load_in_4bit, "Drop it."),
        ("--ds.tensor_parallel_size", args.ds.tensor_parallel_size > 1, "Leave it 1, or use --actor.backend megatron."),
        ("--ds.deepcompile", args.ds.deepcompile, "Drop it."),
    ]


def _check_even_batches(args: Any) -> None:
    """A pass must end with an optimizer step: gradients left over would be those of other weights in the next one."""
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


def _refused_by_megatron(args: Any) -> list[tuple[str, Any, str]]:
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


def _refuse(args: Any, who: str, refusals: list[tuple[str, Any, str]]) -> None:
    """Refuse what is used, among (flag, whether it is used, what to do instead)."""
    for flag, used, fix in refusals:
        if used:
            value = args
            for part in flag.removeprefix("--").split("."):
                value = getattr(value, part)
            raise UsageError(flag, f"is {value!r}, which {who} does not support.", fix)
