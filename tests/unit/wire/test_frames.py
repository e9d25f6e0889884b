"""Bodies survive being cut, interleaved and delivered in any chunks; limits hold."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import RemoteProtocolError
from mesh.wire.frames import (
    ARRAYS,
    FIRST,
    FRAGMENT_BYTES,
    INTERLEAVED_MAX,
    LAST,
    PREFIX,
    SMALL_BYTES,
    WHOLE,
    FrameReader,
    FrameWriter,
    Kind,
)


def reader(bytes_max: int = 64 << 20) -> FrameReader:
    return FrameReader(bytes_max, lambda kind, stream: True)


def put(writer: FrameWriter, stream: int, body: bytes, kind: Kind = Kind.PIECE) -> None:
    writer.put(kind, stream, body, len(body))


def everything(writer: FrameWriter) -> bytes:
    return b"".join(iter(lambda: b"".join(writer.take(1)), b""))


LENGTHS = st.sampled_from((0, 1, 100, SMALL_BYTES, SMALL_BYTES + 1, FRAGMENT_BYTES + 1, 600_000))


@given(st.lists(st.tuples(st.integers(1, 5), LENGTHS), max_size=8))
def test_bodies_of_a_stream_arrive_whole_and_in_order(plan: list[tuple[int, int]]) -> None:
    """Whatever is queued, each stream gets its own bodies, unchanged, in their order."""
    writer = FrameWriter()
    sent: dict[int, list[bytes]] = {}
    for index, (stream, length) in enumerate(plan):
        body = bytes([index + 1]) * length
        sent.setdefault(stream, []).append(body)
        put(writer, stream, body)
    found: dict[int, list[bytes]] = {}
    for _, _, stream, body in reader().read(everything(writer)):
        found.setdefault(stream, []).append(bytes(body))
    assert sent == found
    assert writer.queued_bytes == 0


@pytest.mark.parametrize("chunk_bytes", [1, 7, 16, 17, 1000])
def test_chunks_do_not_matter(chunk_bytes: int) -> None:
    writer = FrameWriter()
    put(writer, 1, b"small")
    put(writer, 3, b"x" * 20_000)
    put(writer, 5, b"")
    data = everything(writer)
    whole = [(kind, bytes(body)) for kind, _, _, body in reader().read(data)]
    each, pieces = reader(), []
    for start in range(0, len(data), chunk_bytes):
        pieces += [(kind, bytes(b)) for kind, _, _, b in each.read(data[start:][:chunk_bytes])]
    assert whole == pieces
    assert each.held_bytes() == 0


def test_a_small_body_passes_large_ones() -> None:
    writer = FrameWriter()
    put(writer, 1, b"L" * (4 << 20))
    assert len(b"".join(writer.take(1))) < FRAGMENT_BYTES + 100
    put(writer, 3, b"small")
    assert b"".join(writer.take(1)).endswith(b"small")


def test_large_bodies_take_turns() -> None:
    writer = FrameWriter()
    for stream in (1, 3):
        put(writer, stream, bytes([stream]) * (FRAGMENT_BYTES * 2))
    streams = [PREFIX.unpack_from(b"".join(writer.take(1)))[1] for _ in range(4)]
    assert [1, 3, 1, 3] == streams


def test_only_so_many_bodies_are_under_way_at_once() -> None:
    writer = FrameWriter()
    for stream in range(1, 40, 2):
        put(writer, stream, b"x" * (FRAGMENT_BYTES + 1))
    assert 20 == len(reader().read(everything(writer)))


def test_arrays_are_copied_when_small_and_sliced_when_large() -> None:
    small, large = bytearray(b"s" * 100), bytearray(b"l" * (SMALL_BYTES + 1))
    writer = FrameWriter()
    writer.put(Kind.PIECE, 1, [b"h", small], 101)
    writer.put(Kind.PIECE, 3, [b"h", large], SMALL_BYTES + 2)
    small[:] = b"!" * 100
    large[:] = b"!" * (SMALL_BYTES + 1)
    frames = reader().read(everything(writer))
    assert [b"h" + b"s" * 100, b"h" + b"!" * (SMALL_BYTES + 1)] == [bytes(f[3]) for f in frames]
    assert all(flags & ARRAYS for _, flags, _, _ in frames)


def test_what_is_dropped_before_it_left_never_leaves() -> None:
    writer = FrameWriter()
    put(writer, 1, b"x" * (1 << 20), Kind.CALL)
    assert not writer.drop(1)
    assert everything(writer) == b""
    assert writer.queued_bytes == 0


def test_what_is_dropped_half_way_says_so_and_its_rest_is_skipped() -> None:
    writer, side = FrameWriter(), reader()
    put(writer, 1, b"x" * (1 << 20), Kind.CALL)
    assert [] == side.read(b"".join(writer.take(1)))
    assert writer.drop(1)
    side.drop(1)
    # The reader dropped it too, and skips what still comes of it.
    late = PREFIX.pack(3, 1, 1 << 20, Kind.CALL, LAST, 0) + b"xxx"
    assert [] == side.read(late)
    put(writer, 3, b"next")
    assert [b"next"] == [bytes(body) for *_, body in side.read(everything(writer))]


def frame(
    length: int, stream: int = 1, total: int | None = None, flags: int = WHOLE, kind: int = 5
) -> bytes:
    return PREFIX.pack(length, stream, length if total is None else total, kind, flags, 0)


@pytest.mark.parametrize(
    "data",
    [
        frame(FRAGMENT_BYTES + 1),
        frame(1 << 31),
        frame(5, total=6),
        frame(5, total=1 << 31, flags=FIRST),
        frame(FRAGMENT_BYTES + 1, total=1 << 20, flags=FIRST),
        frame(3, total=2, flags=FIRST),
        frame(0, total=9, flags=FIRST) + frame(0, total=9, flags=FIRST),
        frame(0, total=9, flags=FIRST) + frame(0, total=9, flags=LAST),
        frame(0, total=9, flags=FIRST) + frame(0, total=8, flags=LAST),
        frame(0, total=9, flags=FIRST) + frame(0, total=9, flags=LAST, kind=6),
        b"".join(frame(0, s, total=9, flags=FIRST) for s in range(INTERLEAVED_MAX + 1)),
    ],
    ids=str,
)
def test_frames_that_cannot_be_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        reader(1 << 20).read(data)


def test_a_continuation_of_nothing_is_skipped() -> None:
    assert [] == reader().read(frame(3, total=9, flags=LAST) + b"abc")


@given(st.binary(max_size=200))
def test_garbage_raises_one_error_only(data: bytes) -> None:
    """Any bytes are frames, part of one, or a `RemoteProtocolError`."""
    with contextlib.suppress(RemoteProtocolError):
        reader().read(data)
