"""Which streams of a connection are open, and what credit their pieces have.

Pure. `wire.connection` asks before it sends and checks what it receives. A side's
streams have numbers of one parity, so both can open some without asking.

Credit counts bytes, so that a reader's memory is bounded whatever the size of the
pieces: a sender may send while it has any, so a window is overrun by one piece at
most. The reader gives back what it has taken, half a window at a time.
"""

from __future__ import annotations

from mesh.errors import LocalProtocolError, RemoteProtocolError

PIECE_COST_MIN = 1024  # bytes; even empty pieces use up credit, so their number is bounded too
STREAM_MAX = 0xFFFF_FFFE  # after it the numbers begin again


class Flow:
    """Credit of one stream, both ways, in bytes."""

    __slots__ = ("receivable", "sendable", "taken")

    def __init__(self, sendable: int, receivable: int) -> None:
        self.sendable = sendable
        self.receivable = receivable
        self.taken = 0  # by the reader, and not yet given back to the sender


class Streams:
    """The open streams of both sides; a stream without pieces has no `Flow`.

    Args:
        is_client: whether our numbers are the odd ones.
        receive_window: bytes of pieces that we let the peer send on one stream.
        send_window: bytes that the peer lets us send.
    """

    def __init__(self, is_client: bool, receive_window: int, send_window: int) -> None:
        self.mine: dict[int, Flow | None] = {}
        self.theirs: dict[int, Flow | None] = {}
        self._first = self._next = 1 if is_client else 2
        self._has_wrapped = False
        self._receive_window = receive_window
        self._send_window = send_window

    def number(self) -> int:
        """Return the number for our next stream."""
        stream = self._next
        while stream in self.mine:  # only after the numbers have begun again
            stream += 2
        return stream

    def open_mine(self, stream: int, wants_pieces: bool) -> None:
        """Open our stream with a `number`."""
        self.mine[stream] = self._flow(wants_pieces)
        self._next = stream + 2
        if self._next > STREAM_MAX:
            self._next, self._has_wrapped = self._first, True

    def open_theirs(self, stream: int, wants_pieces: bool) -> None:
        """Open a stream of the peer."""
        self.theirs[stream] = self._flow(wants_pieces)

    def check_theirs(self, stream: int) -> None:
        """Raise unless the peer may open `stream`."""
        if not stream or stream % 2 == self._first % 2 or stream in self.theirs:
            raise RemoteProtocolError(f"stream {stream} is not the peer's to open")

    def close_mine(self, stream: int) -> bool:
        """Close our stream; return False if it is over already, raise if it never was."""
        if stream in self.mine:
            del self.mine[stream]
            return True
        self._check_was(stream)
        return False

    def is_open(self, stream: int) -> bool:
        """Return whether `stream` is open, whoever opened it."""
        return stream in self.mine or stream in self.theirs

    def find(self, stream: int) -> Flow | None:
        """Return the credit of a stream; None if it is over or has no pieces."""
        return self.mine.get(stream) or self.theirs.get(stream)

    def spend(self, stream: int, length: int) -> int | None:
        """Take a piece of `length` bytes that has arrived off its sender's credit.

        Returns:
            Its cost; None if the stream is over.

        Raises:
            RemoteProtocolError: there was no credit, or there are no pieces here.
        """
        flow = self._arrived_for(stream)
        if flow is None:
            return None
        if flow.receivable <= 0:
            raise RemoteProtocolError(f"a piece beyond the credit of stream {stream}")
        cost = max(PIECE_COST_MIN, length)
        flow.receivable -= cost
        return cost

    def give_back(self, stream: int, cost: int) -> int:
        """Count what the reader has taken; return the credit to send now, mostly 0."""
        flow = self.find(stream)
        if flow is None:
            return 0
        flow.taken += cost
        if flow.taken * 2 < self._receive_window:
            return 0
        amount, flow.taken = flow.taken, 0
        flow.receivable += amount
        return amount

    def grant(self, stream: int, amount: int) -> bool:
        """Add credit that the peer gave; return False if the stream is over."""
        flow = self._arrived_for(stream)
        if flow is None:
            return False
        if not 0 < amount <= self._send_window - flow.sendable:
            raise RemoteProtocolError(f"credit of {amount} bytes was never used on {stream}")
        flow.sendable += amount
        return True

    def to_send(self, stream: int) -> Flow | None:
        """Return the credit that a piece of ours is to be taken off; None if all is over."""
        if not self.is_open(stream):
            return None
        flow = self.find(stream)
        if flow is None or flow.sendable <= 0:
            raise LocalProtocolError("expected a call that wants pieces, and credit for one")
        return flow

    def check(self) -> None:
        """Assert every invariant."""
        for flow in filter(None, (*self.mine.values(), *self.theirs.values())):
            assert flow.sendable <= self._send_window
            assert flow.receivable + flow.taken <= self._receive_window
            assert flow.taken * 2 < self._receive_window
        assert all(stream % 2 == self._first % 2 for stream in self.mine)
        assert all(stream % 2 != self._first % 2 for stream in self.theirs)

    def _flow(self, wants_pieces: bool) -> Flow | None:
        return Flow(self._send_window, self._receive_window) if wants_pieces else None

    def _arrived_for(self, stream: int) -> Flow | None:
        streams = self.mine if stream % 2 == self._first % 2 else self.theirs
        if stream not in streams:
            self._check_was(stream)
            return None
        flow = streams[stream]
        if flow is None:
            raise RemoteProtocolError(f"stream {stream} has no pieces")
        return flow

    def _check_was(self, stream: int) -> None:
        is_ours = stream % 2 == self._first % 2
        if is_ours and stream >= self._next and not self._has_wrapped:
            raise RemoteProtocolError(f"stream {stream} was never opened")
