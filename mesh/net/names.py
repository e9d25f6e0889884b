"""Turns "host:port" into socket addresses without ever blocking the loop.

Shell: a small cache over the loop's resolver, for `net.membership`. Names are
resolved again and again: a seed may come back under another address.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

FRESH_S = 30.0  # how long a resolved name is used before it is asked again
RETRY_S = 2.0  # how soon a name that did not resolve is asked again
NAMES_MAX = 4096

SocketAddress = tuple[str, int]


class Names:
    """Addresses known so far; `lookup` never waits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[SocketAddress | None, float]] = {}

    def lookup(self, address: str) -> SocketAddress | None:
        """Return where to send, or None while a name is not resolved yet."""
        found = self._known.get(address)
        if found is None:
            literal = _literal(address)
            if literal is None:
                return None
            found = (literal, float("inf"))
            self._keep(address, found)
        return found[0]

    def is_stale(self, address: str) -> bool:
        """Whether `resolve` should be called; says so once per attempt."""
        now_s = self._clock()
        found, until_s = self._known.get(address, (None, 0.0))
        if now_s < until_s:
            return False
        self._keep(address, (found, now_s + RETRY_S))
        return True

    async def resolve(self, address: str) -> None:
        """Ask the resolver; what it does not know stays as it was."""
        host, _, port = address.rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_DGRAM
            )
        except (OSError, ValueError, UnicodeError):
            return  # asked again after RETRY_S
        where = found[0][4]
        self._keep(address, ((str(where[0]), int(where[1])), self._clock() + FRESH_S))

    def _keep(self, address: str, value: tuple[SocketAddress | None, float]) -> None:
        if address not in self._known and len(self._known) >= NAMES_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[address] = value


def _literal(address: str) -> SocketAddress | None:
    """Return an address that needs no resolver."""
    host, _, port = address.rpartition(":")
    try:
        return str(ip_address(host.strip("[]"))), int(port)
    except ValueError:
        return None
