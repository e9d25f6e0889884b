"""Holds an accepted connection until its first bytes say which protocol it speaks.

Shell: of `net.peers`, which gives it to whoever speaks that.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from mesh.net import handover
from mesh.net.peer import HANDSHAKE_S
from mesh.wire.pulse import TICK_S


class House(Protocol):
    """What stands behind the door; `net.peers.Peers` is one."""

    def admit(self, door: Door) -> None:
        """Remember a connection that has said nothing yet."""

    def accept(self, door: Door, transport: asyncio.Transport, data: bytes) -> None:
        """Give a connection to whoever speaks its protocol."""

    def forget(self, door: Door, *, is_silent: bool = False) -> None:
        """Forget one that is gone; `is_silent`: because nothing came in time."""


class Door(asyncio.Protocol):
    """An accepted connection whose first bytes have not arrived."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._transport: asyncio.Transport | None = None
        self._begun = b""
        self._ticks_left = int(HANDSHAKE_S / TICK_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first bytes."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own class
        self._house.admit(self)

    def data_received(self, data: bytes) -> None:
        """Pass it on, once it is clear to whom."""
        assert self._transport is not None
        self._begun += data
        if not handover.is_partial(self._begun):
            self._house.accept(self, self._transport, self._begun)

    def connection_lost(self, exc: Exception | None) -> None:
        """Be forgotten."""
        self._house.forget(self)

    def tick(self) -> None:
        """Close if nothing has come for long; called every `pulse.TICK_S`."""
        self._ticks_left -= 1
        if self._ticks_left <= 0:
            self._house.forget(self, is_silent=True)
            self.leave()

    def leave(self) -> None:
        """Close."""
        if self._transport is not None:
            self._transport.close()
