"""Calls between nodes of one process without sockets, for tests of what calls.

A stand-in for `mesh.net.peers.Peers`: handlers run in the caller's task. It can
refuse, stay silent and lose its connection, as the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import ConnectionLost, Unreachable
from mesh.wire.messages import Answer, Call

Handler = Callable[[Call, Any], Awaitable[Answer]]


@dataclass
class FakeAnswered:
    """What a call returns."""

    answer: Answer
    network_ms: float = 0.0


@dataclass
class FakeNetwork:
    """All nodes of a test, by address."""

    nodes: dict[str, FakePeers] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)  # addresses that never answer
    broken: set[str] = field(default_factory=set)  # addresses that drop their connections


class FakePeers:
    """The connections of one node."""

    def __init__(self, network: FakeNetwork, address: str) -> None:
        self.network, self.address = network, address
        self.handlers: dict[str, Handler] = {}
        self.calls: list[tuple[str, Call]] = []
        network.nodes[address] = self

    def serve(self, service: str, handler: Handler) -> None:
        self.handlers[service] = handler

    async def call(self, address: str, call: Call) -> FakeAnswered:
        self.calls.append((address, call))
        await asyncio.sleep(0)
        if address in self.network.silent:
            await asyncio.get_running_loop().create_future()
        if address in self.network.broken:
            raise ConnectionLost(f"{address} went away")
        peer = self.network.nodes.get(address)
        if peer is None or call.to not in peer.handlers:
            raise Unreachable(f"nobody listens at {address}")
        return FakeAnswered(await peer.handlers[call.to](call, None))

    def close(self) -> None:
        """Vanish, as a killed process does."""
        del self.network.nodes[self.address]
