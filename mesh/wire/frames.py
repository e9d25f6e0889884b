"""Cuts messages into frames and puts frames together again.

Pure. `wire.connection` knows what the messages mean; here they are bodies of
bytes with a kind and a stream.

    prefix, 16 bytes, little-endian                      payload
    | length u32 | stream u32 | total u32 | kind u8 | flags u8 | 0 u16 | length bytes |

A body of up to `FRAGMENT_BYTES` travels in one frame (FIRST and LAST set). A
longer one is cut; its fragments take turns with those of other streams, and small
bodies go before any fragment, so nothing small waits long behind something large.
Bodies of one stream never overtake each other. At most `INTERLEAVED_MAX` bodies
are under way at once, which bounds what a reader must hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from struct import Struct

from mesh.errors import RemoteProtocolError

Buffer = bytes | bytearray | memoryview
Body = bytes | Sequence[Buffer]
Frame = tuple[int, int, int, Buffer]  # kind, flags, stream, body

# Sent first by both sides. Its first byte is no "{", which begins JSON lines, and no letter,
# so HTTP on this port is recognised at once; the line ends show a text-mode gateway.
PREAMBLE = b"\x89mesh\r\n\x01"
PREFIX = Struct("<IIIBBH")
PREFIX_BYTES = PREFIX.size

FRAGMENT_BYTES = 256 << 10  # 2 ms at 1 Gbit/s: the longest that a small message waits for a turn
SMALL_BYTES = 16 << 10  # up to here a body is joined into one write and goes first
INTERLEAVED_MAX = 8  # bodies under way at once

FIRST, LAST, ARRAYS = 1, 2, 4  # flags
WHOLE = FIRST | LAST


class Kind(IntEnum):
    """What a frame carries; numbers are never used again for something else."""

    HELLO = 1
    PROOF = 2
    CALL = 3
    ANSWER = 4
    PIECE = 5
    FINISH = 6
    FAILURE = 7
    CANCEL = 8
    CREDIT = 9
    PING = 10
    PONG = 11
    GOODBYE = 12


class _Assembly:
    """A body whose fragments are still arriving."""

    __slots__ = ("body", "flags", "kind", "stream", "total")

    def __init__(self, kind: int, flags: int, stream: int, total: int) -> None:
        self.kind = kind
        self.flags = flags
        self.stream = stream
        self.total = total
        self.body = bytearray()


class FrameReader:
    """Bytes in, whole bodies out.

    Args:
        bytes_max: the longest body taken.
        accepts: asked before a body in fragments is gathered; what is not accepted is skipped.
    """

    def __init__(self, bytes_max: int, accepts: Callable[[int, int], bool]) -> None:
        self.bytes_max = bytes_max
        self._accepts = accepts
        self._tail = bytearray()  # an incomplete frame
        self._need = 0  # bytes of `_tail` at which reading goes on
        self._left = 0  # bytes still missing of the fragment being read
        self._sink: _Assembly | None = None  # where they go; None: skipped
        self._closes = False  # whether that fragment is the last of its body
        self._assemblies: dict[int, _Assembly] = {}

    def read(self, data: bytes) -> list[Frame]:
        """Return the bodies that `data` completes, in order.

        Raises:
            RemoteProtocolError: what arrived is no frame, or beyond a limit.
        """
        if self._tail:
            self._tail += data
            if len(self._tail) < self._need:
                return []
            data = bytes(self._tail)
            self._tail.clear()
        frames: list[Frame] = []
        view, position, end = memoryview(data), 0, len(data)
        while True:
            if self._left:
                taken = min(self._left, end - position)
                self._continue(view[position : position + taken], frames)
                position += taken
                if self._left:
                    return frames
            missing = PREFIX_BYTES
            if end - position < missing:
                break
            length, stream, total, kind, flags, _ = PREFIX.unpack_from(data, position)
            if flags & WHOLE == WHOLE:
                self._check_whole(length, total)
                missing += length
                if end - position < missing:
                    break
                body = view[position + PREFIX_BYTES : position + missing]
                frames.append((kind, flags, stream, body))
                position += missing
            else:
                self._begin(length, stream, total, kind, flags, frames)
                position += PREFIX_BYTES
        if position < end:
            self._tail += view[position:]
            self._need = missing
        return frames

    def drop(self, stream: int) -> None:
        """Forget what has arrived of a body on `stream`; the rest of it will be skipped."""
        self._assemblies.pop(stream, None)

    def held_bytes(self) -> int:
        """Return how many bytes wait for the rest of their body."""
        return len(self._tail) + sum(len(each.body) for each in self._assemblies.values())

    def _check_whole(self, length: int, total: int) -> None:
        if length != total or length > min(FRAGMENT_BYTES, self.bytes_max):
            raise RemoteProtocolError(
                f"expected a frame of at most {min(FRAGMENT_BYTES, self.bytes_max)} bytes,"
                f" found length {length}, total {total}"
            )

    def _begin(
        self, length: int, stream: int, total: int, kind: int, flags: int, frames: list[Frame]
    ) -> None:
        """Take the prefix of a fragment."""
        if length > FRAGMENT_BYTES or total > self.bytes_max:
            raise RemoteProtocolError(
                f"expected at most {FRAGMENT_BYTES} bytes in a fragment and {self.bytes_max} in a"
                f" message, found {length} and {total}"
            )
        if flags & FIRST:
            self._open(stream, total, kind, flags)
        sink = self._assemblies.get(stream)
        if sink is not None and (kind != sink.kind or total != sink.total):
            raise RemoteProtocolError(
                f"expected the next fragment of kind {sink.kind} on stream {stream},"
                f" found kind {kind}"
            )
        if sink is not None and len(sink.body) + length > sink.total:
            raise RemoteProtocolError(f"message on stream {stream} is longer than it said")
        self._sink, self._left, self._closes = sink, length, bool(flags & LAST)
        if not length:
            self._continue(memoryview(b""), frames)

    def _open(self, stream: int, total: int, kind: int, flags: int) -> None:
        if stream in self._assemblies:
            raise RemoteProtocolError(f"two messages at once on stream {stream}")
        if not self._accepts(kind, stream):
            return
        if len(self._assemblies) >= INTERLEAVED_MAX:
            raise RemoteProtocolError(f"more than {INTERLEAVED_MAX} messages in fragments at once")
        self._assemblies[stream] = _Assembly(kind, flags, stream, total)

    def _continue(self, part: memoryview, frames: list[Frame]) -> None:
        """Take bytes of the fragment being read."""
        self._left -= len(part)
        sink = self._sink
        if sink is None:
            return
        # A stream that was dropped meanwhile keeps its sink until the fragment ends.
        sink.body += part
        if self._left or not self._closes:
            return
        self._sink = None
        if self._assemblies.pop(sink.stream, None) is not sink:
            return
        if len(sink.body) != sink.total:
            raise RemoteProtocolError(f"message on stream {sink.stream} is shorter than it said")
        frames.append((sink.kind, sink.flags, sink.stream, sink.body))


class _Parcel:
    """A body that leaves in fragments; its buffers are sliced, not copied."""

    __slots__ = ("buffers", "flags", "is_begun", "kind", "left", "stream", "total")

    def __init__(self, kind: int, flags: int, stream: int, buffers: Sequence[Buffer]) -> None:
        self.kind = kind
        self.flags = flags
        self.stream = stream
        self.buffers = deque(memoryview(each).cast("B") for each in buffers if len(each))
        self.total = self.left = sum(len(each) for each in self.buffers)
        self.is_begun = False

    def cut(self, buffers: list[Buffer]) -> int:
        """Append the next frame to `buffers`; return its bytes."""
        length = min(self.left, FRAGMENT_BYTES)
        self.left -= length
        flags = self.flags | (0 if self.is_begun else FIRST) | (0 if self.left else LAST)
        self.is_begun = True
        prefix = PREFIX.pack(length, self.stream, self.total, self.kind, flags, 0)
        buffers.append(prefix)
        missing = length
        while missing:
            head = self.buffers.popleft()
            if len(head) > missing:
                self.buffers.appendleft(head[missing:])
                head = head[:missing]
            buffers.append(head)
            missing -= len(head)
        return length + PREFIX_BYTES


class FrameWriter:
    """Bodies in, buffers to write out."""

    def __init__(self) -> None:
        self._small: list[Buffer] = []
        self._small_bytes = 0
        self._large: dict[int, deque[_Parcel]] = {}  # by stream, in the order of their bodies
        self._turns: deque[int] = deque()  # streams whose fragments take turns
        self._waiting: deque[int] = deque()  # streams that wait for a turn to be free
        self._large_bytes = 0

    @property
    def queued_bytes(self) -> int:
        """How many bytes wait to be written."""
        return self._small_bytes + self._large_bytes

    def put(self, kind: int, stream: int, body: Body, length: int) -> None:
        """Queue a body of `length` bytes; several buffers mean that it carries arrays."""
        flags, buffers = (0, (body,)) if isinstance(body, bytes) else (ARRAYS, body)
        # Credit is about the other direction, so it need not wait for what goes this way.
        if length > SMALL_BYTES or (stream in self._large and kind != Kind.CREDIT):
            self._put_large(_Parcel(kind, flags, stream, buffers))
            return
        self._small.append(PREFIX.pack(length, stream, length, kind, WHOLE | flags, 0))
        # Arrays are copied now: whoever filled them may use them again.
        self._small.append(b"".join(buffers) if flags else buffers[0])
        self._small_bytes += PREFIX_BYTES + length

    def put_raw(self, data: bytes) -> None:
        """Queue bytes that are no frame: the preamble."""
        self._small.append(data)
        self._small_bytes += len(data)

    def take(self, bytes_max: int) -> list[Buffer]:
        """Return buffers to write, small bodies first, then fragments up to about `bytes_max`."""
        buffers: list[Buffer] = []
        taken = self._small_bytes
        if taken:
            buffers.append(b"".join(self._small))
            self._small.clear()
            self._small_bytes = 0
        while self._turns and taken < bytes_max:
            taken += self._take_fragment(buffers)
        return buffers

    def drop(self, stream: int) -> bool:
        """Forget what is queued in fragments on `stream`; return whether its call had left."""
        parcels = self._large.pop(stream, None)
        if parcels is None:
            return True
        self._large_bytes -= sum(each.left for each in parcels)
        if stream in self._turns:
            self._turns.remove(stream)
            self._promote()
        else:
            self._waiting.remove(stream)
        return parcels[0].is_begun or parcels[0].kind != Kind.CALL

    def _put_large(self, parcel: _Parcel) -> None:
        self._large_bytes += parcel.left
        queue = self._large.get(parcel.stream)
        if queue is not None:
            queue.append(parcel)
            return
        self._large[parcel.stream] = deque((parcel,))
        self._waiting.append(parcel.stream)
        self._promote()

    def _promote(self) -> None:
        while self._waiting and len(self._turns) < INTERLEAVED_MAX:
            self._turns.append(self._waiting.popleft())

    def _take_fragment(self, buffers: list[Buffer]) -> int:
        stream = self._turns.popleft()
        queue = self._large[stream]
        parcel = queue[0]
        before = parcel.left
        taken = parcel.cut(buffers)
        self._large_bytes -= before - parcel.left
        if not parcel.left:
            queue.popleft()
        if queue:
            self._turns.append(stream)
        else:
            del self._large[stream]
            self._promote()
        return taken
