"""SFPO in the user's own OpenRLHF: called by the patched `openrlhf.cli.train_ppo_ray`.

Without --sfpo.enable and with --actor.backend deepspeed, the defaults here, OpenRLHF is unchanged. Must be imported
before OpenRLHF's own modules: they import flash_attn, which a machine without CUDA lacks.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from openrlhf_sfpo.config.checks import check_backend, check_no_other_models, check_values
from openrlhf_sfpo.config.flag_table import add_sections, defaults
from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.config.placement import check_placement, engines_share_gpus, ray_address
from openrlhf_sfpo.orchestration import hooks
from openrlhf_sfpo.system import flash_attn_stub
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.replaced_names import ON_OBJECTS, REPLACEMENTS
from openrlhf_sfpo.system.replacements import replaced, replaced_on

flash_attn_stub.install_if_missing()

# Of OpenRLHF's versions from 0.10.4 on, those with the names that the Megatron actor replaces.
_MEGATRON_VERSIONS = ("0.11.2",)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --sfpo.*, --megatron.* and --actor.backend to OpenRLHF's parser."""
    add_sections(parser, ("sfpo", "megatron"), backend="deepspeed")
    parser.set_defaults(**{"sfpo.enable": False})


def train(openrlhf_train: Callable[[Any], None], args: NestedFlags) -> None:
    """Train as the flags say. Exits with status 2 if they do not fit together.

    Args:
        openrlhf_train: `openrlhf.cli.train_ppo_ray.train`.
        args: its arguments: OpenRLHF's flags and those of `add_flags`, nested.
    """
    if hooks.is_own_run() or (not args.sfpo.enable and args.actor.backend == "deepspeed"):
        openrlhf_train(args)
        return
    try:
        _check(args)
    except UsageError as error:
        print(f"openrlhf_sfpo: error: {error}", file=sys.stderr)
        sys.exit(2)
    with _prepared(openrlhf_train.__globals__, args):
        openrlhf_train(args)


def _check(args: NestedFlags) -> None:
    from importlib.metadata import version

    check_values(args, ("sfpo", "megatron"))
    check_backend(args)
    found = version("openrlhf")
    if found in hooks.SUPPORTED_VERSIONS:
        hooks.check_signatures()
    if args.actor.backend == "deepspeed":
        return
    check_no_other_models(args, "the Megatron actor")
    check_placement(args)
    if found not in _MEGATRON_VERSIONS:
        raise UsageError(
            "--actor.backend",
            f"is megatron, which needs OpenRLHF {', '.join(_MEGATRON_VERSIONS)}, and {found} is installed.",
            "Use deepspeed, or install that version.",
        )
    from openrlhf_sfpo.orchestration.model_checks import check_model

    check_model(args)


@contextmanager
def _prepared(names: dict[str, Any], args: NestedFlags) -> Iterator[None]:
    """Replace the classes that OpenRLHF's train function looks up with ours, until the block ends.

    Args:
        names: that function's globals.
        args: its arguments; settings that depend on the device are filled in.
    """
    from openrlhf_sfpo.cluster.start import start_ray, stop_ray
    from openrlhf_sfpo.config.device_defaults import has_cuda
    from openrlhf_sfpo.orchestration.bundle_order import node_by_node

    on_cpu = not has_cuda() and not ray_address()
    ours_alone = on_cpu or args.actor.backend == "megatron"
    policy, reference = hooks.model_actors(args.actor.backend)
    classes = {"PolicyModelActor": policy, "ReferenceModelActor": reference if ours_alone else None}
    _resolve_defaults(args, "cpu" if on_cpu else "cuda")
    with ExitStack() as stack:
        if on_cpu:
            stack.callback(stop_ray)
            start_ray(args)
        if ours_alone:
            bundles = REPLACEMENTS["openrlhf.trainer.ray.launcher.PlacementGroupSchedulingStrategy"]
            stack.enter_context(replaced(bundles, node_by_node))
            engines = REPLACEMENTS["openrlhf.trainer.ray.vllm_engine.RolloutRayActor"]
            stack.enter_context(replaced(engines, _engine_class("cpu" if on_cpu else "cuda", args)))
        for name, value in classes.items():
            if value is not None:
                entry = ON_OBJECTS[f"openrlhf.cli.train_ppo_ray.{name}"]
                stack.enter_context(replaced_on(entry, names, value))
        yield


def _resolve_defaults(args: NestedFlags, device: str) -> None:
    """Fill in defaults that depend on the device, and our settings that have no flags here."""
    from openrlhf_sfpo.config.device_defaults import resolve_device_defaults
    from openrlhf_sfpo.config.namespaces import dotted, nested
    from openrlhf_sfpo.orchestration import backend_flags

    without_flags = [
        defaults(section)
        for section in ("run", "rollout", "train", "ckpt", "vllm", "algo.greso", "algo.adaptive_entropy")
    ]
    values = {name: value for part in [*without_flags, dotted(args)] for name, value in part.items()}
    values["run.verbose"] = True
    resolve_device_defaults(values, device)
    if args.actor.backend == "megatron":
        backend_flags.for_megatron(values)
    elif device == "cpu":
        backend_flags.for_deepspeed_on_cpu(values)
    vars(args).update(vars(nested(argparse.Namespace(**values))))


def _engine_class(device: str, args: NestedFlags) -> Any:
    from openrlhf_sfpo.orchestration.engine import EngineClass, engine_env
    from openrlhf_sfpo.rollout.weight_sync import backend_for

    return EngineClass(
        engine_env(device, eager=args.vllm.enforce_eager),
        device=device,
        weight_backend=backend_for(device, engines_share_gpus(args)),
        sleep_level=1,  # OpenRLHF's own trainer does not resend weights before it requests responses
        kv_cache_bytes=args.run.kv_cache_mb * 1024 * 1024,
        engine_dtype=args.run.engine_dtype,
        response_seed=None,
        finite_rewards=True,
        reward_timeout=args.run.reward_timeout,
    )
