"""Reads and writes "host:port", and finds the address under which others reach this machine.

Shell: asks the system's routing table, without sending a packet.
"""

from __future__ import annotations

import socket
from typing import Any

ANY = ("", "0.0.0.0", "::")
NOWHERE = "192.0.2.1:9"  # a documentation address: the way to it is the way out


def reachable(listen: str, seeds: tuple[str, ...]) -> str:
    """Return `listen`, with "any address" replaced by the one that the way to a seed uses."""
    host, port = split(listen)
    if host not in ANY:
        return listen
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for seed in (*seeds, NOWHERE):
            try:
                probe.connect(split(seed))  # of a datagram socket: no packet is sent
            except OSError:
                continue
            return f"{probe.getsockname()[0]}:{port}"
    return f"127.0.0.1:{port}"


def split(address: str) -> tuple[str, int]:
    """Return host and port; brackets of an IPv6 host are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join(source: tuple[Any, ...]) -> str:
    """Return a socket's address as text."""
    host, port = source[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
