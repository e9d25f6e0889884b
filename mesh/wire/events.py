"""What a connection tells its shell: facts, in the order in which they arrived.

Pure. Streams are numbers that stand for one call each.
"""

from __future__ import annotations

import msgspec

from mesh.wire.handshake import Hello
from mesh.wire.messages import Answer, Call, Failure, Goodbye, Piece, Pong


class Opened(msgspec.Struct, frozen=True):
    """The handshake is over; calls may be made."""

    peer: Hello


class Refused(msgspec.Struct, frozen=True):
    """We refused the peer: write what is to be sent, then close."""

    reason: str


class CallReceived(msgspec.Struct, frozen=True):
    """The peer opened a call."""

    stream: int
    call: Call


class AnswerReceived(msgspec.Struct, frozen=True):
    """A call of ours is answered; `held_ms` is how long the peer had it."""

    stream: int
    answer: Answer
    held_ms: float


class FailureReceived(msgspec.Struct, frozen=True):
    """A call of ours failed."""

    stream: int
    failure: Failure


class PieceReceived(msgspec.Struct, frozen=True):
    """A piece for the reader of `stream`, whose shell gives `cost` back once it is taken."""

    stream: int
    piece: Piece
    cost: int


class FinishReceived(msgspec.Struct, frozen=True):
    """The caller sends no more pieces."""

    stream: int


class CancelReceived(msgspec.Struct, frozen=True):
    """The peer no longer wants the answer of its call."""

    stream: int


class CreditReceived(msgspec.Struct, frozen=True):
    """More pieces may be sent on `stream`."""

    stream: int


class PingReceived(msgspec.Struct, frozen=True):
    """The peer asks for a `send_pong`."""

    id: int


class PongReceived(msgspec.Struct, frozen=True):
    """The peer answered a ping."""

    pong: Pong


class GoodbyeReceived(msgspec.Struct, frozen=True):
    """The peer is about to close, and says why."""

    goodbye: Goodbye


Event = (
    Opened
    | Refused
    | CallReceived
    | AnswerReceived
    | FailureReceived
    | PieceReceived
    | FinishReceived
    | CancelReceived
    | CreditReceived
    | PingReceived
    | PongReceived
    | GoodbyeReceived
)
