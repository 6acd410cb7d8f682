"""Run OpenRLHF's train_ppo_ray with the given flags, up to where its `train` would start Ray; then have the actor class
that it would have started make two updates on one CPU rank, with the arguments that it would have had.

    python openrlhf_training.py MODEL SAMPLES.pt WEIGHTS.pt FLAGS...

The weights go to WEIGHTS.pt; a line of JSON names the function and the actor's module, and has the arguments.
"""

import json
import os
import runpy
import socket
import sys
from typing import Any

import ray
import torch

from openrlhf_sfpo.config.flags import SECTIONS
from openrlhf_sfpo.config.namespaces import dotted
from openrlhf_sfpo.orchestration.ray_classes import unwrap_ray_class
from openrlhf_sfpo.system import flash_attn_stub

flash_attn_stub.install_if_missing()


class Reached(BaseException):
    """Carries what the first call of `train` sees."""


def is_initialized() -> bool:
    frame = sys._getframe(1)  # train's first statement calls this
    raise Reached(frame.f_code.co_name, frame.f_locals["args"], frame.f_globals["PolicyModelActor"])


def reached() -> tuple[str, Any, Any]:
    """The function that was about to train, its arguments, and its Ray actor class."""
    os.environ["RAY_ADDRESS"] = "none"  # with an address, openrlhf_sfpo starts no Ray of its own
    original, ray.is_initialized = ray.is_initialized, is_initialized
    try:
        runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
    except Reached as at:
        return at.args
    finally:
        ray.is_initialized = original
    raise AssertionError("train was not called")


def policy(ray_class: Any, args: Any, model: str) -> Any:
    """An actor of the class, in this process."""
    from openrlhf.utils import get_strategy

    from openrlhf_sfpo.orchestration import deepspeed_cpu as cpu

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    cpu.install(1)
    args.ds.attn_implementation, args.ds.param_dtype = "sdpa", "fp32"
    actor_class: Any = unwrap_ray_class(ray_class)
    actor = actor_class.__new__(actor_class)
    actor._rank, actor._world_size = 0, 1
    actor.init_model_from_pretrained(get_strategy(args), model, max_steps=100, vllm_engines=None)
    return actor


def shown(args: Any) -> dict[str, str]:
    """OpenRLHF's own arguments."""
    ours = tuple(f"{section}." for section in SECTIONS.keys() - {"rollout", "actor", "data"})
    return {
        name: str(value)
        for name, value in dotted(args).items()
        # Run names contain the time.
        if not name.startswith((*ours, "actor.backend", "logger.wandb.run_name"))
    }


if __name__ == "__main__":
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # OpenRLHF compiles its log-probs
    import deepspeed_jobs as ds

    model, samples, target, *flags = sys.argv[1:]
    sys.argv[1:] = flags
    function, args, ray_class = reached()
    said = {"function": function, "actor": unwrap_ray_class(ray_class).__module__, "args": shown(args)}
    actor = policy(ray_class, args, model)
    for _ in range(2):
        ds.update(actor, torch.load(samples, weights_only=False))
    torch.save(ds.whole_weights(actor), target)
    print(json.dumps(said, sort_keys=True))
