"""Two connections back to back: calls, pieces, credit, cancellations, and peers that misbehave."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import LocalProtocolError, RemoteProtocolError, TooLarge
from mesh.wire import events
from mesh.wire.connection import Limits, State
from mesh.wire.frames import PREAMBLE, PREFIX, WHOLE, Kind
from mesh.wire.messages import Answer, Call, Failure, Piece, Pong, Timing
from mesh.wire.streams import PIECE_COST_MIN
from tests.support.connection_pair import ConnectionPair, connection, drain, opened

STREAMING = Call(to="role/generate", wants_pieces=True)


def test_a_call_is_answered() -> None:
    pair = opened()
    call = Call(to="role/embed", fields={"text": "hi"}, request_id="r1", attempt=1)
    stream = pair.client.send_call(call)
    assert ([], [events.CallReceived(stream, call)]) == pair.pump()
    answer = Answer({"vector": [1.0]}, Timing(queued_ms=1, batch_size=3), load=0.5)
    pair.server.send_answer(stream, answer, held_ms=7.0)
    assert ([events.AnswerReceived(stream, answer, 7.0)], []) == pair.pump()


def test_both_sides_may_call_at_once() -> None:
    pair = opened()
    mine, theirs = pair.client.send_call(Call(to="a")), pair.server.send_call(Call(to="b"))
    assert (1, 2) == (mine, theirs)
    told = pair.pump()
    assert ([theirs], [mine]) == tuple([event.stream for event in side] for side in told)


def test_a_failure_ends_a_call() -> None:
    pair = opened()
    stream = pair.client.send_call(Call(to="a"))
    pair.pump()
    failure = Failure("overloaded", "a queue is full", "n1", 0.5)
    pair.server.send_failure(stream, failure)
    pair.server.send_answer(stream, Answer({}))  # too late: nothing is sent
    assert ([events.FailureReceived(stream, failure)], []) == pair.pump()


def test_arrays_of_any_size_arrive() -> None:
    pair = opened()
    for length in (0, 10, 10_000, 1_000_000):
        array = np.arange(length, dtype=np.float32)
        pair.client.send_call(Call(to="a", fields={"x": array}))
        _, [event] = pair.pump()
        np.testing.assert_array_equal(array, event.call.fields["x"])


def test_pings_are_reported_and_answered() -> None:
    pair = opened()
    pair.client.send_ping(4)
    assert ([], [events.PingReceived(4)]) == pair.pump()
    pair.server.send_pong(4, 1.0, 2.0)
    assert ([events.PongReceived(Pong(4, 1.0, 2.0))], []) == pair.pump()


# Pieces.


def streaming(**limits: int) -> tuple[ConnectionPair, int]:
    pair = opened(**limits)
    stream = pair.client.send_call(STREAMING)
    pair.pump()
    return pair, stream


def test_pieces_go_both_ways_and_the_answer_comes_last() -> None:
    pair, stream = streaming()
    pair.client.send_piece(stream, Piece({"x": 1}))
    pair.client.finish(stream)
    pair.server.send_piece(stream, Piece({"y": 2}))
    to_client, to_server = pair.pump()
    pair.server.send_answer(stream, Answer({}))
    to_client += pair.pump()[0]
    assert [events.PieceReceived, events.AnswerReceived] == [type(event) for event in to_client]
    assert [events.PieceReceived, events.FinishReceived] == [type(event) for event in to_server]


def test_large_pieces_and_the_small_answer_keep_their_order() -> None:
    pair, stream = streaming(window_bytes=8 << 20)
    pair.server.send_piece(stream, Piece({"x": bytes(3 << 20)}))
    pair.server.send_piece(stream, Piece({"x": b"small"}))
    pair.server.send_answer(stream, Answer({}))
    told, _ = pair.pump()
    assert [3 << 20, 5] == [len(event.piece.fields["x"]) for event in told[:2]]
    assert isinstance(told[2], events.AnswerReceived)


def test_a_sender_stops_without_credit_and_goes_on_with_it() -> None:
    pair, stream = streaming(window_bytes=4 * PIECE_COST_MIN)
    for _ in range(4):
        assert pair.server.can_send_piece(stream)
        pair.server.send_piece(stream, Piece({}))
    assert not pair.server.can_send_piece(stream)
    with pytest.raises(LocalProtocolError):
        pair.server.send_piece(stream, Piece({}))
    told, _ = pair.pump()
    pair.client.take(stream, told[0].cost)
    assert ([], []) == pair.pump()  # credit is given half a window at a time
    pair.client.take(stream, told[1].cost)
    assert ([], [events.CreditReceived(stream)]) == pair.pump()
    assert pair.server.can_send_piece(stream)


@settings(max_examples=40)
@given(st.integers(0, 1 << 32))
def test_credit_is_never_exceeded_and_nothing_is_lost(seed: int) -> None:
    """Whatever both sides do, unread pieces stay within a window plus one; all arrive in order."""
    window, chance = 6000, random.Random(seed)
    pair, stream = streaming(window_bytes=window)
    sent, read, unread = 0, 0, []
    for _ in range(60):
        if chance.random() < 0.6 and pair.server.can_send_piece(stream):
            body = bytes(chance.choice((0, 10, 3000, 20_000)))
            pair.server.send_piece(stream, Piece({"n": sent, "x": body}))
            sent += 1
        elif unread and chance.random() < 0.7:
            event = unread.pop(0)
            assert event.piece.fields["n"] == read
            read += 1
            pair.client.take(stream, event.cost)
        if chance.random() < 0.5:
            unread += pair.pump()[0]
        assert sum(event.cost for event in unread[:-1]) <= window
    unread += pair.pump()[0]
    assert sent == read + len(unread)


def test_pieces_nobody_asked_for_are_refused_on_both_sides() -> None:
    pair = opened()
    stream = pair.client.send_call(Call(to="a"))
    pair.pump()
    with pytest.raises(LocalProtocolError):
        pair.server.send_piece(stream, Piece({}))


# Cancelling.


def test_a_cancelled_call_is_over_on_both_sides() -> None:
    pair, stream = streaming()
    pair.client.cancel(stream)
    pair.client.cancel(stream)
    assert ([], [events.CancelReceived(stream)]) == pair.pump()
    pair.server.send_piece(stream, Piece({}))
    pair.server.send_answer(stream, Answer({}))
    assert ([], []) == pair.pump()


def test_what_crosses_a_cancel_is_skipped() -> None:
    pair, stream = streaming()
    pair.server.send_piece(stream, Piece({"x": bytes(1 << 20)}))
    pair.server.send_answer(stream, Answer({}))
    pair.client.cancel(stream)
    told, _ = pair.pump()
    assert told == []
    assert pair.client.receive_data(b"") == []


def test_a_call_cancelled_before_it_left_is_never_seen() -> None:
    pair = opened()
    stream = pair.client.send_call(Call(to="a", fields={"x": bytes(1 << 20)}))
    pair.client.cancel(stream)
    assert b"" == drain(pair.client)


def test_a_call_cancelled_half_way_is_never_served() -> None:
    pair = opened()
    stream = pair.client.send_call(Call(to="a", fields={"x": bytes(1 << 20)}))
    assert [] == pair.server.receive_data(b"".join(pair.client.data_to_send(1)))
    pair.client.cancel(stream)
    assert ([], []) == pair.pump()
    again = pair.client.send_call(Call(to="b"))
    assert ([], [again]) == tuple([event.stream for event in side] for side in pair.pump())


def test_an_answer_stops_the_pieces_still_on_their_way_up() -> None:
    pair, stream = streaming()
    pair.client.send_piece(stream, Piece({"x": bytes(2 << 20)}))
    pair.server.receive_data(b"".join(pair.client.data_to_send(1)))
    pair.server.send_answer(stream, Answer({}))
    pair.client.receive_data(drain(pair.server))
    assert pair.client.queued_bytes == 0
    again = pair.client.send_call(Call(to="b"))
    assert [events.CallReceived(again, Call(to="b"))] == pair.pump()[1]


# Limits.


def test_a_message_too_large_for_the_peer_is_refused_here() -> None:
    limits = Limits(message_bytes_max=4096)
    pair = ConnectionPair(server=connection(is_client=False, limits=limits))
    pair.pump()
    with pytest.raises(TooLarge, match="4096"):
        pair.client.send_call(Call(to="a", fields={"x": bytes(5000)}))
    stream = pair.client.send_call(Call(to="a"))
    assert [events.CallReceived(stream, Call(to="a"))] == pair.pump()[1]


def test_calls_beyond_the_limit_fail_as_overloaded() -> None:
    pair = opened(calls_max=2)
    streams = [pair.client.send_call(Call(to="a")) for _ in range(3)]
    to_client, to_server = pair.pump()
    assert streams[:2] == [event.stream for event in to_server]
    assert [(streams[2], "overloaded")] == [(e.stream, e.failure.code) for e in to_client]
    pair.server.send_answer(streams[0], Answer({}))
    pair.pump()
    pair.client.send_call(Call(to="a"))
    assert 1 == len(pair.pump()[1])


def test_numbers_of_streams_begin_again() -> None:
    pair = opened()
    held = pair.client.send_call(Call(to="held"))
    pair.client._streams._next = 0xFFFF_FFFD
    last = pair.client.send_call(Call(to="last"))
    following = pair.client.send_call(Call(to="next"))
    assert (1, 0xFFFF_FFFD, 3) == (held, last, following)
    assert 3 == len(pair.pump()[1])


def test_before_the_handshake_nothing_can_be_called() -> None:
    with pytest.raises(LocalProtocolError, match="greeting"):
        connection(is_client=True).send_call(Call(to="a"))


# A peer that misbehaves.


def raw(kind: int, stream: int, body: bytes, flags: int = WHOLE) -> bytes:
    return PREFIX.pack(len(body), stream, len(body), kind, flags, 0) + body


CALL, PIECE, CREDIT = b"\x81\xa2to\xa1a", b"\x81\xa6fields\x80", b"\x81\xa6amount\x01"


@pytest.mark.parametrize(
    "data",
    [
        raw(Kind.CALL, 2, CALL),
        raw(Kind.CALL, 0, CALL),
        raw(Kind.CALL, 5, CALL) * 2,
        raw(Kind.CALL, 5, b"\xc0"),
        raw(Kind.CALL, 5, b""),
        raw(Kind.ANSWER, 2, b"\x92\x00" + PIECE),
        raw(Kind.FAILURE, 2, b"\x82\xa4code\xa1a\xa7message\xa1b"),
        raw(Kind.PIECE, 2, PIECE),
        raw(Kind.CREDIT, 2, CREDIT),
        raw(Kind.CALL, 5, CALL) + raw(Kind.PIECE, 5, PIECE),
        raw(Kind.CALL, 5, CALL) + raw(Kind.CREDIT, 5, CREDIT),
        raw(Kind.PING, 0, b"\x81\xa2id\xa1x"),
        b"GET / HTTP/1.1\r\n",
    ],
    ids=str,
)
def test_what_cannot_be_closes_the_connection(data: bytes) -> None:
    pair = opened()
    with pytest.raises(RemoteProtocolError):
        pair.server.receive_data(data)
    assert pair.server.state is State.CLOSED
    assert [] == pair.server.receive_data(b"anything")


def test_credit_that_was_never_used_is_refused() -> None:
    pair, stream = streaming()
    with pytest.raises(RemoteProtocolError, match="never used"):
        pair.server.receive_data(raw(Kind.CREDIT, stream, CREDIT))


def test_pieces_beyond_the_credit_are_refused() -> None:
    pair, stream = streaming(window_bytes=PIECE_COST_MIN)
    with pytest.raises(RemoteProtocolError, match="credit"):
        pair.client.receive_data(raw(Kind.PIECE, stream, PIECE) * 2)


def test_kinds_of_newer_nodes_are_skipped() -> None:
    pair = opened()
    assert [] == pair.server.receive_data(raw(99, 7, b"from the future"))


def test_fields_of_newer_nodes_are_skipped() -> None:
    pair = opened()
    [event] = pair.server.receive_data(raw(Kind.CALL, 1, b"\x82\xa2to\xa1a\xa6newest\x01"))
    assert Call(to="a") == event.call


@settings(max_examples=200)
@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_garbage_raises_one_error_only(data: bytes, is_greeted: bool, is_framed: bool) -> None:
    """Any bytes, before or after the handshake, are events or a `RemoteProtocolError`."""
    side = opened().server if is_greeted else connection(is_client=False)
    if is_framed:
        kind = data[0] if data else 0
        data = (b"" if is_greeted else PREAMBLE) + raw(kind % 14, len(data), data[1:], 3)
    with contextlib.suppress(RemoteProtocolError):
        side.receive_data(data)
    side.check()


@settings(max_examples=60)
@given(st.data())
def test_a_talk_with_flipped_bytes_raises_one_error_only(data: st.DataObject) -> None:
    """A real exchange in which some bytes are changed."""
    pair = opened()
    pair.client.send_call(Call(to="a", fields={"x": np.arange(50), "y": ["z", {"k": None}]}))
    pair.client.send_call(STREAMING)
    talk = bytearray(drain(pair.client))
    for _ in range(data.draw(st.integers(1, 4))):
        talk[data.draw(st.integers(0, len(talk) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        pair.server.receive_data(bytes(talk))
    pair.server.check()


@settings(max_examples=25)
@given(st.integers(1, 2000), st.lists(st.integers(0, 400_000), min_size=1, max_size=3))
def test_chunks_do_not_matter(chunk_bytes: int, lengths: list[int]) -> None:
    """One chunk and many tell the same events."""
    told = []
    for size in (1 << 30, chunk_bytes):
        pair = ConnectionPair(chunk_bytes=size)
        pair.pump()
        for length in lengths:
            pair.client.send_call(Call(to="a", fields={"x": bytes(length)}))
        told.append(pair.pump())
    assert told[0] == told[1]


def test_byte_by_byte_is_the_same_too() -> None:
    pair = ConnectionPair(chunk_bytes=1)
    assert [events.Opened, events.Opened] == [type(side[0]) for side in pair.pump()]
    stream = pair.client.send_call(Call(to="a", fields={"x": np.arange(10)}))
    assert [stream] == [event.stream for event in pair.pump()[1]]
