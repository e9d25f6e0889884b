"""All connections of this node: makes them on demand, accepts them, and keeps them.

Shell: who calls names an address; which socket carries the call is decided here. A
node calls over connections that it made and serves those that it accepted, so two
nodes share at most one each way.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import socket
import time
from collections import Counter
from typing import Any

from msgspec import structs

from mesh.errors import DeadlineExceeded, MeshError, NotFound, SetupError, Unreachable
from mesh.net import handover
from mesh.net.calls import Answered, Tell, Told
from mesh.net.door import Door
from mesh.net.lines import LinesPeer
from mesh.net.peer import Peer
from mesh.net.refusals import Refusals
from mesh.net.serving import Handler
from mesh.net.stream import Inbox, Reply, Stream, Way
from mesh.settings.schema import Limits
from mesh.wire import connection
from mesh.wire.handshake import NONCE_BYTES
from mesh.wire.lines import FIRST_BYTE
from mesh.wire.messages import Call
from mesh.wire.pulse import TICK_S

__all__ = ["Answered", "Handler", "Peers", "Reply", "Stream"]

CONNECT_S = 1.0  # ordinary networks answer in milliseconds; a dead host never does
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.1, 2.0  # how long a failed address is not tried again
FORGET_S = 600.0  # after it an address that failed is as good as new, and out of statistics
PORT_TRIES = 32  # for a port that is free for both TCP and UDP
BACKLOG = 512


class _Failure:
    """An address that could not be reached, and until when it is not tried again."""

    __slots__ = ("again_s", "message", "wait_s")

    def __init__(self, message: str, wait_s: float) -> None:
        self.message = message
        self.wait_s = wait_s
        self.again_s = time.monotonic() + wait_s


class Peers:
    """The connections of one node.

    Args:
        mesh_name: peers of another mesh are refused.
        node: this node's name, told to peers.
        secret: of the mesh, or ""; peers without it are refused.
        limits: of this node.
    """

    def __init__(self, *, mesh_name: str, node: str, secret: str, limits: Limits) -> None:
        self._mesh = mesh_name
        self._node = node
        self._secret = secret
        self._limits = connection.Limits(
            message_bytes_max=limits.frame_bytes_max, calls_max=limits.requests_max
        )
        self.handover = handover.Handover()  # connections that threads read and write
        self._handlers: dict[str, Handler] = {}
        self._prefixes: dict[str, Handler] = {}
        self._peers: dict[str, Peer] = {}  # that we connected to, by address
        self._others: set[Peer | LinesPeer | Door] = set()  # accepted, or about to end
        self._connecting: dict[str, asyncio.Task[Peer]] = {}
        self._failures: dict[str, _Failure] = {}
        self._server: asyncio.Server | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._refusals = Refusals()
        self.endings: Counter[str] = Counter()

    def serve(self, service: str, handler: Handler) -> None:
        """Let `handler` answer calls to `service`; a name that ends in "/" is a prefix."""
        if service.endswith("/"):
            self._prefixes[service] = handler
        else:
            self._handlers[service] = handler

    async def listen(self, address: str) -> str:
        """Accept connections; return the bound "host:port".

        Port 0 asks for a free one, which is then free for UDP too: membership takes the
        same number.

        Raises:
            SetupError: the address cannot be bound.
        """
        host, port = split(address)
        sock = _bind(host, port)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Door(self), sock=sock, backlog=BACKLOG)
        self._start_ticking()
        bound = sock.getsockname()
        return join(host, bound[1])

    async def call(self, address: str, call: Call) -> Answered:
        """Call a service of the node at `address`.

        Raises:
            Unreachable: no connection could be made; the call was not sent.
            ConnectionLost: the connection ended before the answer.
            DeadlineExceeded: `call.deadline_ms` have passed.
            MeshError: what the node itself answered.
        """
        peer = self._peers.get(address)
        if peer is None or not peer.is_open:
            peer, call = await self._connected(address, call)
        return await peer.call(call)

    def start(self, address: str, call: Call, tell: Tell) -> Told | None:
        """Begin `call` without a task, and tell how it ended, unless the call is cancelled.

        Returns:
            What cancels it; None, and nothing was sent, if only `call` can.

        Raises:
            MeshError: as `call`; nothing will be told.
        """
        peer = self._peers.get(address)
        return None if peer is None else peer.start(call, tell)

    def stream(self, address: str, call: Call) -> Stream:
        """Call a service that answers in pieces; iterate over them and, last, the `Answer`.

        `call.wants_pieces` must be set. Nothing is sent before the first use.
        """
        assert call.wants_pieces, "a stream is for a call that wants pieces"

        async def opening(call: Call, inbox: Inbox) -> tuple[Way, int]:
            peer, call = await self._connected(address, call)
            return peer, await peer.open_stream(call, inbox)

        return Stream(opening, call)

    def drop(self, address: str) -> None:
        """Close the connection to `address` at once: its node is known to be dead."""
        peer = self._peers.get(address)
        if peer is not None:
            peer.close()

    def welcome(self, address: str) -> None:
        """Forget that `address` could not be reached: its node is known to be back."""
        self._failures.pop(address, None)

    def quiet(self) -> set[str]:
        """Return the addresses that do not answer pings now, whatever others say of them."""
        return {
            address for address, peer in self._peers.items() if peer.is_open and peer.pulse.is_quiet
        }

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return, per address that was called, how that goes."""
        return {
            address: {
                "node": peer.remote.node if peer.remote else "",
                "requests": peer.requests,
                "failures": peer.failures,
                "in_flight": peer.in_flight,
                "bytes_in": peer.bytes_in,
                "bytes_out": peer.bytes_out,
                "rtt_ms": round(peer.pulse.rtt_s * 1000, 3),
                "clock_offset_ms": round(peer.pulse.offset_s * 1000, 3),
            }
            for address, peer in self._peers.items()
        }

    async def aclose(self) -> None:
        """Say goodbye to everyone; calls in flight fail, handlers are cancelled and awaited."""
        self._is_closed = True
        if self._tick is not None:
            self._tick.cancel()
        if self._server is not None:
            self._server.close()
        for task in self._connecting.values():
            task.cancel()
        everyone = [*self._peers.values(), *self._others]
        for each in everyone:
            if isinstance(each, Peer):
                each.leave("draining", f"{self._node} is leaving")
            else:
                each.leave()
        await asyncio.gather(*self._connecting.values(), return_exceptions=True)
        for each in everyone:
            if not isinstance(each, Door):
                await each.wait_handlers()

    def _find(self, service: str) -> Handler:
        handler = self._handlers.get(service)
        if handler is not None:
            return handler
        for prefix, handler in self._prefixes.items():
            if service.startswith(prefix):
                return handler
        raise NotFound(f"{self._node} has no service {service!r}", node=self._node)

    async def _connected(self, address: str, call: Call) -> tuple[Peer, Call]:
        """Return an open connection, and the call with what making it has left of its time."""
        peer, began_s = self._peers.get(address), time.monotonic()
        if peer is not None and peer.is_open:
            return peer, call
        peer = await self._connect(address, call)
        spent_ms = math.ceil((time.monotonic() - began_s) * 1000)
        return peer, structs.replace(call, deadline_ms=max(1, call.deadline_ms - spent_ms))

    async def _connect(self, address: str, call: Call) -> Peer:
        """Return an open connection to `address`; all who ask at once share one attempt."""
        failure = self._failures.get(address)
        if failure is not None and time.monotonic() < failure.again_s:
            raise Unreachable(failure.message)
        task = self._connecting.get(address)
        if task is None:
            if self._is_closed:
                raise Unreachable(f"{self._node} is leaving")
            task = asyncio.get_running_loop().create_task(self._open(address))
            self._connecting[address] = task
            task.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout(call.deadline_ms / 1000):
                # One caller who goes away must not end the attempt of the others.
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no connection to {address} in time") from error

    async def _open(self, address: str) -> Peer:
        try:
            async with asyncio.timeout(CONNECT_S):
                peer = await self._dial(address)
        except (OSError, ValueError, MeshError) as error:  # ValueError: a name that cannot be one
            reason = str(error) or f"no connection within {CONNECT_S} s"
            before = self._failures.get(address)
            wait_s = BACKOFF_S_MIN if before is None else min(BACKOFF_S_MAX, before.wait_s * 2)
            self.endings["unreachable"] += 1
            self._remember(address, _Failure(f"{address}: {reason}", wait_s))
            raise Unreachable(f"{address}: {reason}") from error
        finally:
            del self._connecting[address]
        self._failures.pop(address, None)
        self._refusals.forget(address)
        old = self._peers.get(address)
        if old is not None:
            peer.carry_over(old)
            if old.in_flight:
                self._others.add(old)
        self._peers[address] = peer
        self._start_ticking()
        return peer

    def _remember(self, address: str, failure: _Failure) -> None:
        """Remember a failure, and forget those that no longer matter."""
        now_s = time.monotonic()
        for each, old in list(self._failures.items()):
            if now_s - old.again_s > FORGET_S:
                del self._failures[each]
                self._peers.pop(each, None)
        self._failures[address] = failure

    async def _dial(self, address: str) -> Peer:
        host, port = split(address)
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_connection(
            lambda: self._peer(is_client=True, address=address), host, port
        )
        try:
            await peer.wait_open()
        except BaseException:
            peer.close()
            raise
        return peer

    def _peer(self, *, is_client: bool, address: str) -> Peer:
        machine = connection.Connection(
            is_client=is_client,
            mesh=self._mesh,
            node=self._node,
            secret=self._secret,
            nonce=os.urandom(NONCE_BYTES),
            limits=self._limits,
        )
        return Peer(machine, self._find, self._closed, self._node, address)

    def _closed(self, peer: Peer | LinesPeer) -> None:
        is_accepted = peer in self._others
        self._others.discard(peer)
        if isinstance(peer, Peer) and peer.refusal:
            self._refusals.note(peer.address, peer.refusal, is_accepted=is_accepted)
        if isinstance(peer, Peer) and (peer.remote is not None or is_accepted):
            self.endings[peer.ending if peer.remote is not None else "refused"] += 1

    def accept(self, door: Door, transport: asyncio.Transport, data: bytes) -> None:
        """Give an accepted connection to whoever speaks its protocol."""
        self._others.discard(door)
        if data.startswith(handover.MARK):
            self.handover.accept(transport, data)
            return
        protocol: Peer | LinesPeer
        if data.startswith(FIRST_BYTE):
            protocol = LinesPeer(self._find, self._closed, is_allowed=not self._secret)
        else:
            far = transport.get_extra_info("peername")
            address = join(*far[:2]) if far else "gone"
            protocol = self._peer(is_client=False, address=address)
        self._others.add(protocol)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    def admit(self, door: Door) -> None:
        """Remember a connection that has said nothing yet."""
        self._others.add(door)

    def forget(self, door: Door, *, is_silent: bool = False) -> None:
        """Forget one that is gone."""
        self._others.discard(door)
        self.endings["silent"] += is_silent

    def _start_ticking(self) -> None:
        if self._tick is None and not self._is_closed:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        for each in [*self._peers.values(), *self._others]:
            if isinstance(each, LinesPeer):
                self.endings["idle"] += each.tick()
            else:
                each.tick()
        self._start_ticking()


def split(address: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[v6]:port".

    Raises:
        Unreachable: it is neither.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 0xFFFF:
        raise Unreachable(f'expected "host:port", found {address!r}')
    return host.removeprefix("[").removesuffix("]"), int(port)


def join(host: str, port: int) -> str:
    """Return "host:port", with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    """Return a TCP socket bound to `host`; port 0 becomes one that is free for UDP too."""
    error: OSError | None = None
    for _ in range(1 if port else PORT_TRIES):
        try:
            family, _, _, _, where = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as problem:
            error = problem
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            if not port:
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.bind(sock.getsockname())
            sock.setblocking(False)
            return sock
        except OSError as problem:
            sock.close()
            error = problem
    if error is not None and error.errno == errno.EADDRINUSE:
        why = "is taken by another process; choose another port"
        raise SetupError(f"listen.peer: {join(host, port)!r} {why}")
    raise SetupError(f"listen.peer: cannot listen on {join(host, port)!r}: {error}")


def _retrieve(task: asyncio.Task[Peer]) -> None:
    """Look at the outcome: every caller may have gone away."""
    if not task.cancelled():
        task.exception()
