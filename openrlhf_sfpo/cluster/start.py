"""Starting Ray on this machine, or joining the cluster that RAY_ADDRESS names."""

import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from openrlhf_sfpo.cluster import address as ray_cluster
from openrlhf_sfpo.cluster.local import LocalSurroundings, keep_ray_logs
from openrlhf_sfpo.cluster.nodes import this_node
from openrlhf_sfpo.cluster.worker import KEYS_VARIABLE
from openrlhf_sfpo.config.device_defaults import has_cuda
from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.config.placement import gpus_needed, ray_address
from openrlhf_sfpo.system.cpus import usable_cpus
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.keys import environment_to_pass_on
from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
from openrlhf_sfpo.system.replacements import install as replace
from openrlhf_sfpo.system.search_path import ENVIRONMENT

_WORKER_SETUP = "openrlhf_sfpo.cluster.worker.setup"

_surroundings: list[LocalSurroundings] = []  # of the Ray that this process started, if any
_keys: list[str] = []  # entries that this process made in a cluster's key-value store


def start_ray(args: NestedFlags) -> str:
    """Start Ray on this machine, or join the cluster that RAY_ADDRESS names; return the actor's device.

    A Ray that is started here listens only on the loopback interface, and requires a token. Without GPUs it gets
    "logical" GPUs, so that OpenRLHF's placement works unchanged.

    Raises:
        UsageError: Ray has fewer GPUs than the flags ask for, the device does not fit, or the cluster cannot be joined.
    """
    if ray_address() is None:
        return _start_here(args)
    return _join(args)


def stop_ray() -> None:
    """Stop the Ray that `start_ray` started and remove its files, or leave the cluster."""
    import ray

    if ray.is_initialized():
        _forget_keys()
        ray.shutdown()
    while _surroundings:
        _surroundings.pop().close()


def keep_logs(target: Path) -> Path | None:
    """Keep Ray's logs after a failure: copy them to `target` if `stop_ray` would remove them. Return their directory,
    or None if Ray is not running."""
    import ray

    if not ray.is_initialized():
        return None
    session = Path(this_node().get_session_dir_path())
    return keep_ray_logs(session, target) if _surroundings else session / "logs"


def _start_here(args: NestedFlags) -> str:
    # First, so that modules imported later create their temporary files there.
    _surroundings.append(LocalSurroundings())
    import ray

    cuda = has_cuda()
    if args.megatron.device == "cuda" and not cuda:
        raise UsageError("--megatron.device", "is cuda, and this machine has no GPU.", "Use auto, or set RAY_ADDRESS.")
    if args.megatron.device == "cpu" and cuda:
        raise UsageError(
            "--megatron.device",
            "is cpu on a machine with GPUs.",
            "Use auto, or hide them with CUDA_VISIBLE_DEVICES=''.",
        )
    needed = gpus_needed(args)
    options = _options(args)
    options.update(address="local", include_dashboard=False, _temp_dir=str(_surroundings[-1].scratch.ray))
    if not cuda:
        cpus = max(usable_cpus(), needed + 4)
        options.update(num_gpus=needed, num_cpus=cpus, object_store_memory=2**30)
    # Variables of Slurm or the user that hide GPUs do not apply to logical GPUs; Ray would refuse to count them.
    hidden = None if cuda else os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        ray.init(**options)
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden
    _check_count(needed, "Ask for fewer, or set RAY_ADDRESS to a Ray cluster that has more.")
    return "cuda" if cuda else "cpu"


def join_cluster(allow_open: bool, **options: Any) -> None:
    """Connect to the cluster that RAY_ADDRESS names.

    Args:
        allow_open: --run.allow_open_ray.
        options: arguments of `ray.init`.

    Raises:
        UsageError: it does not answer, has no authentication, or rejects us.
    """
    import ray

    cluster = ray_cluster.check_cluster(allow_open)
    assert cluster is not None
    if cluster.asks_for_token and ray_cluster.token() is not None:
        ray_cluster.use_token_authentication()
    if cluster.on_loopback:
        # Otherwise Ray looks for it at the network address.
        replace(REPLACEMENTS["ray._private.ray_constants.ENABLE_RAY_CLUSTER"], False)
    # The environment variable takes precedence and may say localhost.
    with _environment({"RAY_ADDRESS": cluster.address}):
        try:
            ray.init(address=cluster.address, **options)
        except Exception as error:  # other versions of Ray or Python, or no node of the cluster here
            reason = str(error).strip().splitlines()[0]
            raise UsageError(
                "RAY_ADDRESS",
                f"is {ray_address()}, and Ray cannot join that cluster: {reason}",
                "Start the run on one of its nodes, with the same versions of Ray and Python.",
            ) from None


def _join(args: NestedFlags) -> str:
    import ray

    name = f"openrlhf_sfpo_{secrets.token_hex(8)}"
    options = _options(args)
    options["runtime_env"]["env_vars"][KEYS_VARIABLE] = name
    join_cluster(args.run.allow_open_ray, **options)
    _leave_keys(name)
    resources = ray.cluster_resources()
    if not resources.get("GPU"):
        raise UsageError(
            "RAY_ADDRESS",
            "names a Ray cluster without GPUs.",
            f"On machines without GPUs start it with ray start --head --num-gpus={gpus_needed(args)}, which makes "
            "logical GPUs; on others look at CUDA_VISIBLE_DEVICES where `ray start` is called.",
        )
    _check_count(gpus_needed(args), "Ask for fewer, or add nodes to the Ray cluster.")
    if args.megatron.device != "auto":
        return args.megatron.device
    # For real GPUs Ray adds a resource named after their type; logical GPUs have none.
    return "cuda" if any(name.startswith("accelerator_type:") for name in resources) else "cpu"


def _options(args: NestedFlags) -> dict[str, Any]:
    """Arguments of `ray.init`."""
    environment = {
        **ENVIRONMENT,
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "true"),
        "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
        "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": os.environ.get("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1"),
    }
    return {
        "runtime_env": {"env_vars": environment, "worker_process_setup_hook": _WORKER_SETUP},
        "job_config": job_config(),
        "log_to_driver": args.run.verbose,
        "logging_level": "INFO" if args.run.verbose else "ERROR",
    }


def _check_count(needed: int, fix: str) -> None:
    import ray

    available = int(ray.cluster_resources().get("GPU", 0))
    if available < needed:
        raise UsageError(
            "--actor.num_gpus_per_node, --ref.num_gpus_per_node, --vllm.num_engines, --vllm.tensor_parallel_size",
            f"ask for {needed} GPUs together, but Ray has {available}.",
            fix,
        )


def _leave_keys(name: str) -> None:
    """Pass the driver's keys to the workers on a cluster, which inherit their nodes' environment. They go through Ray's
    key-value store, because Ray writes `env_vars` into its logs and its list of jobs."""
    from ray.experimental.internal_kv import _internal_kv_put

    keys = environment_to_pass_on()
    if keys:
        _internal_kv_put(name.encode(), json.dumps(keys).encode())
        _keys.append(name)


def _forget_keys() -> None:
    from ray.experimental.internal_kv import _internal_kv_del

    while _keys:
        with suppress(Exception):  # the cluster may be gone
            _internal_kv_del(_keys.pop().encode())


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value


class _OwnEntries(list):
    """The directories that Ray adds to its workers' search path, without those that the driver does not search."""

    def extend(self, paths: Iterable[str]) -> None:
        searched = {os.path.realpath(path) for path in sys.path}  # "" is the current directory
        super().extend(path for path in paths if os.path.realpath(path) in searched)


def job_config() -> Any:
    """Ray's job configuration that makes workers search the driver's search path; by default Ray puts the driver's
    current directory first."""
    from ray.job_config import JobConfig

    config = JobConfig()
    assert isinstance(config._py_driver_sys_path, list), "Ray keeps its workers' search path elsewhere"
    config._py_driver_sys_path = _OwnEntries()
    return config


def gpus_of_cluster(allow_open: bool) -> tuple[int, int]:
    """The number of GPUs of the cluster that RAY_ADDRESS names, and how many of them are free.

    Raises:
        UsageError: it cannot be joined.
    """
    import ray

    try:
        join_cluster(allow_open, logging_level="ERROR", log_to_driver=False)
        return int(ray.cluster_resources().get("GPU", 0)), int(ray.available_resources().get("GPU", 0))
    finally:
        ray.shutdown()
