"""Answers plain requests itself, and hands every other connection to aiohttp.

Shell: stands where connections are accepted. A POST to a pipeline or a role that `api.head`
finds plain, whose body is small and here, is answered with one write: aiohttp's machinery
for everything a request can be took twice the time of all that a mesh does for one of a small
model. At the first request that is anything else the connection becomes aiohttp's for good,
with every byte that was not yet answered: what is unusual has one reference, and no
connection goes back and forth.

    accept --> plain? --yes--> native door --> one write --> next request
                 '----no, or slow to come----> aiohttp, which sees it as its first

Requests of one connection are answered one after another, as aiohttp does. Hosts, keys, limits,
errors, metrics and lines are those of `api.guard`, `api.native` and `flow.admission`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from time import monotonic
from typing import cast

from aiohttp.tcp_helpers import tcp_keepalive

from mesh.api import answer, head, intake
from mesh.api.guard import Guard
from mesh.api.head import BODY_BYTES_MAX, END, HEAD_BYTES_MAX
from mesh.api.native import PipelineDoor, RoleDoor
from mesh.api.parts import Parts
from mesh.api.plain import Plain, Work
from mesh.api.whole import spelled
from mesh.errors import MeshError, Overloaded

PATIENCE_S = 0.25  # a request that is not whole by then is slow: aiohttp knows how long to wait
IDLE_LOOK_S = 5.0  # how much longer than agreed a connection may stay that nobody uses
UNREAD_S = 75.0  # a client that takes nothing of its answer for so long holds memory for nothing
HEADS_MAX = 256  # plain heads kept; clients send the same one with each request
# What may wait behind a request: one more of the longest kind; then none is read.
BUFFER_BYTES_MAX = HEAD_BYTES_MAX + len(END) + BODY_BYTES_MAX


class Front:
    """What the connections of one node share.

    Args:
        parts: of the node.
        guard: the same that stands before aiohttp's handlers.
        fallback: makes aiohttp's side of a connection, given what to call when that is gone.
        keepalive_s: how long a connection may be idle.
        connections_max: more are told so, and closed.
    """

    def __init__(
        self,
        parts: Parts,
        guard: Guard,
        fallback: Callable[[Callable[[], None]], asyncio.Protocol],
        keepalive_s: float,
        connections_max: int,
    ) -> None:
        self.parts = parts
        self.guard = guard
        self.connections: set[Connection] = set()
        self.is_closing = False
        self._fallback = fallback
        self._keepalive_s = keepalive_s
        self._connections_max = connections_max
        self._handed_over = 0  # connections that are aiohttp's now
        self._plain: dict[bytes, Plain] = {}
        self._slow: set[Connection] = set()  # whose request is not whole
        self._slow_look: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._idle_look = self._loop.call_later(IDLE_LOOK_S, self._look_idle)
        self._ended = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than may be."""
        return len(self.connections) + self._handed_over > self._connections_max

    def accept(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self)

    def fallback(self) -> asyncio.Protocol:
        """Return aiohttp's side of a connection that is handed over."""
        self._handed_over += 1
        return self._fallback(self._lost)

    def refusal(self) -> bytes:
        """Return what a connection is told for which there is no place; it is counted."""
        admission = self.parts.admission
        admission.refused_connections += 1
        error = Overloaded(f"{self._connections_max} connections are open, which is the limit")
        request_id = intake.new_id()
        response = answer.failed(error, answer.error_body(error, request_id))
        return spelled(response, f"X-Request-ID: {request_id}\r\nConnection: close\r\n")

    def plain(self, data: bytes) -> Plain | None:
        """Return what a head means, if it is plain and may enter; None: aiohttp shall see it."""
        plain = self._plain.get(data)
        is_new = plain is None
        if plain is None:
            plain = self._read(data)
            if plain is None:
                return None
        try:
            # What they say may change, as members and topologies do.
            self.guard.check("POST", plain.head.path, plain.fields)
            plain.door.check()
        except MeshError:
            return None
        if is_new and plain.is_kept:
            if len(self._plain) >= HEADS_MAX:
                self._plain.clear()
            self._plain[data] = plain
        return plain

    def expect(self, connection: Connection) -> None:
        """Look after a connection whose request is not whole."""
        self._slow.add(connection)
        if self._slow_look is None:
            self._slow_look = self._loop.call_later(PATIENCE_S, self._look_slow)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that is gone, or aiohttp's."""
        self.connections.discard(connection)
        self._slow.discard(connection)
        if self.is_closing and not self.connections:
            self._ended.set()

    async def aclose(self, within_s: float) -> None:
        """Close what is idle, let what is busy end, and cut off what takes too long."""
        self.is_closing = True
        self._idle_look.cancel()
        if self._slow_look is not None:
            self._slow_look.cancel()
        for connection in tuple(self.connections):
            connection.leave()
        if self.connections:
            try:
                async with asyncio.timeout(within_s):
                    await self._ended.wait()
            except TimeoutError:
                for connection in tuple(self.connections):
                    connection.abort()

    def _lost(self) -> None:
        self._handed_over -= 1

    def _read(self, data: bytes) -> Plain | None:
        found = head.read(data)
        if found is None or found.length > self.parts.settings.limits.body_bytes_max:
            return None
        if answer.EVENTS in found.fields.get("accept", ""):
            return None
        kind = RoleDoor if found.kind == "roles" else PipelineDoor
        try:
            return Plain(found, kind(self.parts, found.name))
        except MeshError:
            return None

    def _look_slow(self) -> None:
        self._slow_look = None
        now_s = monotonic()
        for connection in tuple(self._slow):
            if connection.is_whole:
                self._slow.discard(connection)
            elif now_s - connection.since_s >= PATIENCE_S:
                connection.hand_over()
        if self._slow:
            self._slow_look = self._loop.call_later(PATIENCE_S, self._look_slow)

    def _look_idle(self) -> None:
        oldest_s = monotonic() - self._keepalive_s
        for connection in tuple(self.connections):
            if connection.is_idle and connection.since_s < oldest_s:
                connection.leave()
        self._idle_look = self._loop.call_later(IDLE_LOOK_S, self._look_idle)


class Connection(asyncio.Protocol):
    """One connection, until it is lost or aiohttp's.

    Attributes:
        since_s: when the request that is not yet whole began to come, or the last one was answered.
    """

    __slots__ = ("_buffer", "_front", "_is_deaf", "_is_paused", "_transport", "_work",
                 "is_whole", "since_s")  # fmt: skip

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._work: Work | None = None
        self._is_paused = False  # the client does not read
        self._is_deaf = False  # we do not read
        self.is_whole = True
        self.since_s = monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked."""
        return self._work is None and not self._buffer

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the other side."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own class
        _watch(self._transport)
        self._front.connections.add(self)
        if self._front.is_closing:
            self._transport.close()
        elif self._front.is_full:
            self._transport.write(self._front.refusal())
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        if self._buffer:
            data = self._buffer + data
        self._buffer = data
        if self._work is None:
            self._go_on()
        if len(self._buffer) > BUFFER_BYTES_MAX and self._transport and not self._is_deaf:
            self._is_deaf = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """Answer nothing more for now."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        if self._work is None:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what is under way."""
        self._transport = None
        self._buffer = b""
        self._front.forget(self)
        if self._work is not None:
            self._work.cancel()

    # What the front says.

    def leave(self) -> None:
        """Close, after the answer that is under way if there is one."""
        if self._work is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def hand_over(self) -> None:
        """Let aiohttp go on from the first byte that was not answered."""
        transport, data = self._transport, self._buffer
        if transport is None or self._work is not None:
            return
        self._transport, self._buffer = None, b""
        self._front.forget(self)
        if self._is_deaf:
            transport.resume_reading()
        protocol = self._front.fallback()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._is_paused:
            protocol.pause_writing()  # it will hear of the end of the pause, too
        protocol.data_received(data)

    # What requests do.

    def answer(self, data: bytes) -> None:
        """Send the answer of the request under way, and take the next one."""
        self._work = None
        transport = self._transport
        if transport is None:
            return
        transport.write(data)
        if self.is_last:
            transport.close()
            return
        self.since_s = monotonic()
        if self._buffer:
            # Not at once: others have waited too, and each such answer would deepen the stack.
            asyncio.get_running_loop().call_soon(self._go_on)

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with the answer under way.

        It does at a door that takes nothing new: a client that kept the connection would send
        its next request just when the node ends, and could not know whether it was read.
        """
        return self._front.is_closing or self._front.parts.admission.is_draining

    def _go_on(self) -> None:
        """Begin the next request if it is whole."""
        data = self._buffer
        if self._work is not None or self._is_paused or not data or self._transport is None:
            return
        end = data.find(END)
        if end < 0:
            if head.may_begin(data):
                self._wait()
            else:
                self.hand_over()
            return
        plain = self._front.plain(data[:end])
        if plain is None:
            self.hand_over()
            return
        begin = end + len(END)
        stop = begin + plain.head.length
        if len(data) < stop:
            self._wait()
            return
        if self.is_whole:
            self.since_s = monotonic()
        work = Work(self, self._front.parts, self._front.guard, plain, self.since_s)
        if not work.read(data[begin:stop]):
            self.hand_over()
            return
        self._buffer, self.is_whole = data[stop:], True
        if self._is_deaf and len(self._buffer) <= BUFFER_BYTES_MAX:
            self._is_deaf = False
            self._transport.resume_reading()
        self._work = work
        work.begin()

    def _wait(self) -> None:
        if self.is_whole:
            self.is_whole, self.since_s = False, monotonic()
            self._front.expect(self)


def _watch(transport: asyncio.Transport) -> None:
    """Let the kernel find out that a client is gone, or reads no more; aiohttp's side too."""
    tcp_keepalive(transport)
    sock = transport.get_extra_info("socket")
    if sock is not None:  # else this is no connection of TCP: a test's
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_S * 1000))
