"""The declarations of our flags: --sfpo.*, --megatron.*, --run.* and additions to OpenRLHF's sections.

What is derived from them (parser, ranges, what may change, the actor's settings) is in `flag_table`.

Importing this file imports nothing heavy, so that --help and bad flags are answered at once.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from openrlhf_sfpo.config.ranges import FINITE, Range, above, at_least, between, share


def _flag(
    default: Any,
    help_text: str,
    limits: Range | None = None,
    is_path: bool = False,
    resume: bool = False,
    reuse: bool = False,
    setting: str | None = None,
    convert: Callable[[Any], Any] | None = None,
    by_device: tuple[Any, Any] | None = None,
) -> Any:
    """A field that becomes a flag, with everything about it that does not depend on other flags.

    Args:
        default: its default.
        help_text: for --help.
        limits: the allowed range.
        is_path: its value is a path.
        resume: may change when a run is resumed, because it does not affect what is learned.
        reuse: a run with another value can reuse engines and actors.
        setting: the Megatron actor's setting (`megatron.settings`, `megatron.layout`) that gets its value.
        convert: turns the flag's value into the setting's.
        by_device: what None means on CUDA and on a CPU.
    """
    metadata = {
        "help": help_text,
        "limits": limits,
        "is_path": is_path,
        "resume": resume,
        "reuse": reuse,
        "setting": setting,
        "convert": convert,
        "by_device": by_device,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SFPOConfig:
    """--sfpo.*: the update."""

    enable: bool = _flag(True, "train with SFPO; --no-sfpo.enable is plain GRPO", reuse=True)
    k: int = _flag(
        3,
        "K: fast passes over each rollout batch before the reposition, with --sfpo.preset prepo those that are "
        "predicted (2 or more); 0 is GRPO",
        at_least(0, "Use 0 (plain GRPO) or more; the paper uses 3."),
        reuse=True,
    )
    alpha: float = _flag(
        0.8,
        "step size of the reposition, theta_slow + alpha * (theta_fast - theta_slow), in [0, 1]",
        between(0.0, 1.0, "Use a number from 0 to 1; the paper uses 0.8."),
        reuse=True,
    )
    gate: Literal["upper", "two_sided", "baseline", "grad_norm", "cosine", "off"] = _flag(
        "upper",
        "what turns SFPO off: z-scores of the policy's entropy with z >= threshold (upper, the authors' code), |z| >= "
        "threshold (two_sided, the paper) or z >= threshold against the batches before (baseline); the z-score of the "
        "slow pass's gradient norm against its moving average (grad_norm); 1 - |cosine| of the gradients at theta_0 "
        "and after the reposition (cosine, which keeps one fp32 number for each weight); nothing (off)",
        reuse=True,
    )
    gate_window: int = _flag(
        30,
        "rollout batches over which the gate takes mean and deviation; grad_norm weighs a new one by 2 / (window + 1)",
        at_least(2, "Use 2 or more; the paper uses 30."),
        reuse=True,
    )
    gate_threshold: float = _flag(
        1.0,
        "tau: the z-score at which the gate closes; with --sfpo.gate cosine the 1 - |cosine|, which is below 1 as a "
        "rule: 0.15, say",
        above(0),
        reuse=True,
    )
    stop_step: int | None = _flag(
        None,
        "turn SFPO off after this many rollout batches, regardless of the gate",
        at_least(0, "Use 0 or more, or leave it out."),
        reuse=True,
    )
    gate_warmup: int = _flag(
        0,
        "rollout batches at the start that the gate observes but that cannot close it",
        at_least(0),
        reuse=True,
    )
    gate_patience: int = _flag(
        1, "consecutive rollout batches at or beyond the threshold that close the gate", at_least(1), reuse=True
    )
    gate_after: Literal["latch", "decay", "reopen"] = _flag(
        "latch",
        "what closing means: GRPO for the rest of the run (latch), the same after alpha has fallen linearly to zero "
        "(decay), or GRPO until a rollout batch is below the threshold again (reopen)",
        reuse=True,
    )
    gate_decay_steps: int = _flag(
        10,
        "rollout batches over which alpha falls, with --sfpo.gate_after decay",
        at_least(1),
        reuse=True,
    )
    gate_entropy: Literal["slow_pass", "start"] = _flag(
        "slow_pass",
        "the entropy that the gate reads: the slow pass's mean (the authors' code), or that of theta_0, the weights "
        "before the update (start, the paper)",
        reuse=True,
    )
    preset: Literal["sfpo", "prepo", "grpo", "grpo_k_passes", "grpo_scaled_lr", "lookahead", "extragradient"] = _flag(
        "sfpo",
        "the update: sfpo, or prepo, which predicts from two fast passes where K would lead; or a control to compare "
        "them with: grpo, one pass; grpo_k_passes, K + 1 passes without reposition; "
        "grpo_scaled_lr, one pass at (K * alpha + 1) times the learning rate; lookahead, no slow pass; extragradient, "
        "a slow pass from theta_slow whose first gradient is taken at theta_fast",
        reuse=True,
    )
    max_fast_kl: float | None = _flag(
        None,
        "end the fast passes of a batch after one whose mean KL divergence from theta_0 (nats per token) is above this",
        at_least(0),
        reuse=True,
    )
    max_fast_clip_ratio: float | None = _flag(
        None,
        "end the fast passes of a batch after one in which more than this share of the tokens was clipped",
        between(0.0, 1.0),
        reuse=True,
    )
    min_fast_ess: float | None = _flag(
        None,
        "end the fast passes of a batch after one whose effective sample size, as a share of the tokens, is below "
        "this; 1 at theta_0",
        between(0.0, 1.0),
        reuse=True,
    )
    fast_fraction: float = _flag(
        1.0,
        "the part of each train batch's samples that the fast passes train on; the slow pass trains on all of them",
        share(),
        reuse=True,
    )
    fast_selection: Literal["advantage", "variance", "random"] = _flag(
        "advantage",
        "with --sfpo.fast_fraction, which samples: those with the largest absolute advantages, those whose advantages "
        "vary most (the highest and the lowest), or any",
        reuse=True,
    )
    fast_rescale: bool = _flag(
        False,
        "with --sfpo.fast_fraction, weigh the chosen samples so that a fast pass's gradient is an unbiased estimate of "
        "the whole batch's; by advantage, samples are then drawn with probabilities proportional to it",
        reuse=True,
    )
    prepo_retention: Literal["displacement", "gradient", "tensor"] = _flag(
        "displacement",
        "with --sfpo.preset prepo, what the second fast pass is as a multiple of the first: by coordinate, of how far "
        "they moved the weights (displacement) or of their gradients (gradient); or one multiple for each tensor "
        "(tensor). Beside theta_0 this keeps one fp32 number for each weight, with gradient two",
        reuse=True,
    )
    prepo_corrective: bool = _flag(
        True, "with --sfpo.preset prepo, make the slow pass; without it a batch is two passes", reuse=True
    )
    prepo_per: Literal["pass", "train_batch"] = _flag(
        "pass",
        "with --sfpo.preset prepo and several train batches in a rollout batch: predict from passes over all of them, "
        "as SFPO does, or on each train batch by itself, as PrePO's authors do",
        reuse=True,
    )
    prepo_max_zero_rewards: float | None = _flag(
        None,
        "with --sfpo.preset prepo, make one plain pass if more than this share of the responses has reward 0; PrePO's "
        "authors use 0.5",
        between(0.0, 1.0),
        reuse=True,
    )
    outer_momentum: float = _flag(
        0.0,
        "Nesterov momentum over the displacements of whole rollout batches, while the gate is open; keeps theta_0 "
        "until the end of the update, and one more fp32 number for each weight, also between updates; 0 is none",
        share(zero=True, one=False),
        reuse=True,
    )
    outer_lr: float = _flag(
        1.0,
        "factor on a rollout batch's displacement; with --sfpo.outer_momentum m the weights move in the long run "
        "outer_lr / (1 - m) times as far as without",
        above(0),
        reuse=True,
    )
    optimizer_state: Literal["maintain", "restore", "interpolate", "reset"] = _flag(
        "maintain",
        "Adam's moments and step count at the reposition: left as they are (maintain, the authors' code), as before "
        "the fast passes (restore), moments moved by alpha like the weights (interpolate), or as before the first step "
        "(reset)",
        reuse=True,
    )
    snapshot_device: Literal["same", "cpu"] = _flag(
        "same",
        "where theta_slow lives during the fast passes: on the device of the weights, or in pinned host memory",
        resume=True,
        reuse=True,
    )


@dataclass(frozen=True)
class MegatronConfig:
    """--megatron.*: the actor."""

    tensor_model_parallel_size: int = _flag(
        1, "ranks over which each layer is split; divides the key/value heads", at_least(1), resume=True, setting="tp"
    )
    pipeline_model_parallel_size: int = _flag(
        1, "stages over which the layers are split", at_least(1), resume=True, setting="pp"
    )
    virtual_pipeline_model_parallel_size: int = _flag(
        1,
        "model chunks on each stage; more than 1 is the interleaved schedule, with a smaller pipeline bubble",
        at_least(1),
        resume=True,
        setting="vpp",
    )
    context_parallel_size: int = _flag(
        1,
        "ranks over which each sequence is split, for contexts too long for one GPU",
        at_least(1),
        resume=True,
        setting="cp",
    )
    sequence_parallel: bool | None = _flag(
        None,
        "split norms and the residual stream over the tensor-parallel ranks by token, which divides their activations; "
        "default: with tensor parallelism",
        resume=True,
        setting="sequence_parallel",
    )
    layer_spec: Literal["auto", "te", "local"] = _flag(
        "auto",
        "whose layers: Transformer Engine's fused ones (te), or Megatron's and ours (local); auto takes Transformer "
        "Engine on CUDA where it is installed",
        resume=True,
        setting="layer_spec",
    )
    attention_backend: Literal["auto", "flash", "sdpa"] = _flag(
        "auto",
        "attention of the local layers: flash-attn, or PyTorch's scaled_dot_product_attention; auto takes flash-attn "
        "on CUDA in 16 bits where it is installed. (Transformer Engine chooses for itself)",
        resume=True,
        setting="attention",
    )
    device: Literal["auto", "cpu", "cuda"] = _flag(
        "auto", "where the actor runs; auto takes CUDA where there is one", resume=True, setting="device"
    )
    param_dtype: Literal["auto", "bf16", "fp32"] = _flag(
        "auto",
        "dtype of the parameters; with bf16 the optimizer keeps fp32 main parameters; auto is bf16, and fp32 on a CPU "
        "without bf16 instructions, where bf16 is ten times slower",
        setting="param_dtype",
    )
    fp32_residual_connection: bool | None = _flag(
        None,
        "keep the residual stream between layers in fp32; halves the error of log-probabilities; default: on CPU",
        setting="fp32_residual",
        by_device=(False, True),
    )
    recompute: Literal["none", "selective", "mlp", "full"] = _flag(
        "none",
        "activations recomputed in the backward pass: none, attention only (selective; with fused attention there is "
        "hardly anything to gain), MLPs only, or whole layers (--actor.gradient_checkpointing_enable means full)",
        resume=True,
        setting="recompute",
    )
    recompute_num_layers: int | None = _flag(
        None,
        "with --megatron.recompute full: how many layers of each model chunk are recomputed; default: all",
        at_least(1),
        resume=True,
        setting="recompute_num_layers",
    )
    offload_parameters: bool = _flag(
        False,
        "with --ds.enable_sleep also move the parameters to host memory while the engines generate, and not only the "
        "optimizer's state and the gradients",
        resume=True,
        setting="offload_parameters",
    )
    overlap_grad_reduce: bool | None = _flag(
        None,
        "reduce gradients during the backward pass; default: on CUDA",
        resume=True,
        setting="overlap_grad_reduce",
        by_device=(True, False),
    )
    overlap_param_gather: bool | None = _flag(
        None,
        "gather parameters during the next forward pass; default: on CUDA",
        resume=True,
        setting="overlap_param_gather",
        by_device=(True, False),
    )
    ddp_bucket_size: int | None = _flag(
        None,
        "parameters per gradient bucket; default: Megatron's choice",
        at_least(1),
        resume=True,
        reuse=True,
        setting="ddp_bucket_size",
    )
    old_log_probs: Literal["auto", "separate"] = _flag(
        "auto",
        "where the log-probabilities at theta_0 come from: a forward pass of their own before the update (separate), "
        "or the update's first forward pass where that is the same (auto): with one optimizer step for each rollout "
        "batch, no importance-sampling correction and no KL term in the reward",
        resume=True,
    )
    log_prob_chunk_size: int | None = _flag(
        None,
        "tokens whose logits exist at the same time; default: 1024 on CUDA, 256 on CPU",
        at_least(1),
        resume=True,
        reuse=True,
        setting="log_prob_chunk_size",
        by_device=(1024, 256),
    )
    weight_bucket_mb: int = _flag(
        512,
        "megabytes of weights gathered and sent to vLLM at a time; without CUDA with either actor",
        at_least(1),
        resume=True,
        setting="weight_bucket_bytes",
        convert=lambda megabytes: megabytes * 2**20,
    )


@dataclass(frozen=True)
class ActorConfig:
    """Additions to OpenRLHF's --actor.*."""

    trust_remote_code: bool = _flag(
        False,
        "run the code that comes with a model directory (auto_map in config.json or tokenizer_config.json)",
        resume=True,
    )


@dataclass(frozen=True)
class RunConfig:
    """--run.*: the run directory and what is shown."""

    dir: str | None = _flag(
        None,
        "run directory (metrics, samples, plots, checkpoints, model); one that holds an unfinished run is continued "
        "from its newest checkpoint; default: runs/TIME",
        is_path=True,
        resume=True,
        reuse=True,
    )
    allow_changed: tuple[str, ...] = _flag(
        (),
        "flags (such as actor.adam.lr) that may have other values than the run that is continued had",
        resume=True,
    )
    allow_open_ray: bool = _flag(
        False,
        "join a Ray cluster (RAY_ADDRESS) that has no authentication: anyone who reaches it can run programs as you",
        resume=True,
    )
    verbose: bool = _flag(False, "print all output of Ray, vLLM, DeepSpeed and transformers", resume=True)
    reward_trial: float = _flag(
        120.0,
        "seconds for a trial of your own reward function before anything is started: it is called once, in a process "
        "of its own, with the first row of the data and a made-up response; 0 skips it",
        at_least(0),
        resume=True,
    )
    reward_timeout: float = _flag(
        600.0,
        "seconds in which your own reward function must grade a response; one that takes longer ends the run. 0 waits "
        "forever",
        at_least(0),
        resume=True,
    )
    eval_at_ends: bool = _flag(
        True,
        "with --eval.dataset, also evaluate before the first and after the last step (not with --train.async_enable)",
        resume=True,
        reuse=True,
    )
    samples_per_step: int = _flag(
        4, "rollouts of each step that are written to samples.jsonl", at_least(0), resume=True, reuse=True
    )
    interrupted_exit_status: int = _flag(
        0,
        "exit status of a run that SIGTERM or SIGHUP stopped. Kubernetes and Argo take 0 for finished; give another, "
        "such as 143, to have the run started again",
        between(0, 255),
        resume=True,
    )
    kv_cache_mb: int = _flag(
        1024, "key/value cache of each vLLM engine where there is no GPU", at_least(1), resume=True
    )
    engine_dtype: Literal["auto", "bfloat16", "float32"] = _flag(
        "auto",
        "dtype of the vLLM engines; auto is bfloat16 (as OpenRLHF has it), and float32 where there is no GPU",
        resume=True,
    )


@dataclass(frozen=True)
class DataConfig:
    """Additions to OpenRLHF's --data.*."""

    format: Literal["auto", "plain", "skywork"] = _flag(
        "auto",
        "how rows are read: from the fields that --data.input_key and --data.label_key name (plain), as Skywork-OR1 "
        "publishes them (skywork: chats, and answers or tests in reward_model.ground_truth), or by their columns",
    )
    difficulty_model: str | None = _flag(
        None, "with rows of Skywork-OR1: keep those whose difficulty for this model is within the bounds"
    )
    min_difficulty: int = _flag(
        1, "with --data.difficulty_model: the lowest difficulty of a row that is kept", at_least(0)
    )
    max_difficulty: int = _flag(15, "the highest one", at_least(0))


@dataclass(frozen=True)
class RolloutConfig:
    """Additions to OpenRLHF's --rollout.*."""

    record_dir: str | None = _flag(
        None, "write every rollout batch to this directory", is_path=True, resume=True, reuse=True
    )
    replay_dir: str | None = _flag(
        None, "train from rollout batches recorded with --rollout.record_dir, no engines", is_path=True
    )
    deterministic: bool = _flag(
        False,
        "draw each response with a seed of its own, made from --train.seed, and keep the order of the prompts, so that "
        "repeating a run with one engine gives the same result; slows vLLM's sampling on GPUs",
    )
    engine_timeout: float = _flag(
        300.0,
        "seconds in which a vLLM engine that has started must answer a health check; one that does not is restarted, "
        "gets the current weights, and its prompts are sent again",
        above(0),
        resume=True,
    )
    engine_start_timeout: float = _flag(
        1800.0,
        "seconds in which a vLLM engine must start, at the beginning and after a restart: reading the weights from a "
        "slow disk and capturing CUDA graphs take long",
        above(0),
        resume=True,
    )


@dataclass(frozen=True)
class AlgoConfig:
    """Additions to OpenRLHF's --algo.*."""

    drop_equal_groups: bool = _flag(
        False,
        "leave groups out of a batch whose rewards are all equal, and train on what remains: no other prompts are "
        "sampled in their place",
    )


@dataclass(frozen=True)
class GresoConfig:
    """--algo.greso.*: no rollouts for prompts that have taught nothing lately (GRESO, arXiv 2506.02177)."""

    enable: bool = _flag(
        False,
        "sample a prompt the less often, the more of its last groups of responses were all right or all wrong; leave "
        "out groups whose rewards are all equal, and sample further prompts until --rollout.batch_size groups are left",
    )
    p_easy: float = _flag(
        0.5,
        "a prompt whose last n groups were all right is sampled with probability p_easy^n; adjusted after every batch "
        "from the second episode on",
        between(0.05, 0.95),
    )
    p_hard: float = _flag(0.5, "the same for groups that were all wrong", between(0.05, 0.95))
    target_easy: float = _flag(
        round(0.25 / 3, 4),
        "the share of the sampled groups that should be all right; p_easy is adjusted to it",
        share(),
    )
    target_hard: float = _flag(
        round(0.5 / 3, 4), "the share of the sampled groups that should be all wrong; p_hard is adjusted to it", share()
    )
    right_score: float = _flag(1.0, "the least score of a right response", FINITE)
    wrong_score: float = _flag(0.0, "the highest score of a wrong response", FINITE)
    round_prompts: int | None = _flag(
        None,
        "prompts of a batch's first round of sampling, and at most those of a further one (default: "
        "--rollout.batch_size; the authors take up to 1.5 times as many). What a batch does not need is discarded",
        at_least(1),
    )
    min_round_prompts: int | None = _flag(
        None, "at least the prompts of a further round (default: a quarter of --rollout.batch_size)", at_least(1)
    )


@dataclass(frozen=True)
class AdaptiveEntropyConfig:
    """--algo.adaptive_entropy.*: an entropy bonus while the entropy is low (Skywork-OR1, arXiv 2505.22312)."""

    enable: bool = _flag(
        False,
        "give batches whose entropy at theta_0 (minus the mean log-probability of their tokens) is below the target an "
        "entropy bonus, whose weight rises with every such batch and falls with every other one",
    )
    target: float = _flag(0.2, "the entropy below which there is a bonus, in nats per token", at_least(0))
    delta: float = _flag(1e-4, "by how much the weight rises and falls", above(0))
    most: float = _flag(5e-3, "the largest weight", above(0))
    coefficient: float = _flag(0.0, "the weight that a run begins with", at_least(0))


@dataclass(frozen=True)
class TrainConfig:
    """Additions to OpenRLHF's --train.*: stages, and what happens when something goes wrong."""

    stages: str | None = _flag(
        None,
        "a YAML file with named groups of flags: stages that run one after another, each from the model that the one "
        "before ends with, in directories of their own in --run.dir",
        is_path=True,
        resume=True,
    )
    max_restarts: int = _flag(
        3,
        "how often a run restarts itself from its last checkpoint when a worker has died or a step hangs",
        at_least(0),
        resume=True,
    )
    timeout: float = _flag(
        1800.0,
        "seconds without progress on any rank after which a step counts as hung: the run says where each rank is, and "
        "restarts. More than loading the model takes, the longest micro-batch and the longest checkpoint",
        above(0),
        resume=True,
    )
    grace_seconds: float = _flag(
        60.0,
        "after SIGTERM, seconds that the step in progress may still take; after that the run ends without it, with the "
        "checkpoint before. During a rollout the run ends at once",
        at_least(0),
        resume=True,
    )
    on_nonfinite: Literal["stop", "skip"] = _flag(
        "stop",
        "what to do when a loss, a gradient norm or a reward is NaN or infinite: end the run (stop), or leave the "
        "batch out and keep the weights (skip). To undo an update, skip copies weights and optimizer state to host "
        "memory before each one, 12 bytes a parameter, divided over the data-parallel ranks. Both record the batch",
        resume=True,
        setting="skip_nonfinite",
        convert=lambda value: value == "skip",
    )
    skip_zero_advantage: Literal["auto", "off"] = _flag(
        "auto",
        "leave samples whose advantages are all zero (groups with equal rewards) out of the passes, where neither an "
        "entropy bonus nor a KL loss has a gradient for them; with DeepSpeed, also only where a rollout batch is one "
        "train batch. The update is the same in less time; entropy and other means over tokens are then those of the "
        "samples with an advantage",
    )
    max_log_prob_diff: float | None = _flag(
        None,
        "how far the engines' log-probabilities may be from the actor's, as a mean over the tokens of a run's first "
        "batch, before the run stops instead of training on it; 0 means any distance. Default: 0.02 where both compute "
        "in fp32 and 0.2 elsewhere, more at temperatures below 1 and with --rollout.top_p",
        at_least(0),
        resume=True,
    )


@dataclass(frozen=True)
class VLLMConfig:
    """Additions to OpenRLHF's --vllm.*."""

    sleep_level: int = _flag(
        1,
        "with --vllm.enable_sleep, what engines do with their weights while the actor trains: move them to host memory "
        "(1), or discard them until the actor sends its own (2), which takes no host memory",
        between(1, 2),
        resume=True,
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """Additions to OpenRLHF's --ckpt.*."""

    async_save: bool = _flag(
        True,
        "write checkpoints while training continues, from copies in host memory (12 bytes a parameter, divided over "
        "the data-parallel ranks)",
        resume=True,
        reuse=True,
    )
    save_last: bool = _flag(
        False,
        "also write a checkpoint after the last step, for example to begin another run with (--ckpt.start_from)",
        resume=True,
        reuse=True,
    )
    start_from: str | None = _flag(
        None,
        "begin with the weights and the optimizer's state of another run: one of its checkpoints, or its directory for "
        "the newest. Steps, data, learning-rate schedule and gate begin anew",
        is_path=True,
        reuse=True,
    )


@dataclass(frozen=True)
class EvalConfig:
    """Additions to OpenRLHF's --eval.*."""

    top_p: float | None = _flag(
        None, "top-p of evaluations; default: that of the rollouts", share(), resume=True, reuse=True
    )


SECTIONS: dict[str, type] = {
    "sfpo": SFPOConfig,
    "megatron": MegatronConfig,
    "actor": ActorConfig,
    "run": RunConfig,
    "data": DataConfig,
    "rollout": RolloutConfig,
    "train": TrainConfig,
    "ckpt": CheckpointConfig,
    "vllm": VLLMConfig,
    "eval": EvalConfig,
    "algo": AlgoConfig,
    "algo.greso": GresoConfig,
    "algo.adaptive_entropy": AdaptiveEntropyConfig,
}

# What leaves groups out of a batch. The first two sample others in their place: how many prompts a batch takes is then
# unknown beforehand.
REFILLING = ("algo.dynamic_filtering_enable", "algo.greso.enable")
GROUP_FILTERS = (*REFILLING, "algo.drop_equal_groups")

# OpenRLHF's defaults that do not suit GRPO; --help lists them.
CHANGED_DEFAULTS: dict[str, tuple[Any, str]] = {
    "algo.advantage.estimator": ("group_norm", "GRPO's advantages; no critic"),
    "algo.kl.init_coef": (0.0, "no KL term and no reference model"),
}
