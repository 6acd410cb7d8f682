"""Keeps the processes of a run on one machine from listening to the network.

torch, gloo, NCCL, vLLM and Ray listen on the machine's network address, or on all addresses, by default. Their
protocols have no authentication (except Ray's, with a token), and some execute code that they receive.
"""

import errno
import importlib
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
from openrlhf_sfpo.system.replacements import install as replace

ADDRESS = "127.0.0.1"
_LOOPBACK_KIND = "772"  # ARPHRD_LOOPBACK in Linux's if_arp.h

_NARROW = "is_narrow"  # marks the replacement


def environment() -> dict[str, str]:
    """Environment variables that make the libraries use the loopback interface, for all processes of a run on one
    machine."""
    interface = _interface()
    return {
        # Ray's own switch for machines without a cluster: its address is 127.0.0.1, and it listens only there.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": f"={interface}",
        "TP_SOCKET_IFNAME": interface,
        "VLLM_HOST_IP": ADDRESS,
        "VLLM_LOOPBACK_IP": ADDRESS,
    }


def _interface() -> str:
    """The loopback interface's name."""
    for kind in sorted(Path("/sys/class/net").glob("*/type")):
        if kind.read_text(encoding="utf-8").strip() == _LOOPBACK_KIND:
            return kind.parent.name
    return "lo"


def keep_stores_on_loopback() -> None:
    """Make torch's rendezvous (`tcp://` and `env://`) listen on the given address only, such as MASTER_ADDR.

    By default its TCPStore listens on all interfaces. May be called more than once.
    """
    # The attribute `torch.distributed.rendezvous` is the function, not the module.
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    original = rendezvous._create_c10d_store
    if getattr(original, _NARROW, False):
        return

    def create_store(
        hostname: str, port: int, rank: int, world_size: int, timeout: timedelta, use_libuv: bool = True
    ) -> Any:
        if rank != 0 or rendezvous._torchelastic_use_agent_store():
            return original(hostname, port, rank, world_size, timeout, use_libuv)
        try:
            listening = _listen(hostname, port)
        except OSError as error:
            # EADDRINUSE: torch may already share a store in this process. EADDRNOTAVAIL: the address is a host that
            # forwards to us, such as a container's.
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
            return original(hostname, port, rank, world_size, timeout, use_libuv)
        return rendezvous.TCPStore(
            host_name=hostname,
            port=listening.getsockname()[1],
            world_size=world_size,
            is_master=True,
            timeout=timeout,
            multi_tenant=True,
            master_listen_fd=listening.detach(),
            use_libuv=use_libuv,
        )

    setattr(create_store, _NARROW, True)
    replace(REPLACEMENTS["torch.distributed.rendezvous._create_c10d_store"], create_store)


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError:
        listening.close()
        raise
    return listening
