"""Silence is noticed, unless we ourselves stood still; offsets follow the shortest trip."""

from __future__ import annotations

import pytest

from mesh.wire.messages import Pong
from mesh.wire.pulse import LATE_S, PING_INTERVAL_S, SILENCE_S, TICK_S, Pulse


def test_a_silent_peer_is_noticed() -> None:
    pulse = Pulse(0.0)
    silent = [at for at in range(20) if pulse.is_silent(float(at))]
    assert SILENCE_S + TICK_S == silent[0]


def test_a_peer_that_is_heard_is_never_silent() -> None:
    pulse = Pulse(0.0)
    for at in range(100):
        pulse.heard_s = at - SILENCE_S + 1
        assert not pulse.is_silent(float(at))


def test_silence_proves_nothing_after_we_stood_still() -> None:
    pulse = Pulse(0.0)
    assert not pulse.is_silent(100.0)
    assert not pulse.is_silent(100.0 + SILENCE_S)  # late again
    for second in range(int(SILENCE_S)):
        assert not pulse.is_silent(106.0 + second + 1)
    assert pulse.is_silent(106.0 + SILENCE_S + TICK_S)
    assert LATE_S < SILENCE_S


def test_pings_are_due_at_their_interval() -> None:
    pulse = Pulse(0.0)
    assert pulse.is_ping_due(0.0)
    pulse.ping(0.0, 1000.0)
    assert not pulse.is_ping_due(PING_INTERVAL_S - 0.1)
    assert pulse.is_ping_due(PING_INTERVAL_S)


def trip(pulse: Pulse, start_s: float, out_s: float, held_s: float, back_s: float) -> None:
    """One ping to a clock that is 100 s ahead; our wall clock is our monotonic one."""
    ping_id = pulse.ping(start_s, start_s)
    received_at = start_s + out_s + 100
    replied_at = received_at + held_s
    pulse.receive(Pong(ping_id, received_at, replied_at), start_s + out_s + held_s + back_s)


def test_an_even_trip_gives_the_exact_offset() -> None:
    pulse = Pulse(0.0)
    trip(pulse, 1.0, out_s=0.25, held_s=1.0, back_s=0.25)
    assert (0.5, 100.0) == (pulse.rtt_s, pulse.offset_s)


def test_the_shortest_trip_counts() -> None:
    pulse = Pulse(0.0)
    trip(pulse, 1.0, out_s=0.5, held_s=0, back_s=0.25)
    assert 100.125 == pulse.offset_s
    trip(pulse, 3.0, out_s=0.0625, held_s=0, back_s=0.0625)
    trip(pulse, 5.0, out_s=2.0, held_s=0, back_s=0.0)
    assert (0.125, 100.0) == (pulse.rtt_s, pulse.offset_s)


@pytest.mark.parametrize("ping_id", [0, 2, -1])
def test_pongs_that_nobody_asked_for_are_skipped(ping_id: int) -> None:
    pulse = Pulse(0.0)
    pulse.ping(0.0, 0.0)
    pulse.receive(Pong(ping_id, 5.0, 5.0), 1.0)
    assert 0.0 == pulse.rtt_s


def test_quiet_comes_before_silent_and_ends_with_the_first_sign_of_life():
    pulse = Pulse(0.0)
    quiet = []
    for second in range(1, 7):
        pulse.is_silent(float(second))
        quiet.append(pulse.is_quiet)
    assert [False, False, True, True, True, True] == quiet
    pulse.heard_s = 6.5
    pulse.is_silent(7.0)
    assert not pulse.is_quiet


def test_our_own_standstill_makes_nobody_quiet():
    pulse = Pulse(0.0)
    pulse.is_silent(TICK_S + LATE_S + 5.0)
    assert not pulse.is_quiet
