"""A breaker opens on failures in a row, lets one call try, and closes only when sure."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import (
    ConnectionLost,
    DeadlineExceeded,
    LocalProtocolError,
    Overloaded,
    RoleError,
    Unreachable,
)
from mesh.policy.breaker import FAILURES_MAX, OPEN_S_MAX, Breaker, State, is_failure


class Even(Random):
    """Draws the middle: no jitter."""

    def random(self):
        return 0.5


def opened(now_s=0.0):
    breaker = Breaker()
    for _ in range(FAILURES_MAX):
        breaker.sent(now_s)
        breaker.failed(now_s, Even())
    return breaker


def test_it_opens_after_failures_in_a_row_only():
    breaker = Breaker()
    for _ in range(20):
        for _ in range(FAILURES_MAX - 1):
            breaker.failed(0.0, Even())
        breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert opened().state is State.OPEN


def test_an_open_one_lets_one_call_try_after_a_while():
    breaker = opened()
    assert not breaker.allows(0.99)
    assert breaker.try_at_s(0.5) == 1.0
    assert breaker.allows(1.0)
    breaker.sent(1.0)
    assert breaker.state is State.HALF_OPEN
    assert not breaker.allows(1.0)


def test_three_successes_close_it():
    breaker = opened()
    for _ in range(3):
        assert breaker.state is not State.CLOSED
        breaker.sent(1.0)
        breaker.succeeded()
    assert breaker.state is State.CLOSED


def test_a_failed_try_opens_it_for_twice_as_long():
    breaker, now_s, waits = opened(), 0.0, []
    for _ in range(7):
        wait_s = breaker.try_at_s(now_s) - now_s
        waits.append(wait_s)
        now_s += wait_s
        breaker.sent(now_s)
        breaker.failed(now_s, Even())
    assert waits == [1, 2, 4, 8, 16, OPEN_S_MAX, OPEN_S_MAX]


def test_a_stream_that_is_tried_has_passed_with_its_first_piece():
    """Once; whoever waits need not wait for its end, which changes nothing any more."""
    breaker = opened()
    for _ in range(3):
        assert breaker.allows(1.0)
        breaker.sent(1.0)
        assert not breaker.allows(1.0)
        breaker.began()
    assert breaker.state is State.CLOSED
    for _ in range(3):
        breaker.ended()
    assert breaker.state is State.CLOSED


def test_the_end_of_a_stream_does_not_let_a_second_call_try():
    breaker = opened()
    breaker.sent(1.0)
    breaker.began()
    breaker.sent(1.0)  # the next one tries
    breaker.ended()
    assert not breaker.allows(1.0)


def test_streams_that_begin_well_and_break_open_it():
    """Their first pieces forgive nothing: a node that breaks each in its midst is left alone."""
    breaker = Breaker()
    for _ in range(FAILURES_MAX):
        breaker.sent(0.0)
        breaker.began()
        breaker.failed(0.0, Even())
    assert breaker.state is State.OPEN
    breaker.sent(1.0)
    breaker.began()
    breaker.failed(1.0, Even())
    assert breaker.state is State.OPEN
    assert breaker.try_at_s(1.0) == 3.0


def test_a_try_that_was_given_up_leaves_room_for_another():
    breaker = opened()
    breaker.sent(1.0)
    breaker.abandoned()
    assert breaker.allows(1.0)


@pytest.mark.parametrize(
    ("error", "took_s", "usual_s", "expected"),
    [
        (Unreachable(), 0.0, 0.0, True),
        (ConnectionLost(), 0.0, 0.0, True),
        (LocalProtocolError(), 0.0, 0.0, False),
        (RoleError(), 0.0, 0.0, False),
        (Overloaded(), 0.0, 0.0, False),
        (DeadlineExceeded(), 0.5, 0.01, False),  # the caller was in a hurry
        (DeadlineExceeded(), 2.0, 1.0, False),  # this takes long here
        (DeadlineExceeded(), 2.0, 0.01, True),
    ],
)
def test_what_counts_as_failure(error, took_s, usual_s, expected):
    assert is_failure(error, took_s, usual_s) is expected


@given(st.lists(st.sampled_from(["sent", "good", "bad", "gone", "wait", "piece"]), max_size=60))
def test_whatever_happens_it_lets_a_call_through_in_the_end(moves):
    """No sequence of events closes a way for ever."""
    breaker, now_s, out, begun = Breaker(), 0.0, 0, 0
    for move in moves:
        if move == "wait":
            now_s += 1.0
        elif move == "sent" and breaker.allows(now_s):
            breaker.sent(now_s)
            out += 1
        elif move == "piece" and out:
            breaker.began()
            out, begun = out - 1, begun + 1
        elif begun and move != "sent":
            begun -= 1
            if move == "bad":
                breaker.failed(now_s, Even())
            elif move == "good":
                breaker.ended()
        elif out and move != "sent":
            out -= 1
            if move == "bad":
                breaker.failed(now_s, Even())
            else:
                breaker.succeeded() if move == "good" else breaker.abandoned()
        breaker.check()
    for _ in range(out):
        breaker.abandoned()
    assert breaker.allows(now_s + 2 * OPEN_S_MAX)
