"""What is fit to be asked follows from breakers and from who is the odd one out."""

from __future__ import annotations

from random import Random

import pytest

from mesh.errors import Cancelled, RoleError, Unreachable
from mesh.policy.edge import SAMPLES_MIN, Edge, fit, hedge_after_s

RNG = Random(1)


def edge(good=0, faults=0, lost=0, took_s=0.01, now_s=0.0):
    made = Edge(0.0)
    for count, error in ((good, None), (faults, RoleError()), (lost, Unreachable())):
        for _ in range(count):
            made.sent(now_s)
            if error is None:
                made.answered(now_s, took_s)
            else:
                made.failed(error, now_s, took_s, RNG)
    return made


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([edge(), edge()], [0, 1]),
        ([edge(lost=5), edge()], [1]),
        ([edge(lost=5), edge(lost=5)], []),
        ([edge(lost=4), edge()], [0, 1]),
        ([edge(faults=30), edge(good=30)], [1]),
        ([edge(faults=30), edge(faults=30)], [0, 1]),  # bad items, not a bad node
        ([edge(faults=30), edge()], [0, 1]),  # nobody to compare with
        ([edge(faults=5), edge(good=30)], [0, 1]),  # too few to tell
        ([edge(faults=30)], [0]),
    ],
)
def test_who_is_fit(edges, expected):
    assert fit(edges, 0.0) == expected


def test_the_odd_one_out_is_given_another_chance():
    edges = [edge(faults=30), edge(good=30)]
    assert fit(edges, 0.0) == [1]
    assert fit(edges, 11.0) == [0, 1]


def test_calls_in_flight_return_to_zero():
    made = Edge(0.0)
    for end in (
        lambda: made.answered(0.0, 0.1),
        lambda: made.failed(Cancelled(), 0.0, 0.1, RNG),
        lambda: made.abandoned(0.0, 0.1),
        lambda: made.answered(0.0, 0.1, has_begun=True),
        lambda: made.failed(Cancelled(), 0.0, 0.1, RNG, has_begun=True),
        lambda: made.failed(RoleError(), 0.0, 0.1, RNG, has_begun=True),
        lambda: made.abandoned(0.0, 0.1, has_begun=True),
    ):
        made.sent(0.0)
        assert made.view.in_flight == 1
        end()
        assert made.view.in_flight == 0


@pytest.mark.parametrize(
    "end",
    [
        lambda made: made.answered(2.0, 0.1, has_begun=True),
        lambda made: made.failed(Cancelled(), 2.0, 0.1, RNG, has_begun=True),
        lambda made: made.failed(RoleError(), 2.0, 0.1, RNG, has_begun=True),
        lambda made: made.abandoned(2.0, 0.1, has_begun=True),
    ],
)
def test_a_stream_that_has_passed_makes_no_room_at_its_end(end):
    """However it ends: the one that tries now is another."""
    made = edge(lost=5)
    made.sent(2.0)
    made.began()
    made.sent(2.0)
    end(made)
    assert fit([made], 2.0) == []


def test_the_p95_needs_samples_and_forgets_old_ones():
    made = edge(good=SAMPLES_MIN - 1)
    assert made.p95_s() is None
    made = edge(good=95, took_s=0.01)
    for _ in range(5):
        made.sent(0.0)
        made.answered(0.0, 1.0)
    assert made.p95_s() == 0.01
    for _ in range(300):
        made.sent(0.0)
        made.answered(0.0, 2.0)
    assert made.p95_s() == 2.0


def test_a_hedge_waits_for_the_best_nodes_p95():
    edges = [edge(good=60, took_s=0.5), edge(good=60, took_s=0.05), edge()]
    assert hedge_after_s(edges, 0.02) == pytest.approx(0.06)
    assert hedge_after_s(edges, 0.2) == 0.2
    assert hedge_after_s([edge()], 0.02) is None
