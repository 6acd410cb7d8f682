"""Sockets on which a process tree listens, according to the kernel."""

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Socket:
    """A socket on which a process waits for others: listening TCP, or UDP that is bound and not connected."""

    process: str
    kind: str
    address: str
    port: int

    @property
    def on_loopback(self) -> bool:
        address = ipaddress.ip_address(self.address)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def sockets_of(root: psutil.Process) -> set[Socket]:
    """The sockets of a process and of everything it started."""
    found: set[Socket] = set()
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return found
    for process in family:
        try:
            name = process.name()
            connections = process.net_connections("inet")
        except psutil.Error:  # it has ended
            continue
        for one in connections:
            udp = one.type.name == "SOCK_DGRAM"
            if one.laddr and (one.status == psutil.CONN_LISTEN or (udp and not one.raddr)):
                found.add(Socket(name, "UDP" if udp else "TCP", one.laddr.ip, one.laddr.port))
    return found


def watch(
    root: psutil.Process, seconds: float, interval: float = 0.25, also: Callable[[], None] = lambda: None
) -> set[Socket]:
    """All sockets seen while the process ran, for at most `seconds`; `also` is called after each look. Looking takes up
    to a tenth of a core's time, so as not to slow down what is watched."""
    seen: set[Socket] = set()
    until = time.monotonic() + seconds
    while root.is_running() and root.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        began = time.monotonic()
        seen |= sockets_of(root)
        also()
        time.sleep(max(interval, 9 * (time.monotonic() - began)))
    return seen
