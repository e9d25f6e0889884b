"""Says what a chain needs of its node: who is there, calls to them, and connections.

Types only; `flow.stages` has them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mesh.wire.messages import Answer, Call, Piece


class Stream(Protocol):
    """A call with pieces; `net.stream.Stream` is one."""

    async def __anext__(self) -> Piece | Answer:
        """Return the next piece, or the answer."""

    async def aclose(self) -> None:
        """Cancel it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live node that may take a part; the head is the first."""

    name: str
    address: str
    memory_bytes: int = 0


class Links(Protocol):
    """What a chain needs of its node; `flow.stages` has it."""

    role: str
    loop: asyncio.AbstractEventLoop

    def candidates(self) -> Sequence[Candidate]:
        """Return the live nodes that may take part, this one first."""

    def expected(self) -> int:
        """Return how many nodes the topology names."""

    def stream(self, address: str, call: Call) -> Stream:
        """Open a call with pieces to another node's stages."""

    async def ping(self, address: str, instance: str, within_s: float) -> bool:
        """Return whether the node is there and answers."""

    def expect(self, token: bytes) -> asyncio.Future[socket.socket]:
        """Return the connection that will bring this token."""

    def forget(self, token: bytes) -> None:
        """Expect it no more."""

    async def dial(self, address: str, token: bytes) -> socket.socket:
        """Connect to a stage that expects this token."""
