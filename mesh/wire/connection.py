"""One multiplexed connection between two nodes, without its socket.

Pure. The shell (`net.peer`) gives it bytes and gets events; it says what to send
and gets buffers to write. Both sides may open calls: the client's streams have
odd numbers, the server's even ones.

    opener                              server of the call
    Call                   ->
    Piece … Finish         ->           if the call wants pieces, both ways, as
                           <-  Piece …  far as the reader's credit goes
                           <-  Answer or Failure: the stream is over
    Cancel                 ->           the stream is over at once

What arrives for a stream that is over is skipped: it crossed our own message.
What cannot be right is a `RemoteProtocolError`; `receive_data` raises nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from mesh.errors import LocalProtocolError, RemoteProtocolError, TooLarge
from mesh.wire import events, messages
from mesh.wire.arrays import Decoder, Encoder
from mesh.wire.frames import ARRAYS, PREAMBLE, Buffer, FrameReader, FrameWriter, Kind
from mesh.wire.handshake import HELLO_BYTES_MAX, Hello, Proof, is_proven, objection, prove
from mesh.wire.messages import Answer, Call, Failure, Piece

PIECE_COST_MIN = 1024  # bytes; even empty pieces use up credit, so their number is bounded too
STREAM_MAX = 0xFFFF_FFFE  # after it the numbers begin again

Events = list[events.Event]


class Limits(msgspec.Struct, frozen=True):
    """What one side of a connection takes; the other is told in the greeting."""

    message_bytes_max: int = 64 << 20  # TooLarge at the sender
    calls_max: int = 4096  # Overloaded; calls that the peer may have open here
    window_bytes: int = 1 << 20  # pieces of one stream that may wait for their reader


class State(Enum):
    """Where a connection stands."""

    GREETING = "greeting"
    PROVING = "proving"
    OPEN = "open"
    CLOSED = "closed"


class _Answered(msgspec.Struct, frozen=True, array_like=True):
    """How an answer travels: with the time that the server's shell measured."""

    held_ms: float
    answer: Answer


class _Flow:
    """Credit of one stream with pieces, both ways, in bytes."""

    __slots__ = ("receivable", "sendable", "taken")

    def __init__(self, sendable: int, receivable: int) -> None:
        self.sendable = sendable
        self.receivable = receivable
        self.taken = 0  # by the reader, and not yet given back to the sender


class Connection:
    """One side of a connection.

    Args:
        is_client: whether this side connected, and so greets first.
        mesh: the mesh's name; another mesh's nodes are refused.
        node: this node's name.
        secret: what both sides must hold, or "".
        nonce: fresh random bytes, `handshake.NONCE_BYTES` of them.
        limits: what this side takes.
    """

    def __init__(
        self,
        *,
        is_client: bool,
        mesh: str,
        node: str,
        secret: str,
        nonce: bytes,
        limits: Limits | None = None,
    ) -> None:
        self.is_client = is_client
        self.limits = limits or Limits()
        self.state = State.GREETING
        self.peer: Hello | None = None
        self._secret = secret
        self._hello = Hello(
            mesh=mesh,
            node=node,
            nonce=nonce,
            has_secret=bool(secret),
            message_bytes_max=self.limits.message_bytes_max,
            window_bytes=self.limits.window_bytes,
        )
        self._sent_hello = self._received_hello = b""  # the greetings as they travelled
        self._preamble_left = PREAMBLE
        self._sendable_max = HELLO_BYTES_MAX
        self._mine: dict[int, _Flow | None] = {}  # streams that we opened
        self._theirs: dict[int, _Flow | None] = {}
        self._next = self._first = 1 if is_client else 2
        self._has_wrapped = False
        self._has_refused = False
        self._encoder = Encoder()
        self._call_decoder = Decoder(Call)
        self._answered_decoder = Decoder(_Answered)
        self._piece_decoder = Decoder(Piece)
        self._writer = FrameWriter()
        self._reader = FrameReader(HELLO_BYTES_MAX, self._accepts)
        self._receive: dict[int, Callable[[int, Buffer, bool, Events], None]] = {
            Kind.HELLO: self._receive_hello,
            Kind.PROOF: self._receive_proof,
            Kind.GOODBYE: self._receive_goodbye,
        }
        if is_client:
            self._greet()

    # What arrives.

    def receive_data(self, data: bytes) -> Events:
        """Take bytes from the peer and return what they say, in order.

        Raises:
            RemoteProtocolError: the peer broke the protocol; close the connection.
        """
        happened: Events = []
        if self.state is State.CLOSED:
            return happened
        try:
            if self._preamble_left:
                data = self._receive_preamble(data)
            for kind, flags, stream, body in self._reader.read(data):
                receive = self._receive.get(kind)
                if receive is None:
                    self._skip(kind)
                elif flags & ARRAYS:
                    # Its own memory, so that arrays are writable, and do not keep alive all
                    # else that came with them.
                    own = body if isinstance(body, bytearray) else bytearray(body)
                    receive(stream, own, True, happened)
                else:
                    receive(stream, body, False, happened)
                if self._has_refused:
                    break
        except RemoteProtocolError:
            self.state = State.CLOSED
            raise
        return happened

    def _accepts(self, kind: int, stream: int) -> bool:
        """Return whether a body in fragments is worth gathering."""
        return kind == Kind.CALL or stream in self._mine or stream in self._theirs

    def _skip(self, kind: int) -> None:
        # Once open, a kind that we do not know comes from a newer node.
        if self.state is not State.OPEN:
            raise RemoteProtocolError(f"expected a greeting, found a message of kind {kind}")

    def _receive_preamble(self, data: bytes) -> bytes:
        expected = self._preamble_left
        found = data[: len(expected)]
        if not expected.startswith(found):
            raise RemoteProtocolError(f"expected a node of a mesh, found {found!r}")
        self._preamble_left = expected[len(found) :]
        return data[len(found) :]

    def _receive_hello(self, _: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        if self.state is not State.GREETING:
            raise RemoteProtocolError("expected one greeting, found another")
        theirs = _HELLO.decode(body, has_arrays)
        self._received_hello = bytes(body)
        if not self.is_client:
            self._greet()
        reason = objection(self._hello, theirs)
        if reason:
            self._refuse(reason, happened)
            return
        self.peer = theirs
        if not self._secret:
            self._open(theirs, happened)
            return
        self.state = State.PROVING
        if self.is_client:
            self._send(Kind.PROOF, 0, self._proof(of_client=True))

    def _receive_proof(self, _: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        if self.state is not State.PROVING or self.peer is None:
            raise RemoteProtocolError("expected no proof, found one")
        expected = self._proof(of_client=not self.is_client)
        if not is_proven(_PROOF.decode(body, has_arrays), expected):
            self._refuse("wrong mesh secret: give every node the same", happened)
            return
        if not self.is_client:
            self._send(Kind.PROOF, 0, self._proof(of_client=False))
        self._open(self.peer, happened)

    def _greet(self) -> None:
        self._writer.put_raw(PREAMBLE)
        self._sent_hello = msgspec.msgpack.encode(self._hello)
        self._writer.put(Kind.HELLO, 0, self._sent_hello, len(self._sent_hello))

    def _proof(self, *, of_client: bool) -> Proof:
        if self.is_client:
            return prove(self._secret, of_client, self._sent_hello, self._received_hello)
        return prove(self._secret, of_client, self._received_hello, self._sent_hello)

    def _refuse(self, reason: str, happened: Events) -> None:
        self.send_goodbye("unauthorized", reason)
        self.state, self._has_refused = State.CLOSED, True
        happened.append(events.Refused(reason))

    def _open(self, peer: Hello, happened: Events) -> None:
        self.state = State.OPEN
        self._sendable_max = peer.message_bytes_max
        self._reader.bytes_max = self.limits.message_bytes_max
        self._receive = {
            Kind.CALL: self._receive_call,
            Kind.ANSWER: self._receive_answer,
            Kind.PIECE: self._receive_piece,
            Kind.FINISH: self._receive_finish,
            Kind.FAILURE: self._receive_failure,
            Kind.CANCEL: self._receive_cancel,
            Kind.CREDIT: self._receive_credit,
            Kind.PING: self._receive_ping,
            Kind.PONG: self._receive_pong,
            Kind.GOODBYE: self._receive_goodbye,
        }
        happened.append(events.Opened(peer))

    def _receive_call(self, stream: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        if not stream or stream % 2 == self._first % 2 or stream in self._theirs:
            raise RemoteProtocolError(f"stream {stream} is not the peer's to open")
        call = self._call_decoder.decode(body, has_arrays)
        if len(self._theirs) >= self.limits.calls_max:
            message = f"expected at most {self.limits.calls_max} calls at once from one node"
            self._send(Kind.FAILURE, stream, Failure("overloaded", message, self._hello.node))
            return
        self._theirs[stream] = self._flow() if call.wants_pieces else None
        happened.append(events.CallReceived(stream, call))

    def _receive_answer(
        self, stream: int, body: Buffer, has_arrays: bool, happened: Events
    ) -> None:
        answered = self._answered_decoder.decode(body, has_arrays)
        if self._close_mine(stream):
            happened.append(events.AnswerReceived(stream, answered.answer, answered.held_ms))

    def _receive_failure(
        self, stream: int, body: Buffer, has_arrays: bool, happened: Events
    ) -> None:
        failure = _FAILURE.decode(body, has_arrays)
        if self._close_mine(stream):
            happened.append(events.FailureReceived(stream, failure))

    def _receive_piece(self, stream: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        piece = self._piece_decoder.decode(body, has_arrays)
        flow = self._flow_of(stream)
        if flow is None:
            return
        if flow.receivable <= 0:
            raise RemoteProtocolError(f"a piece beyond the credit of stream {stream}")
        cost = max(PIECE_COST_MIN, len(body))
        flow.receivable -= cost
        happened.append(events.PieceReceived(stream, piece, cost))

    def _receive_finish(self, stream: int, _: Buffer, has_arrays: bool, happened: Events) -> None:
        if stream in self._theirs:
            happened.append(events.FinishReceived(stream))

    def _receive_cancel(self, stream: int, _: Buffer, has_arrays: bool, happened: Events) -> None:
        self._reader.drop(stream)
        if stream in self._theirs:
            del self._theirs[stream]
            self._writer.drop(stream)
            happened.append(events.CancelReceived(stream))

    def _receive_credit(
        self, stream: int, body: Buffer, has_arrays: bool, happened: Events
    ) -> None:
        amount = _CREDIT.decode(body, has_arrays).amount
        flow = self._flow_of(stream)
        if flow is None:
            return
        assert self.peer is not None
        if not 0 < amount <= self.peer.window_bytes - flow.sendable:
            raise RemoteProtocolError(f"credit of {amount} bytes was never used on {stream}")
        flow.sendable += amount
        happened.append(events.CreditReceived(stream))

    def _receive_ping(self, _: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        happened.append(events.PingReceived(_PING.decode(body, has_arrays).id))

    def _receive_pong(self, _: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        happened.append(events.PongReceived(_PONG.decode(body, has_arrays)))

    def _receive_goodbye(self, _: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        happened.append(events.GoodbyeReceived(_GOODBYE.decode(body, has_arrays)))

    def _flow(self) -> _Flow:
        assert self.peer is not None
        return _Flow(self.peer.window_bytes, self.limits.window_bytes)

    def _flow_of(self, stream: int) -> _Flow | None:
        """Return the credit of `stream`, None if it is over.

        Raises:
            RemoteProtocolError: it has no pieces, or never was.
        """
        streams = self._mine if stream % 2 == self._first % 2 else self._theirs
        if stream not in streams:
            self._check_was(stream)
            return None
        flow = streams[stream]
        if flow is None:
            raise RemoteProtocolError(f"stream {stream} has no pieces")
        return flow

    def _close_mine(self, stream: int) -> bool:
        """Forget a stream of ours; return False if it was over already."""
        if stream not in self._mine:
            self._check_was(stream)
            return False
        del self._mine[stream]
        self._writer.drop(stream)
        return True

    def _check_was(self, stream: int) -> None:
        if stream % 2 == self._first % 2 and stream >= self._next and not self._has_wrapped:
            raise RemoteProtocolError(f"stream {stream} was never opened")

    # What is sent.

    def send_call(self, call: Call) -> int:
        """Open a call and return its stream.

        Raises:
            TooLarge: the peer does not take a message of this length.
            LocalProtocolError: a value cannot travel, or the connection is not open.
        """
        if self.state is not State.OPEN:
            raise LocalProtocolError(f"expected an open connection, found it {self.state.value}")
        stream = self._next
        while stream in self._mine:  # only after the numbers have begun again
            stream += 2
        self._send(Kind.CALL, stream, call)
        self._mine[stream] = self._flow() if call.wants_pieces else None
        self._next = stream + 2
        if self._next > STREAM_MAX:
            self._next, self._has_wrapped = self._first, True
        return stream

    def send_answer(self, stream: int, answer: Answer, held_ms: float = 0.0) -> None:
        """Answer a call of the peer; nothing is sent if it was cancelled meanwhile."""
        if stream in self._theirs:
            self._send(Kind.ANSWER, stream, _Answered(held_ms, answer))
            del self._theirs[stream]

    def send_failure(self, stream: int, failure: Failure) -> None:
        """End a call of the peer with an error; nothing is sent if it was cancelled meanwhile."""
        if stream in self._theirs:
            self._send(Kind.FAILURE, stream, failure)
            del self._theirs[stream]

    def can_send_piece(self, stream: int) -> bool:
        """Return whether there is credit for a piece; True too when the stream is over."""
        flow = self._mine.get(stream) or self._theirs.get(stream)
        return flow is None or flow.sendable > 0

    def send_piece(self, stream: int, piece: Piece) -> None:
        """Send a piece to the other side of `stream`; nothing is sent if the stream is over."""
        streams = self._mine if stream % 2 == self._first % 2 else self._theirs
        if stream not in streams:
            return
        flow = streams[stream]
        if flow is None or flow.sendable <= 0:
            raise LocalProtocolError("expected a call that wants pieces, and credit for one")
        flow.sendable -= max(PIECE_COST_MIN, self._send(Kind.PIECE, stream, piece))

    def finish(self, stream: int) -> None:
        """Say that the caller sends no more pieces."""
        if stream in self._mine:
            self._send(Kind.FINISH, stream, messages.Finish())

    def take(self, stream: int, cost: int) -> None:
        """Give back what a piece cost, now that its reader has taken it."""
        flow = self._mine.get(stream) or self._theirs.get(stream)
        if flow is None:
            return
        flow.taken += cost
        if flow.taken * 2 >= self.limits.window_bytes:
            self._send(Kind.CREDIT, stream, messages.Credit(flow.taken))
            flow.receivable += flow.taken
            flow.taken = 0

    def cancel(self, stream: int) -> None:
        """Give up a call of ours."""
        if stream not in self._mine:
            return
        del self._mine[stream]
        self._reader.drop(stream)
        if self._writer.drop(stream):
            self._send(Kind.CANCEL, stream, messages.Cancel())

    def send_ping(self, ping_id: int) -> None:
        """Ask for a sign of life."""
        self._send(Kind.PING, 0, messages.Ping(ping_id))

    def send_pong(self, ping_id: int, received_at: float, replied_at: float) -> None:
        """Give one; the times are wall-clock seconds."""
        self._send(Kind.PONG, 0, messages.Pong(ping_id, received_at, replied_at))

    def send_goodbye(self, code: str, message: str) -> None:
        """Say that, and why, this side is about to close."""
        self._send(Kind.GOODBYE, 0, messages.Goodbye(code, message))

    def data_to_send(self, bytes_max: int = 1 << 20) -> list[Buffer]:
        """Return buffers to write, about `bytes_max` of them; an empty list when there are none."""
        return self._writer.take(bytes_max)

    @property
    def queued_bytes(self) -> int:
        """How many bytes wait for `data_to_send`."""
        return self._writer.queued_bytes

    def _send(self, kind: Kind, stream: int, value: Any) -> int:
        """Queue a message and return the bytes of its body."""
        body = self._encoder.encode(value)
        length = len(body) if isinstance(body, bytes) else sum(map(len, body))
        if length > self._sendable_max:
            raise TooLarge(
                f"expected at most {self._sendable_max} bytes in a message to this node,"
                f" found {length}"
            )
        self._writer.put(kind, stream, body, length)
        return length

    def check(self) -> None:
        """Assert every invariant."""
        window = self.limits.window_bytes
        for flow in filter(None, (*self._mine.values(), *self._theirs.values())):
            assert self.peer is not None
            assert flow.sendable <= self.peer.window_bytes
            assert flow.receivable + flow.taken <= window
            assert flow.taken * 2 < window
        assert len(self._theirs) <= self.limits.calls_max
        assert all(stream % 2 == self._first % 2 for stream in self._mine)
        assert self.queued_bytes >= 0


_HELLO = Decoder(Hello)
_PROOF = Decoder(Proof)
_FAILURE = Decoder(Failure)
_CREDIT = Decoder(messages.Credit)
_PING = Decoder(messages.Ping)
_PONG = Decoder(messages.Pong)
_GOODBYE = Decoder(messages.Goodbye)
