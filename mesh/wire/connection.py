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
from mesh.wire.handshake import HELLO_BYTES_MAX, Handshake, Hello, Proof
from mesh.wire.messages import Answer, Call, Failure, Piece
from mesh.wire.streams import PIECE_COST_MIN, Streams

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
        hello = Hello(
            mesh=mesh,
            node=node,
            nonce=nonce,
            has_secret=bool(secret),
            message_bytes_max=self.limits.message_bytes_max,
            window_bytes=self.limits.window_bytes,
        )
        self._handshake = Handshake(is_client, hello, secret)
        self._has_refused = False
        self._preamble_left = PREAMBLE
        self._sendable_max = HELLO_BYTES_MAX
        self._streams = Streams(is_client, 0, 0)  # until the windows are known
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
        return kind == Kind.CALL or self._streams.is_open(stream)

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
        if not self.is_client:
            self._greet()
        reason = self._handshake.receive(theirs, bytes(body))
        if reason:
            self._refuse(reason, happened)
        elif not self._handshake.hello.has_secret:
            self._open(theirs, happened)
        else:
            self.state = State.PROVING
            if self.is_client:
                self._send(Kind.PROOF, 0, self._handshake.proof())

    def _receive_proof(self, _: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        theirs = self._handshake.peer
        if self.state is not State.PROVING or theirs is None:
            raise RemoteProtocolError("expected no proof, found one")
        if not self._handshake.is_proven(_PROOF.decode(body, has_arrays)):
            self._refuse("wrong mesh secret: give every node the same", happened)
            return
        if not self.is_client:
            self._send(Kind.PROOF, 0, self._handshake.proof())
        self._open(theirs, happened)

    def _greet(self) -> None:
        self._writer.put_raw(PREAMBLE)
        self._writer.put(Kind.HELLO, 0, self._handshake.sent, len(self._handshake.sent))

    def _refuse(self, reason: str, happened: Events) -> None:
        self.send_goodbye("unauthorized", reason)
        self.state, self._has_refused = State.CLOSED, True
        happened.append(events.Refused(reason))

    def _open(self, peer: Hello, happened: Events) -> None:
        self.state = State.OPEN
        self._sendable_max = peer.message_bytes_max
        self._streams = Streams(self.is_client, self.limits.window_bytes, peer.window_bytes)
        self._reader.bytes_max = self.limits.message_bytes_max
        self._receive |= {
            Kind.CALL: self._receive_call,
            Kind.ANSWER: self._receive_answer,
            Kind.PIECE: self._receive_piece,
            Kind.FINISH: self._receive_finish,
            Kind.FAILURE: self._receive_failure,
            Kind.CANCEL: self._receive_cancel,
            Kind.CREDIT: self._receive_credit,
            Kind.PING: self._receive_ping,
            Kind.PONG: self._receive_pong,
        }
        happened.append(events.Opened(peer))

    def _receive_call(self, stream: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        self._streams.check_theirs(stream)
        call = self._call_decoder.decode(body, has_arrays)
        if len(self._streams.theirs) >= self.limits.calls_max:
            message = f"expected at most {self.limits.calls_max} calls at once from one node"
            node = self._handshake.hello.node
            self._send(Kind.FAILURE, stream, Failure("overloaded", message, node))
            return
        self._streams.open_theirs(stream, call.wants_pieces)
        happened.append(events.CallReceived(stream, call))

    def _receive_answer(
        self, stream: int, body: Buffer, has_arrays: bool, happened: Events
    ) -> None:
        answered = self._answered_decoder.decode(body, has_arrays)
        if self._streams.close_mine(stream):
            self._writer.drop(stream)
            happened.append(events.AnswerReceived(stream, answered.answer, answered.held_ms))

    def _receive_failure(
        self, stream: int, body: Buffer, has_arrays: bool, happened: Events
    ) -> None:
        failure = _FAILURE.decode(body, has_arrays)
        if self._streams.close_mine(stream):
            self._writer.drop(stream)
            happened.append(events.FailureReceived(stream, failure))

    def _receive_piece(self, stream: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        piece = self._piece_decoder.decode(body, has_arrays)
        cost = self._streams.spend(stream, len(body))
        if cost is not None:
            happened.append(events.PieceReceived(stream, piece, cost))

    def _receive_finish(self, stream: int, _: Buffer, has_arrays: bool, happened: Events) -> None:
        if stream in self._streams.theirs:
            happened.append(events.FinishReceived(stream))

    def _receive_cancel(self, stream: int, _: Buffer, has_arrays: bool, happened: Events) -> None:
        self._reader.drop(stream)
        if stream in self._streams.theirs:
            del self._streams.theirs[stream]
            self._writer.drop(stream)
            happened.append(events.CancelReceived(stream))

    def _receive_credit(
        self, stream: int, body: Buffer, has_arrays: bool, happened: Events
    ) -> None:
        if self._streams.grant(stream, _CREDIT.decode(body, has_arrays).amount):
            happened.append(events.CreditReceived(stream))

    def _receive_ping(self, _: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        happened.append(events.PingReceived(_PING.decode(body, has_arrays).id))

    def _receive_pong(self, _: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        happened.append(events.PongReceived(_PONG.decode(body, has_arrays)))

    def _receive_goodbye(self, _: int, body: Buffer, has_arrays: bool, happened: Events) -> None:
        happened.append(events.GoodbyeReceived(_GOODBYE.decode(body, has_arrays)))

    # What is sent.

    def send_call(self, call: Call) -> int:
        """Open a call and return its stream.

        Raises:
            TooLarge: the peer does not take a message of this length.
            LocalProtocolError: a value cannot travel, or the connection is not open.
        """
        if self.state is not State.OPEN:
            raise LocalProtocolError(f"expected an open connection, found it {self.state.value}")
        stream = self._streams.number()
        self._send(Kind.CALL, stream, call)
        self._streams.open_mine(stream, call.wants_pieces)
        return stream

    def send_answer(self, stream: int, answer: Answer, held_ms: float = 0.0) -> None:
        """Answer a call of the peer; nothing is sent if it was cancelled meanwhile."""
        if stream in self._streams.theirs:
            self._send(Kind.ANSWER, stream, _Answered(held_ms, answer))
            del self._streams.theirs[stream]
            self._reader.drop(stream)

    def send_failure(self, stream: int, failure: Failure) -> None:
        """End a call of the peer with an error; nothing is sent if it was cancelled meanwhile."""
        if stream in self._streams.theirs:
            self._send(Kind.FAILURE, stream, failure)
            del self._streams.theirs[stream]
            self._reader.drop(stream)

    def can_send_piece(self, stream: int) -> bool:
        """Return whether there is credit for a piece; True too when the stream is over."""
        flow = self._streams.find(stream)
        return flow is None or flow.sendable > 0

    def send_piece(self, stream: int, piece: Piece) -> None:
        """Send a piece to the other side of `stream`; nothing is sent if the stream is over."""
        flow = self._streams.to_send(stream)
        if flow is not None:
            flow.sendable -= max(PIECE_COST_MIN, self._send(Kind.PIECE, stream, piece))

    def finish(self, stream: int) -> None:
        """Say that the caller sends no more pieces."""
        if stream in self._streams.mine:
            self._send(Kind.FINISH, stream, messages.Finish())

    def take(self, stream: int, cost: int) -> None:
        """Give back what a piece cost, now that its reader has taken it."""
        amount = self._streams.give_back(stream, cost)
        if amount:
            self._send(Kind.CREDIT, stream, messages.Credit(amount))

    def cancel(self, stream: int) -> None:
        """Give up a call of ours."""
        if stream not in self._streams.mine:
            return
        del self._streams.mine[stream]
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
        self._streams.check()
        assert len(self._streams.theirs) <= self.limits.calls_max
        assert self.queued_bytes >= 0


_HELLO = Decoder(Hello)
_PROOF = Decoder(Proof)
_FAILURE = Decoder(Failure)
_CREDIT = Decoder(messages.Credit)
_PING = Decoder(messages.Ping)
_PONG = Decoder(messages.Pong)
_GOODBYE = Decoder(messages.Goodbye)
