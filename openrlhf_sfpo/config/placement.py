"""Which of a run's models and engines share GPUs, and checks of the flags for that.

Importing this file imports nothing heavy.
"""

import os

from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.system.errors import UsageError

_ROOMY = 0.6  # the share of GPU memory that vLLM may keep while an actor trains on the same GPU


def engines_share_gpus(args: NestedFlags) -> bool:
    """Whether the vLLM engines use the actor's GPUs. With the asynchronous trainer OpenRLHF gives them their own."""
    return bool(args.train.colocate_all and not args.train.async_enable)


def reference_shares_gpus(args: NestedFlags) -> bool:
    """Whether a reference model, if any, uses the actor's GPUs."""
    return bool(args.train.colocate_actor_ref or args.train.colocate_all)


def check_placement(args: NestedFlags) -> None:
    """Check the flags about sharing GPUs, sleep and offload against each other. `args` is nested.

    Raises:
        UsageError: naming the flag and the fix.
    """
    _check_sleep(args)
    actor = args.actor.num_nodes * args.actor.num_gpus_per_node
    engines = (args.vllm.num_engines or 0) * args.vllm.tensor_parallel_size
    if engines_share_gpus(args) and engines and actor != engines:
        raise UsageError(
            "--train.colocate_all",
            f"puts engines and actor on the same GPUs, but the actor has {actor} (--actor.num_nodes times "
            f"--actor.num_gpus_per_node) and the engines have {engines} (--vllm.num_engines times "
            "--vllm.tensor_parallel_size).",
            "Make the two equal.",
        )
    same = (args.actor.num_nodes, args.actor.num_gpus_per_node) == (args.ref.num_nodes, args.ref.num_gpus_per_node)
    if reference_shares_gpus(args) and args.algo.kl.init_coef > 0 and not same:
        raise UsageError(
            "--ref.num_gpus_per_node, --ref.num_nodes",
            f"are {args.ref.num_gpus_per_node} and {args.ref.num_nodes}, but a reference model on the actor's GPUs "
            "(--train.colocate_all, --train.colocate_actor_ref) has as many.",
            f"Use {args.actor.num_gpus_per_node} and {args.actor.num_nodes}.",
        )


def _check_sleep(args: NestedFlags) -> None:
    if args.train.async_enable:
        for flag, used in (
            ("--vllm.enable_sleep", args.vllm.enable_sleep),
            ("--ds.enable_sleep", args.ds.enable_sleep),
        ):
            if used:
                raise UsageError(
                    flag,
                    "makes engines and actor take turns, and with --train.async_enable they work at the same time.",
                    "Drop one.",
                )
    if args.vllm.enable_sleep and not args.train.colocate_all:
        raise UsageError(
            "--vllm.enable_sleep",
            "frees the engines' GPUs while the actor trains, which has GPUs of its own.",
            "Drop it, or add --train.colocate_all.",
        )
    if args.megatron.offload_parameters and not args.ds.enable_sleep:
        raise UsageError(
            "--megatron.offload_parameters",
            "says what else --ds.enable_sleep moves to host memory, and that is not given.",
            "Add --ds.enable_sleep, or drop it.",
        )
    if args.train.partial_rollout_enable and not args.train.async_enable:
        raise UsageError(
            "--train.partial_rollout_enable",
            "lets responses continue with new weights while the actor trains, which the synchronous trainer cannot.",
            "Add --train.async_enable, or drop it.",
        )


def crowded(args: NestedFlags) -> str | None:
    """A warning about what may not fit on GPUs shared by engines and actor; None if there is no risk."""
    if not engines_share_gpus(args) or not args.vllm.num_engines or args.vllm.gpu_memory_utilization <= _ROOMY:
        return None
    missing = [
        flag
        for flag, given in (
            ("--vllm.enable_sleep", args.vllm.enable_sleep),
            ("--ds.enable_sleep", args.ds.enable_sleep),
        )
        if not given
    ]
    if not missing:
        return None
    return (
        f"warning: engines and actor share GPUs (--train.colocate_all) without {' and '.join(missing)}, and vLLM takes "
        f"{args.vllm.gpu_memory_utilization:.0%} of their memory (--vllm.gpu_memory_utilization)"
    )


def gpus_needed(args: NestedFlags) -> int:
    """The number of GPUs that OpenRLHF's placement requests from Ray."""
    actor: int = args.actor.num_nodes * args.actor.num_gpus_per_node
    shared = reference_shares_gpus(args)
    reference: int = args.ref.num_nodes * args.ref.num_gpus_per_node if args.algo.kl.init_coef > 0 and not shared else 0
    engines: int = 0 if args.rollout.replay_dir else (args.vllm.num_engines or 0) * args.vllm.tensor_parallel_size
    if engines_share_gpus(args):
        engines = 0
    return actor + reference + engines


def ray_address() -> str | None:
    """RAY_ADDRESS; None if the run starts its own Ray."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address
