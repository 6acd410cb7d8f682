"""Ports for processes that meet."""

import socket


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on at the moment.

    Args:
        address: of the interface; "" means all of them.
    """
    with socket.socket() as free:
        free.bind((address, 0))
        port: int = free.getsockname()[1]
    return port
