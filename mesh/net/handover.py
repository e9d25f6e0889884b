"""Hands connections over to threads, which read and write them by themselves.

Shell: `net.peers` accepts them at the door of all others and gives them here by their
first bytes. Where two threads of two nodes send each other small things at each step, the
two event loops between them cost more than the network: four wake-ups in place of one.

    dial                                accept
    MARK | token of 16 bytes   ->
                               <-  TAKEN: from here on the thread reads

The token is a secret of the mesh: whoever dials was told it by a call, and those are
between nodes that have proved who they are. Each is good for one connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from mesh.errors import ConnectionLost, Unreachable

MARK = b"\x8amesh track\r\n\x01"
TOKEN_BYTES = 16
TAKEN = b"\x06"
_FIRST_BYTES = len(MARK) + TOKEN_BYTES

Take = Callable[[socket.socket], None]


def is_partial(data: bytes) -> bool:
    """Return whether these first bytes are the beginning of ours, and not all of them."""
    return len(data) < _FIRST_BYTES and MARK.startswith(data[: len(MARK)])


class Handover:
    """Who waits for which connection; on the event loop."""

    def __init__(self) -> None:
        self._takers: dict[bytes, Take] = {}

    def expect(self, token: bytes, take: Take) -> None:
        """Let `take` have the connection that brings this token; called on the loop."""
        assert len(token) == TOKEN_BYTES
        self._takers[token] = take

    def forget(self, token: bytes) -> None:
        """Expect it no more."""
        self._takers.pop(token, None)

    def accept(self, transport: asyncio.Transport, data: bytes) -> None:
        """Give a connection to who waits for it; close it if nobody does."""
        take = self._takers.pop(data[len(MARK) :], None)
        if take is None:
            transport.abort()
            return
        sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        transport.abort()  # the loop's copy; the thread's stays open
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.sendall(TAKEN)
        except OSError:  # whoever dialled has gone again, and dials anew if it still wants to
            sock.close()
            return
        take(sock)


def dial(host: str, port: int, token: bytes, within_s: float) -> socket.socket:
    """Return a connection that a thread of the other side has taken; blocks.

    Raises:
        Unreachable: nobody is there.
        ConnectionLost: nobody there expects it.
    """
    where = f"{host}:{port}"
    try:
        sock = socket.create_connection((host, port), timeout=within_s)
    except OSError as error:
        raise Unreachable(f"{where}: {error}") from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(MARK + token)
        if sock.recv(1) != TAKEN:
            raise ConnectionLost(f"{where} expects no such connection")
        sock.settimeout(None)
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"{where}: {error}") from error
    except ConnectionLost:
        sock.close()
        raise
    return sock
