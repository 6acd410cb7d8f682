"""For running OpenRLHF's train_ppo_ray from your own Python without patching it: import this first.

    import openrlhf_sfpo.orchestration.patched.import_hook
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")

OpenRLHF builds its parser under `__main__`, which offers nothing to call. So when that parser parses, this hook adds
the flags, and routes the module's `train` through `entry_point.train`.
"""

import argparse
import functools
import sys
from typing import Any

from openrlhf_sfpo.orchestration.patched import entry_point
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS, REPLACEMENTS
from openrlhf_sfpo.system.replacements import install as replace
from openrlhf_sfpo.system.replacements import install_on

_parse_args = argparse.ArgumentParser.parse_args


def _parse_with_ours(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> argparse.Namespace:
    names = sys._getframe(1).f_globals
    known = {action.dest for action in self._actions}
    # Nothing to do for other parsers, and for a patched OpenRLHF.
    if {"actor.model_name_or_path", "vllm.num_engines"} <= known and "sfpo.enable" not in known and "train" in names:
        entry_point.add_flags(self)
        ours = functools.partial(entry_point.train, names["train"])
        install_on(ON_OBJECTS["openrlhf.cli.train_ppo_ray.train"], names, ours)
    return _parse_args(self, args, namespace)


replace(REPLACEMENTS["argparse.ArgumentParser.parse_args"], _parse_with_ours)
