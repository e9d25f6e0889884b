"""A step's way is computing, hops and waiting, and the three add up to it."""

from __future__ import annotations

import pytest

from mesh.llm.trips import Pauses, Trip


def test_steps_that_wait_nowhere_measure_the_hops():
    """Three parts have three hops: what is left of the way, in equal parts."""
    trip = Trip()
    for _ in range(50):
        trip.note([0.002, 0.003, 0.004], 0.0076, 0.0, has_waited=False)
    assert trip.statistics() == {
        "own_ms": 2.0,
        "round_ms": 7.6,
        "compute_ms": 7.0,
        "wait_ms": 0.0,
        "hop_ms": 0.2,
    }


def test_what_hops_do_not_explain_is_waiting():
    trip = Trip()
    for at in range(400):
        waits_s = 0.005 * (at % 2)
        trip.note([0.002, 0.003, 0.004], 0.0076 + waits_s, 0.0, has_waited=bool(at % 2))
    found = trip.statistics()
    assert found["hop_ms"] == 0.2
    assert found["wait_ms"] == pytest.approx(2.5, rel=0.1)
    total = found["compute_ms"] + found["wait_ms"] + 3 * found["hop_ms"]
    assert found["round_ms"] == pytest.approx(total)


def test_a_head_at_another_step_is_waiting_too():
    trip = Trip()
    trip.note([0.002, 0.003], 0.0032, 0.004, has_waited=False)
    assert trip.statistics()["wait_ms"] == 4.0


def test_a_pause_lasts_from_the_loss_to_the_next_token():
    """Lost again before that, it is the same pause."""
    pauses = Pauses()
    pauses.begin(10.0)
    pauses.begin(11.0)
    pauses.end(12.5)
    pauses.end(13.0)
    assert pauses.statistics() == {"pauses": 1, "last_pause_s": 2.5, "longest_pause_s": 2.5}
    pauses.begin(20.0)
    pauses.forget()
    pauses.end(21.0)
    assert pauses.statistics()["pauses"] == 1
