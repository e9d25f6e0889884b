"""The counting of a chaos run sees what is lost, doubled, swapped or late."""

from __future__ import annotations

import pytest

from tools.chaos.record import Asked, row_of


def call(id: str, began_s: float, took_s: float = 0.01, **more) -> Asked:
    return Asked(id, "call", began_s, began_s + took_s, **{"answers": 1, **more})


def stream(*pieces: int, **more) -> Asked:
    return Asked("s", "stream", 0.0, 1.0, pieces=list(pieces), wanted=3, **{"answers": 1, **more})


@pytest.mark.parametrize(
    ("one", "failed", "doubled"),
    [
        (call("a", 0.0), 0, 0),
        (call("a", 0.0, answers=0), 1, 0),
        (call("a", 0.0, answers=2), 0, 1),
        (call("a", 0.0, error="overloaded"), 1, 0),
        (stream(0, 1, 2), 0, 0),
        (stream(0, 1), 1, 0),
        (stream(0, 1, 1, 2), 0, 1),
        (stream(0, 2, 1), 0, 1),
    ],
)
def test_what_counts_as_lost_and_as_doubled(one, failed, doubled):
    row = row_of("x", [one], 0.0, [])
    assert (failed, doubled) == (row.failed, row.doubled)


def test_the_longest_pause_and_the_last_disturbed_request_are_found():
    asked = [call(str(n), n / 10) for n in range(20)]
    asked += [call("late", 2.0, took_s=1.5), call("after", 4.0)]
    row = row_of("x", asked, 2.0, ["late", "late", "other"])
    assert pytest.approx(1590.0) == row.pause_ms
    assert pytest.approx(1.5) == row.recover_s
    assert 1 == row.again


def test_a_stream_has_recovered_when_pieces_come_again():
    """Its own length is not held against the fault, nor is one that went on as before."""
    calm = Asked("c", "stream", 0.0, 0.3, pieces=[0, 1], wanted=2, answers=1, heard_s=[0.1, 0.2])
    broken = Asked("b", "stream", 1.8, 4.0, pieces=[0, 1], wanted=2, answers=1)
    broken.heard_s = [1.9, 2.9, 3.3, 3.7]
    assert pytest.approx(0.9) == row_of("x", [calm, broken], 2.0, []).recover_s
    assert 0.0 == row_of("x", [calm], 2.0, []).recover_s
