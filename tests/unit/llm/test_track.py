"""Frames arrive as they were sent, whatever their size; what is none is refused or ends it."""

from __future__ import annotations

import random
import socket
import struct
import threading

import numpy as np
import pytest

from mesh.errors import ConnectionLost, MeshError, RemoteProtocolError
from mesh.llm.frames import Limits, header_bytes_max
from mesh.llm.passage import Departures, Passage, Ring
from mesh.llm.track import Track

LIMITS = Limits(slots=4, cap=128, width=64, tokens_max=4096)


@pytest.fixture
def pair():
    ends = socket.socketpair()
    tracks = [Track(end, LIMITS) for end in ends]
    yield tracks
    for track in tracks:
        track.release()


def hidden(rows, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, LIMITS.width)).astype(np.float32)


def test_frames_arrive_as_they_were_sent(pair):
    """Among them some that the system does not take at once."""
    here, there = pair
    draw = random.Random(1)
    sent = [(bytes([at]) * draw.randint(1, 60), draw.choice([0, 1, 8, 4000])) for at in range(40)]
    for at, (header, rows) in enumerate(sent):
        here.put(header, hidden(rows, at) if rows else None)
    for at, (header, rows) in enumerate(sent):
        found = there.get()
        assert found[0] == header
        if rows:
            assert np.array_equal(found[1], hidden(rows, at))
        else:
            assert found[1] is None


@pytest.mark.parametrize(
    "prefix",
    [
        (header_bytes_max(LIMITS) + 1, 0),
        (10, LIMITS.tokens_max * LIMITS.width * 4 + LIMITS.width * 4),
        (10, LIMITS.width * 4 + 1),
        (0xFFFF_FFFF, 0xFFFF_FFFF),
    ],
)
def test_what_is_too_long_is_refused_before_there_is_memory(pair, prefix):
    here, there = pair
    here._sock.sendall(struct.pack("<II", *prefix))
    with pytest.raises(RemoteProtocolError, match="a frame of"):
        there.get()


@pytest.mark.parametrize("seed", range(50))
def test_noise_is_a_frame_refused_or_the_end(pair, seed):
    """Invariant: whatever bytes come, a frame, `RemoteProtocolError` or None."""
    here, there = pair
    here._sock.sendall(random.Random(seed).randbytes(seed * 7))
    here.close()
    try:
        while there.get() is not None:
            pass
    except RemoteProtocolError:
        pass


def test_a_connection_that_ends_ends_the_reading(pair):
    here, there = pair
    here._sock.sendall(struct.pack("<II", 20, 0) + b"half")
    here.close()
    assert there.get() is None
    with pytest.raises(ConnectionLost):
        here.put(b"more", None)


def test_closing_wakes_who_reads(pair):
    _, there = pair
    found = []
    reader = threading.Thread(target=lambda: found.append(there.get()))
    reader.start()
    there.close()
    reader.join(5)
    assert found == [None]


def test_a_passage_that_was_never_opened_ends():
    def dial():
        raise AssertionError("nobody came")

    passage = Passage(LIMITS, dial)
    passage.close()
    assert passage.receive() is None
    passage.release()


def test_a_connection_that_comes_too_late_is_closed():
    passage = Passage(LIMITS, lambda: None)
    passage.close()
    ours, theirs = socket.socketpair()
    passage.take(ours)
    assert theirs.recv(1) == b""
    theirs.close()
    passage.release()


def test_a_ring_hands_over_what_comes_and_says_once_why_it_ended():
    """Through one passage between, frames come round; then the first reason stands."""
    (out, first), (last, home) = socket.socketpair(), socket.socketpair()
    passage = Passage(LIMITS, lambda: last)
    passage.take(first)
    came, why, done = [], [], threading.Event()

    def ended(text):
        why.append(text)
        done.set()

    ring = Ring(out, home, LIMITS, lambda header, _: came.append(header), ended)
    for at in range(3):
        ring.put(bytes([at]), hidden(2))
        passage.deliver(*passage.receive())
    passage.close()
    passage.release()
    assert done.wait(5)
    assert came == [b"\0", b"\1", b"\2"]
    assert why == ["the last stage has ended"]
    try:
        ring.put(b"x", None)
    except MeshError as error:  # pragma: no cover - it is told, not raised
        raise AssertionError from error
    ring.close()


def test_a_ring_tells_of_a_frame_that_cannot_be_taken():
    """Whatever is raised there: a lane that nobody reads would keep its answers for ever."""
    (out, first), (last, home) = socket.socketpair(), socket.socketpair()
    passage = Passage(LIMITS, lambda: last)
    passage.take(first)
    why, done = [], threading.Event()

    def ended(text):
        why.append(text)
        done.set()

    ring = Ring(out, home, LIMITS, lambda header, _: {}[header], ended)
    ring.put(b"x", hidden(2))
    passage.deliver(*passage.receive())
    assert done.wait(5)
    assert why == ["a frame that came home could not be taken: KeyError(b'x')"]
    passage.close()
    passage.release()
    ring.close()


def test_departures_keep_their_order_whoever_sends_them():
    """Threads put under a lock and flush at once: on each lane frames leave as they were put."""
    left, lock, numbers = [[], []], threading.Lock(), iter(range(1000))
    departures = Departures([lambda header, _, to=to: to.append(header) for to in left])

    def work():
        for at in range(100):
            with lock:
                departures.put(at % 2, next(numbers), None)
            departures.flush()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(left[0] + left[1]) == list(range(400))
    assert [sorted(each) for each in left] == left
