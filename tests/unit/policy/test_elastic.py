"""Replicas follow the load, and stand still when it does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.policy.elastic import BUSY_S, Level, Pressure, wanted

IDLE_S = 5.0


@pytest.mark.parametrize(
    ("serving", "busy", "idle", "expected"),
    [
        (0, 0, 0, 1),
        (1, 0, 0, 1),
        (1, 1, 0, 2),
        (2, 1, 0, 2),
        (2, 2, 0, 3),
        (3, 3, 0, 3),
        (3, 0, 3, 2),
        (3, 0, 2, 3),
        (1, 0, 1, 1),
        (5, 0, 0, 3),
    ],
)
def test_the_count_follows_what_all_say(serving, busy, idle, expected):
    assert expected == wanted(1, 3, serving, busy, idle)


def test_a_level_needs_patience_and_a_change_of_replicas_starts_it_anew():
    pressure = Pressure(IDLE_S)
    said = [pressure.observe(1.0, 1, float(at)) for at in range(5)]
    assert [Level.FINE, Level.FINE, Level.BUSY, Level.BUSY, Level.BUSY] == said
    assert Level.FINE is pressure.observe(1.0, 2, 5.0)
    assert Level.BUSY is pressure.observe(1.0, 2, 5.0 + BUSY_S)


def test_a_short_burst_is_no_load():
    pressure = Pressure(IDLE_S)
    shares = [0.5, 0.5, 1.0, 0.5, 0.5, 1.0, 0.5]
    assert {Level.FINE} == {pressure.observe(s, 1, float(at)) for at, s in enumerate(shares)}


@settings(max_examples=60)
@given(st.floats(0.0, 6.0), st.integers(1, 6), st.integers(1, 3), st.integers(0, 4))
def test_a_steady_load_ends_in_a_steady_count(load, start, least, more):
    """Under a load that does not change the count moves one way only, and then stands."""
    most = least + more
    replicas = [Pressure(IDLE_S) for _ in range(start)]
    counts = []
    for second in range(200):
        share = min(1.0, load / len(replicas))
        said = [one.observe(share, len(replicas), float(second)) for one in replicas]
        count = wanted(least, most, len(replicas), said.count(Level.BUSY), said.count(Level.IDLE))
        counts.append(count)
        replicas = (replicas + [Pressure(IDLE_S) for _ in range(count)])[:count]
    inside = counts[1:]  # the first look only brings the count into its bounds
    assert inside in (sorted(inside), sorted(inside, reverse=True))
    assert 1 == len(set(counts[-50:]))
    assert least <= counts[-1] <= most
