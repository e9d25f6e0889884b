"""The socket of one connection: moves its bytes and keeps its deadlines.

Shell: `wire.connection` decides what the bytes mean, `net.serving` runs handlers. A
call costs one future and no timer: deadlines share one. What is sent within one turn
of the loop leaves in one write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from mesh.errors import (
    ConnectionLost,
    DeadlineExceeded,
    MeshError,
    PeerTimeout,
    RemoteProtocolError,
    Unreachable,
)
from mesh.net.calls import Answered, Calls, Tell, Told, Waiter
from mesh.net.serving import Handler, Serving
from mesh.net.stream import Inbox
from mesh.wire import events
from mesh.wire.connection import Connection
from mesh.wire.handshake import Hello
from mesh.wire.messages import Call, Piece
from mesh.wire.pulse import SILENCE_S, Pulse

HANDSHAKE_S = 5.0  # a stranger may hold a socket that long
WRITE_BYTES_MAX = 256 << 10  # handed to the transport at once; more waits here, small ones first
QUEUED_BYTES_MAX = 64 << 20  # beyond it callers wait
DEADLINE_GRAIN_S = 0.001  # deadlines this close together share one wake-up
ALARM_S_MAX = 3600.0


class Peer(asyncio.Protocol):
    """One connection, ours or accepted.

    Args:
        connection: its machine.
        find: returns the handler of a service, or raises `NotFound`.
        closed: called once when the connection is gone.
    """

    def __init__(
        self,
        connection: Connection,
        find: Callable[[str], Handler],
        closed: Callable[[Peer], None],
        node: str,
        address: str = "",
    ) -> None:
        self.address, self.ending = address, ""
        self.remote: Hello | None = None
        self.requests = self.bytes_in = self.bytes_out = 0
        self.refusal = ""  # why we would not speak to the other side
        self.pulse = Pulse(time.monotonic())
        self._connection = connection
        self._closed = closed
        self._calls = Calls(connection, address, self._on_ended)
        self._serving = Serving(self, connection, find, node, self._on_ended)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._is_flush_due = False
        self._is_paused = False  # the transport takes no more for now
        self._is_deaf = False  # we read no more for now
        self._is_leaving = False  # one side has said goodbye
        self._room: dict[int, asyncio.Event] = {}  # writers of pieces without credit
        self._drained = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = float("inf")
        self._made_s = time.monotonic()
        self._on: dict[type, Callable[[Any], None]] = {
            events.AnswerReceived: self._on_answer,
            events.CallReceived: self._on_call,
            events.PieceReceived: self._on_piece,
            events.FailureReceived: self._on_failure,
            events.CreditReceived: lambda event: self._make_room(event.stream),
            events.CancelReceived: self._on_cancel,
            events.FinishReceived: self._on_finish,
            events.PingReceived: self._on_ping,
            events.PongReceived: self._on_pong,
            events.Opened: self._on_opened,
            events.Refused: self._on_refused,
            events.GoodbyeReceived: self._on_goodbye,
        }

    # What callers use.

    @property
    def is_open(self) -> bool:
        """Whether new calls may be made here."""
        return self.remote is not None and self._transport is not None and not self._is_leaving

    @property
    def in_flight(self) -> int:
        """How many calls of ours wait for their answers."""
        return len(self._calls)

    def carry_over(self, old: Peer) -> None:
        """Go on counting where the connection before this one ended."""
        self.requests += old.requests
        self._calls.failures += old.failures
        self.bytes_in += old.bytes_in
        self.bytes_out += old.bytes_out

    async def wait_open(self) -> None:
        """Wait until the handshake is over; raises `Unreachable` if it fails."""
        await self._opened

    @property
    def failures(self) -> int:
        """How many calls of ours have failed."""
        return self._calls.failures

    async def call(self, call: Call) -> Answered:
        """Make a call and return its answer.

        Raises:
            MeshError: as the peer said, or because of the way to it.
        """
        if self._connection.queued_bytes > QUEUED_BYTES_MAX:
            await self._wait_room(call)
        future: asyncio.Future[Answered] = self._loop.create_future()
        stream = self._begin(call, future)
        try:
            return await future
        except asyncio.CancelledError:
            self.cancel(stream)
            raise

    def start(self, call: Call, tell: Tell) -> Told | None:
        """Make a call and tell its answer; None, and nothing was sent, if it had to wait first."""
        if not self.is_open or self._connection.queued_bytes > QUEUED_BYTES_MAX:
            return None
        told = Told(tell, self.cancel)
        told.stream = self._begin(call, told)
        return told

    async def open_stream(self, call: Call, inbox: Inbox) -> int:
        """Make a call whose pieces, answer or error go to `inbox`; return its stream."""
        if self._connection.queued_bytes > QUEUED_BYTES_MAX:
            await self._wait_room(call)
        return self._begin(call, inbox)

    def _begin(self, call: Call, waiter: Waiter) -> int:
        if not self.is_open:
            raise ConnectionLost(f"the connection to {self.address} is closed")
        stream, deadline_s = self._calls.begin(call, waiter)
        self.requests += 1
        if deadline_s < self._alarm_s:
            self._set_alarm(deadline_s)
        self._flush_soon()
        return stream

    # What streams use (`net.stream.Way`).

    async def send_piece(self, stream: int, piece: Piece) -> None:
        """Send a piece as soon as there is credit and room."""
        while self._transport is not None and not self._connection.can_send_piece(stream):
            room = self._room.setdefault(stream, asyncio.Event())
            await room.wait()
        await self._wait_drained()
        if self._transport is None:
            raise ConnectionLost(f"the connection to {self.address} is closed")
        self._connection.send_piece(stream, piece)
        self._flush_soon()

    def take(self, stream: int, cost: int) -> None:
        """Give back the credit of a piece."""
        self._connection.take(stream, cost)
        if self._connection.queued_bytes:
            self._flush_soon()

    def finish(self, stream: int) -> None:
        """Say that the caller sends no more pieces."""
        self._connection.finish(stream)
        self._flush_soon()

    def cancel(self, stream: int) -> None:
        """Give up a call of ours."""
        self._calls.cancel(stream)

    async def _wait_room(self, call: Call) -> None:
        try:
            async with asyncio.timeout(call.deadline_ms / 1000):
                await self._wait_drained()
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.address} takes no more bytes") from error

    async def _wait_drained(self) -> None:
        while self._transport is not None and self._connection.queued_bytes > QUEUED_BYTES_MAX:
            self._drained.clear()
            await self._drained.wait()

    # The transport's side (`asyncio.Protocol`).

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, if this side connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own class
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_MAX)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Do what the bytes say."""
        self.pulse.heard_s = time.monotonic()
        self.bytes_in += len(data)
        try:
            for event in self._connection.receive_data(data):
                self._on[type(event)](event)
        except RemoteProtocolError as error:
            self.refusal = error.message
            self.close(error)
        if self._connection.queued_bytes:
            self._flush_soon()

    def pause_writing(self) -> None:
        """Keep what is sent from now on."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Send what was kept."""
        self._is_paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail every call at once and cancel every handler."""
        self._end(ConnectionLost(f"the connection to {self.address} ended with calls in flight"))

    def close(self, error: MeshError | None = None) -> None:
        """Close now; calls in flight fail with `error`."""
        transport = self._transport
        self._end(error or ConnectionLost(f"the connection to {self.address} was closed"))
        if transport is not None:
            transport.abort()  # waiting for a dead peer to read would hold the socket

    def leave(self, code: str, message: str) -> None:
        """Say goodbye and close once that is written."""
        self._connection.send_goodbye(code, message)
        self._is_leaving = True
        self._say_and_close(ConnectionLost(f"the connection to {self.address} was closed"))

    def _say_and_close(self, error: MeshError) -> None:
        """Write what is queued, then close."""
        self._is_paused = False
        self._flush()
        transport = self._transport
        self._end(error)
        if transport is not None:
            transport.close()

    async def wait_handlers(self) -> None:
        """Wait until every handler that was cancelled has ended."""
        await self._serving.wait_stopped()

    def _end(self, error: MeshError) -> None:
        if self._transport is None and self._opened.done():
            return
        self._transport = None
        self.ending = "goodbye" if self._is_leaving else error.code
        if self._alarm is not None:
            self._alarm.cancel()
        if not self._opened.done():
            self._opened.set_exception(Unreachable(f"{self.address}: {error.message}"))
            self._opened.exception()  # nobody need be waiting
        self._calls.fail_all(error)
        self._serving.stop_all()
        for stream in list(self._room):
            self._make_room(stream)
        self._drained.set()
        self._closed(self)

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what is queued, as far as the transport takes it."""
        self._is_flush_due = False
        transport, connection = self._transport, self._connection
        while transport is not None and not self._is_paused and connection.queued_bytes:
            buffers = connection.data_to_send(WRITE_BYTES_MAX)
            self.bytes_out += sum(map(len, buffers))
            transport.writelines(buffers)
        is_full = connection.queued_bytes > QUEUED_BYTES_MAX
        if not is_full and not self._drained.is_set():
            self._drained.set()
        if is_full != self._is_deaf and not connection.is_client and self._transport is not None:
            # A peer that does not read its answers may not ask for more. Only this side of a
            # connection may be deaf: if both were, they would wait for each other.
            self._is_deaf = is_full
            (self._transport.pause_reading if is_full else self._transport.resume_reading)()

    # What arrives.

    def _on_opened(self, event: events.Opened) -> None:
        self.remote = event.peer
        if not self._opened.done():
            self._opened.set_result(None)
        self._ping()
        self._flush_soon()

    def _on_refused(self, event: events.Refused) -> None:
        self.refusal = event.reason
        self._say_and_close(Unreachable(event.reason))

    def _on_goodbye(self, event: events.GoodbyeReceived) -> None:
        self._is_leaving = True
        if not self._opened.done():
            self.close(Unreachable(event.goodbye.message))

    def _on_answer(self, event: events.AnswerReceived) -> None:
        self._calls.answered(event, self.pulse.heard_s)
        if self._room:
            self._make_room(event.stream)

    def _on_failure(self, event: events.FailureReceived) -> None:
        self._calls.failed(event)
        self._make_room(event.stream)

    def _on_piece(self, event: events.PieceReceived) -> None:
        inbox = self._calls.inbox(event.stream) or self._serving.inbox(event.stream)
        if inbox is not None:
            inbox.put(event.piece, event.cost)

    def _on_finish(self, event: events.FinishReceived) -> None:
        if (inbox := self._serving.inbox(event.stream)) is not None:
            inbox.end()

    def _make_room(self, stream: int) -> None:
        if (room := self._room.pop(stream, None)) is not None:
            room.set()

    def _on_call(self, event: events.CallReceived) -> None:
        assert self.remote is not None
        deadline_s = self._serving.start(
            event.stream, event.call, self.remote.node, self.pulse.heard_s
        )
        if deadline_s < self._alarm_s:
            self._set_alarm(deadline_s)

    def _on_cancel(self, event: events.CancelReceived) -> None:
        self._serving.stop(event.stream)
        self._make_room(event.stream)

    def _on_ended(self, stream: int) -> None:
        if self._room:
            self._make_room(stream)
        self._flush_soon()

    # Time.

    def _set_alarm(self, deadline_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_s = deadline_s
        # A peer may name any deadline; a timer cannot take any.
        left_s = min(max(0.0, deadline_s - time.monotonic()), ALARM_S_MAX)
        self._alarm = self._loop.call_later(left_s + DEADLINE_GRAIN_S, self._sweep)

    def _sweep(self) -> None:
        """End what is past its deadline, and set the alarm for what is next."""
        now_s = time.monotonic()
        self._alarm, self._alarm_s = None, float("inf")
        next_s = min(self._calls.sweep(now_s), self._serving.sweep(now_s))
        if next_s < float("inf") and self._transport is not None:
            self._set_alarm(next_s)

    def tick(self) -> None:
        """Ping, and close if the other side is silent; called every `pulse.TICK_S`."""
        now_s = time.monotonic()
        is_silent = self.pulse.is_silent(now_s)
        if self.remote is None:
            if now_s - self._made_s > HANDSHAKE_S:
                self.close(PeerTimeout(f"{self.address} did not greet"))
        elif is_silent:
            self.close(PeerTimeout(f"{self.address} stayed silent for {SILENCE_S:.0f} s"))
        elif self.pulse.is_ping_due(now_s):
            self._ping()

    def _ping(self) -> None:
        self._connection.send_ping(self.pulse.ping(time.monotonic(), time.time()))
        self._flush_soon()

    def _on_ping(self, event: events.PingReceived) -> None:
        now_at = time.time()
        self._connection.send_pong(event.id, now_at, now_at)
        self._flush_soon()

    def _on_pong(self, event: events.PongReceived) -> None:
        self.pulse.receive(event.pong, self.pulse.heard_s)
