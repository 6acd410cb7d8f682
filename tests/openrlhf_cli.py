"""Run OpenRLHF's train_ppo_ray with the words given, up to its `train`; print what that would get, as JSON.

Flags of openrlhf_sfpo are left out, and where `train` comes from is in it.
"""

import json
import runpy
import sys

import ray

from openrlhf_sfpo.config import SECTIONS
from openrlhf_sfpo.orchestration import flash_attn_stub
from openrlhf_sfpo.orchestration.preflight import dotted

flash_attn_stub.install_if_missing()


class Reached(BaseException):
    """Carries what the first call of `train` sees."""


def is_initialized() -> bool:
    frame = sys._getframe(1)  # train's first statement asks this
    raise Reached(frame.f_code.co_name, frame.f_locals["args"], frame.f_globals["PolicyModelActor"])


ray.is_initialized = is_initialized
try:
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
except Reached as reached:
    name, args, actor = reached.args
    values = {
        key: str(value)
        for key, value in dotted(args).items()
        if key.partition(".")[0] not in SECTIONS.keys() - {"rollout"}
        and key != "actor.backend"
        # a time is in their defaults
        and not key.startswith("logger.wandb.run_name")
    }
    module = actor.__ray_metadata__.modified_class.__module__
    print(json.dumps({"function": name, "actor": module, "args": values}, sort_keys=True))
