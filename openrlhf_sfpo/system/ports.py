"""Free TCP ports."""

import socket


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that is free at the moment.

    Args:
        address: the interface's address; "" means all interfaces.
    """
    with socket.socket() as free:
        free.bind((address, 0))
        port: int = free.getsockname()[1]
    return port
