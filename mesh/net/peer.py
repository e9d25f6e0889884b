"""The socket of one connection: moves bytes, keeps deadlines, runs handlers.

Shell: `wire.connection` decides what the bytes mean. Nothing here is a task except
a handler that is running; a call costs one future, and deadlines share one timer.
What is sent within one turn of the loop leaves in one write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec

from mesh.errors import (
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    MeshError,
    Overloaded,
    PeerTimeout,
    RemoteProtocolError,
    RoleError,
    Unreachable,
)
from mesh.net.stream import Inbox, Reply
from mesh.wire import events
from mesh.wire.connection import Connection, Limits
from mesh.wire.handshake import NONCE_BYTES, Hello
from mesh.wire.messages import Answer, Call, Piece, error_from, failure_from

log = logging.getLogger(__name__)

Handler = Callable[[Call, Reply], Awaitable[Answer]]

HANDSHAKE_S = 5.0  # a stranger may hold a socket that long
PING_INTERVAL_S = 2.0  # also how fresh the estimates of rtt and clock offset are
SILENCE_S = 6.0  # nothing heard for three pings: the other side is gone, or its wire is cut
LATE_S = 1.0  # a tick this late says that we ourselves stood still, so silence proves nothing
WRITE_BYTES_MAX = 256 << 10  # handed to the transport at once; more waits here, small ones first
QUEUED_BYTES_MAX = 64 << 20  # beyond it callers wait
OFFSET_SAMPLES = 8  # the one with the shortest round trip counts, as in NTP
DEADLINE_GRAIN_S = 0.001  # deadlines this close together share one wake-up


class Answered(msgspec.Struct, frozen=True):
    """An answer, and how long it was on its way, both directions together."""

    answer: Answer
    network_ms: float


class _Waiting:
    """A call of ours that is in flight."""

    __slots__ = ("deadline_s", "future", "inbox", "sent_s")

    def __init__(
        self,
        sent_s: float,
        deadline_s: float,
        future: asyncio.Future[Answered] | None,
        inbox: Inbox | None,
    ) -> None:
        self.sent_s = sent_s
        self.deadline_s = deadline_s
        self.future = future
        self.inbox = inbox

    def fail(self, error: MeshError) -> None:
        if self.inbox is not None:
            self.inbox.end(error)
        elif self.future is not None and not self.future.done():
            self.future.set_exception(error)


class _Serving:
    """A call of the peer that is being served."""

    __slots__ = ("deadline_s", "inbox", "task")

    def __init__(self, deadline_s: float, task: asyncio.Task[None], inbox: Inbox | None) -> None:
        self.deadline_s = deadline_s
        self.task = task
        self.inbox = inbox


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
        self.address = address
        self.remote: Hello | None = None
        self.requests = self.failures = 0
        self.bytes_in = self.bytes_out = 0
        self.rtt_s = self.offset_s = 0.0
        self._connection = connection
        self._find = find
        self._closed = closed
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._is_flush_due = False
        self._is_paused = False
        self._is_leaving = False  # one side has said goodbye
        self._waiting: dict[int, _Waiting] = {}
        self._serving: dict[int, _Serving] = {}
        self._stopping: set[asyncio.Task[None]] = set()  # cancelled, not yet ended
        self._room: dict[int, asyncio.Event] = {}  # writers of pieces without credit
        self._drained = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = float("inf")
        self._made_s = self._heard_s = self._ticked_s = time.monotonic()
        self._ping_id = 0
        self._pinged: dict[int, tuple[float, float]] = {}  # id: monotonic, wall clock
        self._samples: deque[tuple[float, float]] = deque(maxlen=OFFSET_SAMPLES)  # rtt, offset
        self._on: dict[type, Callable[[Any], None]] = {
            events.AnswerReceived: self._on_answer,
            events.CallReceived: self._on_call,
            events.PieceReceived: self._on_piece,
            events.FailureReceived: self._on_failure,
            events.CreditReceived: self._on_credit,
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
        return len(self._waiting)

    def carry_over(self, old: Peer) -> None:
        """Go on counting where the connection before this one ended."""
        self.requests += old.requests
        self.failures += old.failures
        self.bytes_in += old.bytes_in
        self.bytes_out += old.bytes_out

    async def wait_open(self) -> None:
        """Wait until the handshake is over; raises `Unreachable` if it fails."""
        await self._opened

    async def call(self, call: Call) -> Answered:
        """Make a call and return its answer.

        Raises:
            MeshError: as the peer said, or because of the way to it.
        """
        if self._connection.queued_bytes > QUEUED_BYTES_MAX:
            await self._wait_room(call)
        future: asyncio.Future[Answered] = self._loop.create_future()
        stream = self._begin(call, future, None)
        try:
            return await future
        except asyncio.CancelledError:
            self.cancel(stream)
            raise

    async def open_stream(self, call: Call, inbox: Inbox) -> int:
        """Make a call whose pieces, answer or error go to `inbox`; return its stream."""
        if self._connection.queued_bytes > QUEUED_BYTES_MAX:
            await self._wait_room(call)
        return self._begin(call, None, inbox)

    def _begin(
        self, call: Call, future: asyncio.Future[Answered] | None, inbox: Inbox | None
    ) -> int:
        if not self.is_open:
            raise ConnectionLost(f"the connection to {self.address} is closed")
        if len(self._waiting) >= self._connection.limits.calls_max:
            raise Overloaded(f"expected at most {len(self._waiting)} calls at once to one node")
        stream = self._connection.send_call(call)
        now_s = time.monotonic()
        deadline_s = now_s + call.deadline_ms / 1000
        self._waiting[stream] = _Waiting(now_s, deadline_s, future, inbox)
        self.requests += 1
        if deadline_s < self._alarm_s:
            self._set_alarm(deadline_s, now_s)
        self._flush_soon()
        return stream

    # What streams use (`net.stream.Way`).

    async def send_piece(self, stream: int, piece: Piece) -> None:
        """Send a piece as soon as there is credit and room."""
        while not self._connection.can_send_piece(stream):
            room = self._room.setdefault(stream, asyncio.Event())
            await room.wait()
        if self._connection.queued_bytes > QUEUED_BYTES_MAX:
            await self._drained.wait()
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
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            self._connection.cancel(stream)
            self._make_room(stream)
            self._flush_soon()

    async def _wait_room(self, call: Call) -> None:
        try:
            async with asyncio.timeout(call.deadline_ms / 1000):
                await self._drained.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.address} takes no more bytes") from error

    # The transport's side (`asyncio.Protocol`).

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, if this side connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own class
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_MAX)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Do what the bytes say."""
        self._heard_s = time.monotonic()
        self.bytes_in += len(data)
        try:
            for event in self._connection.receive_data(data):
                self._on[type(event)](event)
        except RemoteProtocolError as error:
            log.warning("peer.refused", extra={"peer": self.address, "reason": error.message})
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
            transport.close()

    def leave(self, code: str, message: str) -> None:
        """Say goodbye and close once that is written."""
        self._connection.send_goodbye(code, message)
        self._is_leaving = True
        self._is_paused = False
        self._flush()
        self.close()

    async def wait_handlers(self) -> None:
        """Wait until every handler that was cancelled has ended."""
        await asyncio.gather(*self._stopping, return_exceptions=True)

    def _end(self, error: MeshError) -> None:
        if self._transport is None and self._opened.done():
            return
        self._transport = None
        if self._alarm is not None:
            self._alarm.cancel()
        if not self._opened.done():
            self._opened.set_exception(Unreachable(f"{self.address}: {error.message}"))
            self._opened.exception()  # nobody need be waiting
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            self.failures += 1
            each.fail(error)
        for stream in list(self._serving):
            self._stop(stream)
        for room in self._room.values():
            room.set()
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
            if len(buffers) == 1:
                self.bytes_out += len(buffers[0])
                transport.write(buffers[0])
            else:
                self.bytes_out += sum(map(len, buffers))
                transport.writelines(buffers)
        if connection.queued_bytes <= QUEUED_BYTES_MAX:
            if not self._drained.is_set():
                self._drained.set()
        else:
            self._drained.clear()

    # What arrives.

    def _on_opened(self, event: events.Opened) -> None:
        self.remote = event.peer
        if not self._opened.done():
            self._opened.set_result(None)
        self._ping()
        self._flush_soon()

    def _on_refused(self, event: events.Refused) -> None:
        log.warning("peer.refused", extra={"peer": self.address, "reason": event.reason})
        self._flush()
        self.close(Unreachable(event.reason))

    def _on_goodbye(self, event: events.GoodbyeReceived) -> None:
        self._is_leaving = True
        if not self._opened.done():
            self.close(Unreachable(event.goodbye.message))

    def _on_answer(self, event: events.AnswerReceived) -> None:
        waiting = self._waiting.pop(event.stream, None)
        if waiting is None:
            return
        if waiting.inbox is not None:
            self._make_room(event.stream)
            waiting.inbox.put(event.answer)
            waiting.inbox.end()
        elif waiting.future is not None and not waiting.future.done():
            took_ms = (self._heard_s - waiting.sent_s) * 1000
            answered = Answered(event.answer, max(0.0, took_ms - event.held_ms))
            waiting.future.set_result(answered)

    def _on_failure(self, event: events.FailureReceived) -> None:
        waiting = self._waiting.pop(event.stream, None)
        if waiting is not None:
            self.failures += 1
            self._make_room(event.stream)
            waiting.fail(error_from(event.failure))

    def _on_piece(self, event: events.PieceReceived) -> None:
        owner = self._waiting.get(event.stream) or self._serving.get(event.stream)
        if owner is not None and owner.inbox is not None:
            owner.inbox.put(event.piece, event.cost)

    def _on_finish(self, event: events.FinishReceived) -> None:
        serving = self._serving.get(event.stream)
        if serving is not None and serving.inbox is not None:
            serving.inbox.end()

    def _on_credit(self, event: events.CreditReceived) -> None:
        self._make_room(event.stream)

    def _make_room(self, stream: int) -> None:
        room = self._room.pop(stream, None)
        if room is not None:
            room.set()

    def _on_call(self, event: events.CallReceived) -> None:
        now_s, call = self._heard_s, event.call
        inbox = Inbox() if call.wants_pieces else None
        assert self.remote is not None
        reply = Reply(self, event.stream, inbox, self.remote.node, now_s, call)
        task = self._loop.create_task(self._serve(event.stream, call, reply))
        self._serving[event.stream] = _Serving(reply.deadline_s, task, inbox)
        if reply.deadline_s < self._alarm_s:
            self._set_alarm(reply.deadline_s, now_s)

    async def _serve(self, stream: int, call: Call, reply: Reply) -> None:
        """Run the handler of one call and send what comes of it."""
        try:
            answer = await self._find(call.to)(call, reply)
            held_ms = (time.monotonic() - reply.received_s) * 1000
            self._connection.send_answer(stream, answer, held_ms)
        except MeshError as error:
            self._fail(stream, error)
        except asyncio.CancelledError:
            self._fail(stream, Cancelled(f"{self._node} stopped serving {call.to}"))
            raise
        except Exception as error:
            log.exception("handler.failed", extra={"service": call.to, "id": call.request_id})
            self._fail(stream, RoleError(f"{call.to} failed: {type(error).__name__}: {error}"))
        finally:
            self._serving.pop(stream, None)
            self._make_room(stream)
            self._flush_soon()

    def _fail(self, stream: int, error: MeshError) -> None:
        self._connection.send_failure(stream, failure_from(error, self._node))

    def _on_cancel(self, event: events.CancelReceived) -> None:
        self._stop(event.stream)

    def _stop(self, stream: int) -> None:
        """Cancel the handler of a call, which may not even have begun."""
        serving = self._serving.pop(stream, None)
        if serving is not None:
            serving.task.cancel()
            self._stopping.add(serving.task)
            serving.task.add_done_callback(self._stopping.discard)

    # Time.

    def _set_alarm(self, deadline_s: float, now_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_s = deadline_s
        wait_s = max(0.0, deadline_s - now_s) + DEADLINE_GRAIN_S
        self._alarm = self._loop.call_later(wait_s, self._sweep)

    def _sweep(self) -> None:
        """End what is past its deadline, and set the alarm for what is next."""
        now_s = time.monotonic()
        self._alarm, self._alarm_s = None, float("inf")
        for stream in [each for each, it in self._waiting.items() if it.deadline_s <= now_s]:
            waiting = self._waiting[stream]
            self.cancel(stream)
            self.failures += 1
            waiting.fail(DeadlineExceeded(f"{self.address} did not answer in time"))
        for stream in [each for each, it in self._serving.items() if it.deadline_s <= now_s]:
            self._fail(stream, DeadlineExceeded(f"{self._node} did not finish in time"))
            self._stop(stream)
            self._flush_soon()
        left = [it.deadline_s for it in self._waiting.values()]
        left += [it.deadline_s for it in self._serving.values()]
        if left:
            self._set_alarm(min(left), now_s)

    def tick(self) -> None:
        """Ping, and close if the other side is silent; called about once a second."""
        now_s = time.monotonic()
        was_late = now_s - self._ticked_s > 1.0 + LATE_S
        self._ticked_s = now_s
        if was_late:
            self._heard_s = self._made_s = now_s
        if self.remote is None:
            if now_s - self._made_s > HANDSHAKE_S:
                self.close(PeerTimeout(f"{self.address} did not greet"))
        elif now_s - self._heard_s > SILENCE_S:
            self.close(PeerTimeout(f"{self.address} stayed silent for {SILENCE_S:.0f} s"))
        elif not self._pinged or now_s - max(self._pinged.values())[0] >= PING_INTERVAL_S:
            self._ping()

    def _ping(self) -> None:
        self._ping_id += 1
        self._pinged = dict(list(self._pinged.items())[-OFFSET_SAMPLES:])
        self._pinged[self._ping_id] = (time.monotonic(), time.time())
        self._connection.send_ping(self._ping_id)
        self._flush_soon()

    def _on_ping(self, event: events.PingReceived) -> None:
        now_at = time.time()
        self._connection.send_pong(event.id, now_at, now_at)
        self._flush_soon()

    def _on_pong(self, event: events.PongReceived) -> None:
        pong = event.pong
        sent = self._pinged.pop(pong.id, None)
        if sent is None:
            return
        sent_s, sent_at = sent
        took_s = self._heard_s - sent_s
        held_s = pong.replied_at - pong.received_at
        offset_s = ((pong.received_at - sent_at) + (pong.replied_at - (sent_at + took_s))) / 2
        self._samples.append((max(0.0, took_s - held_s), offset_s))
        self.rtt_s, self.offset_s = min(self._samples)


def make_connection(
    *, is_client: bool, mesh: str, node: str, secret: str, limits: Limits
) -> Connection:
    """Return a connection's machine with a fresh nonce."""
    return Connection(
        is_client=is_client,
        mesh=mesh,
        node=node,
        secret=secret,
        nonce=os.urandom(NONCE_BYTES),
        limits=limits,
    )
