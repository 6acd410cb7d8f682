"""What the rank processes run with OpenRLHF's DeepSpeed actor; module level, so that they can be sent by name."""

import argparse
from pathlib import Path
from typing import Any

import torch


def arguments(world: int, **flags: Any) -> Any:
    """OpenRLHF's arguments, nested, with small defaults; `flags` by dotted name with __ for the dot."""
    from openrlhf_sfpo.config.flag_table import defaults
    from openrlhf_sfpo.config.namespaces import nested
    from openrlhf_sfpo.orchestration.openrlhf_parser import openrlhf_parser
    from openrlhf_sfpo.orchestration.patched import entry_point

    parser = openrlhf_parser()
    entry_point.add_flags(parser)
    sections = ("run", "rollout", "train", "algo.greso", "algo.adaptive_entropy")
    values = {name: value for section in sections for name, value in defaults(section).items()}
    values |= vars(parser.parse_args([]))
    values.update(
        {
            "actor.num_gpus_per_node": world,
            "actor.adam.lr": 5e-5,
            "actor.adam.weight_decay": 0.01,
            "actor.lr_scheduler": "constant",
            "actor.eps_clip_low_high": (0.2, 0.2),
            "ds.attn_implementation": "sdpa",
            "ds.param_dtype": "fp32",
            "train.micro_batch_size": 2,
            "sfpo.enable": True,
            "sfpo.gate": "off",
            "sfpo.k": 2,
        }
    )
    values.update({name.replace("__", "."): value for name, value in flags.items()})
    return nested(argparse.Namespace(**values))


def prepare() -> None:
    """Import and load what would take seconds in each process."""
    import importlib
    import os

    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # OpenRLHF compiles its log-probs
    from deepspeed.ops.op_builder import FusedAdamBuilder

    FusedAdamBuilder().load()
    importlib.import_module("openrlhf_sfpo.orchestration.deepspeed_actor")
    importlib.import_module("openrlhf.utils")


def policy(path: str, args: Any, steps: int = 1000) -> Any:
    """A `PolicyActor` on this rank, without engines."""
    import os

    from openrlhf.utils import get_strategy

    from openrlhf_sfpo.orchestration.deepspeed_actor import PolicyActor

    actor = PolicyActor.__new__(PolicyActor)
    actor._rank, actor._world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.environ["LOCAL_RANK"] = "0"
    args.ds.attn_implementation = "sdpa"
    actor.init_model_from_pretrained(get_strategy(args), path, max_steps=steps, vllm_engines=None)
    return actor


def experiences(samples: list[Any]) -> list[Any]:
    """One OpenRLHF experience for each sample."""
    from openrlhf.trainer.ppo_utils.experience import Experience

    return [
        Experience(
            sequences=sample.tokens[None],
            attention_mask=torch.ones_like(sample.tokens)[None],
            action_mask=sample.action_mask[None],
            action_log_probs=sample.old_log_probs[None],
            advantages=sample.advantages[None],
            rewards=torch.zeros(1),
            response_length=sample.action_mask.sum()[None].float(),
            total_length=torch.tensor([float(len(sample.tokens))]),
            truncated=torch.zeros(1),
            rollout_log_probs=None if sample.rollout_log_probs is None else sample.rollout_log_probs[None],
            info={"reward": torch.zeros(1)},
        )
        for sample in samples
    ]


def update(actor: Any, samples: list[Any], in_order: bool = True) -> dict[str, Any]:
    """One `fit` on this rank's share: every second sample with two ranks, and so on."""
    share = samples[actor._rank :: actor._world_size]
    for experience in experiences(share):
        actor.append(experience)
    original = torch.utils.data.RandomSampler.__iter__
    if in_order:  # OpenRLHF shuffles in every pass, and the plain loop does not
        torch.utils.data.RandomSampler.__iter__ = lambda self: iter(  # type: ignore[method-assign]
            range(len(self.data_source))
        )
    try:
        return actor.fit()
    finally:
        torch.utils.data.RandomSampler.__iter__ = original  # type: ignore[method-assign]


def whole_weights(actor: Any) -> dict[str, torch.Tensor]:
    """Parameters that a forward pass reads, by Hugging Face name, gathered."""
    from deepspeed import zero

    found = {}
    for name, parameter in actor.actor.model.module.named_parameters():
        with zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            found[name] = parameter.detach().float().clone()
    return found


def masters(actor: Any) -> dict[str, torch.Tensor]:
    """The optimizer's fp32 weights, by Hugging Face name, gathered."""
    from deepspeed.utils import safe_get_full_fp32_param

    return {name: safe_get_full_fp32_param(p).clone() for name, p in actor.actor.model.module.named_parameters()}


def train(path: str, samples: list[Any], batches: int = 1, steps: int = 1000, **flags: Any) -> dict[str, Any]:
    """Update `batches` times on the same samples."""
    import os

    args = arguments(int(os.environ["WORLD_SIZE"]), **flags)
    actor = policy(path, args, steps)
    metrics = []
    for number in range(batches):
        if args.ds.enable_sleep and number:
            actor.offload_states()
        if args.ds.enable_sleep:
            actor.reload_states()  # OpenRLHF's trainer has them loaded during `fit` alone
        metrics.append(update(actor, samples))
    return {"metrics": metrics, "weights": whole_weights(actor), "masters": masters(actor)}


def save(path: str, samples: list[Any], target: str, **flags: Any) -> None:
    """Update once and save the model."""
    import os

    args = arguments(int(os.environ["WORLD_SIZE"]), **flags)
    args.ckpt.output_dir = str(Path(target))
    actor = policy(path, args)
    update(actor, samples)
    actor.save_model()
