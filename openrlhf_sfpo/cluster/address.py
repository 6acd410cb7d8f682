"""Checks the Ray cluster that RAY_ADDRESS names: that it answers, and that it requires a token.

Done before `ray.init`, which retries an unreachable address for twelve minutes, and silently joins a cluster without
authentication.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from openrlhf_sfpo.config.placement import ray_address
from openrlhf_sfpo.system.errors import UsageError

OPEN_FLAG = "--run.allow_open_ray"
_SECONDS = 5.0  # for a connection, and for an answer
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Cluster:
    """A cluster that answers.

    Attributes:
        address: HOST:PORT, as `ray.init` takes it.
        asks_for_token: whether it requires a token (or TLS with client certificates).
        on_loopback: whether it listens only on this machine's loopback interface.
    """

    address: str
    asks_for_token: bool
    on_loopback: bool


def check_cluster(allow_open: bool) -> Cluster | None:
    """Find the cluster that RAY_ADDRESS names.

    Args:
        allow_open: --run.allow_open_ray.

    Returns:
        The cluster; None if RAY_ADDRESS names none.

    Raises:
        UsageError: it does not answer, the token is missing or wrong, or the cluster has no authentication.
    """
    asked = ray_address()
    if asked is None:
        return None
    host, port, on_loopback = _endpoint(asked)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return Cluster(address, True, on_loopback)
    status = _ask(address, None)
    if status == "UNAUTHENTICATED":
        _check_token(asked, address)
        return Cluster(address, True, on_loopback)
    if status != "OK":
        raise UsageError(
            "RAY_ADDRESS",
            f"is {asked}, where something listens that does not answer as Ray does ({status}).",
            "Give the address of Ray's head (HOST:6379, not its dashboard's), or unset it to start Ray here.",
        )
    if not (allow_open or on_loopback):
        raise UsageError(
            "RAY_ADDRESS",
            f"is {asked}, a Ray cluster without authentication: anyone who reaches that port can run programs as you.",
            "Start Ray with RAY_AUTH_MODE=token on every node, and set it here, too (docs/security.md shows how); or "
            f"give {OPEN_FLAG} on a network that you trust.",
        )
    return Cluster(address, False, on_loopback)


def token() -> str | None:
    """The token, from where Ray looks for it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; None
    without one."""
    if text := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return text
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        path = Path(named) if named else Path.home() / ".ray" / "auth_token"
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, RuntimeError):
        return None


def use_token_authentication() -> None:
    """Make Ray use the token in this process and its children, even if Ray has been imported before."""
    os.environ["RAY_AUTH_MODE"] = "token"
    read_settings_again()


def read_settings_again() -> None:
    """Make Ray read RAY_AUTH_* again; by itself it does so only when imported."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # not in its stub

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _endpoint(asked: str) -> tuple[str, int, bool]:
    """The first host and port that accept connections, and whether only the loopback interface does."""
    if asked.startswith("ray://"):
        raise UsageError(
            "RAY_ADDRESS",
            f"is {asked}, an address of Ray Client, which cannot run training.",
            "Give HOST:6379 on a node of the cluster, or submit the run with examples/ray_job.sh.",
        )
    host, port = _split(_running_here() if asked == "auto" else asked, asked)
    hosts = [host]
    if host in _LOOPBACK:  # Ray replaces it by this machine's network address, and may listen on either
        from ray._private.services import get_node_ip_address

        hosts = [*dict.fromkeys((get_node_ip_address(), "127.0.0.1"))]
    failure = ""
    for candidate in hosts:
        try:
            with socket.create_connection((candidate, port), timeout=_SECONDS):
                return candidate, port, candidate in _LOOPBACK
        except OSError as error:
            failure = error.strerror or str(error) or "no answer"
    raise UsageError(
        "RAY_ADDRESS",
        f"is {asked}, where nothing answers ({failure}).",
        "Start Ray there (ray start --head), correct the address, or unset it to start Ray on this machine.",
    )


def _split(address: str, asked: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError("RAY_ADDRESS", f"is {asked}, which is no HOST:PORT.", "Write it as in node1:6379, or auto.")
    return host.strip("[]"), int(port)


def _running_here() -> str:
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address("auto")
    except ConnectionError:
        found = None
    if found is None:
        raise UsageError(
            "RAY_ADDRESS",
            "is auto, and no Ray runs on this machine.",
            "Start one (ray start --head), or unset RAY_ADDRESS: the run then starts its own.",
        )
    return found


def _check_token(asked: str, address: str) -> None:
    own = token()
    if own is None:
        raise UsageError(
            "RAY_ADDRESS",
            f"is {asked}, a Ray cluster that asks for a token, and there is none here.",
            "Set RAY_AUTH_TOKEN_PATH to the file with the token that it was started with.",
        )
    status = _ask(address, own)
    if status != "OK":
        raise UsageError(
            "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH",
            f"hold a token that the Ray cluster at {asked} does not take ({status}).",
            "Use the one that the cluster was started with.",
        )


def _ask(address: str, bearer: str | None) -> str:
    """Ask Ray's control service for its cluster ID; return gRPC's status, "OK" if it answered."""
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    metadata = (("authorization", f"Bearer {bearer}"),) if bearer else None
    # Not through a web proxy (http_proxy), which gRPC would use.
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            request = gcs_service_pb2.GetClusterIdRequest()  # type: ignore[attr-defined]  # made at run time
            stub.GetClusterId(request, timeout=_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"
