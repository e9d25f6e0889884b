"""No owner gets more than its bounded part, and the first with room is chosen."""

from __future__ import annotations

from collections import Counter
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.ring.bounded import FLOOR, C, choose
from mesh.ring.ring import Ring

OWNERS = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("in_flight", "expected"),
    [
        ({}, "a"),
        ({"a": 3}, "a"),
        ({"a": 4}, "b"),  # the floor, as ceil(1.5 · 5 / 4) = 2
        ({"a": 4, "b": 4}, "c"),
        ({"a": 5, "b": 5, "c": 5, "d": 5}, "a"),  # ceil(1.5 · 21 / 4) = 8
        ({"a": 8, "b": 5, "c": 5, "d": 2}, "b"),
        ({"z": 100, "a": 3}, "a"),  # others do not count
    ],
)
def test_the_first_with_room_is_chosen(in_flight: dict[str, int], expected: str) -> None:
    assert expected == choose(OWNERS, in_flight)


def test_weights_share_out_the_room() -> None:
    in_flight = {"a": 13, "b": 3}
    assert "b" == choose(("a", "b"), in_flight, floor=1, weights={"a": 1, "b": 1})
    assert "a" == choose(("a", "b"), in_flight, floor=1, weights={"a": 3, "b": 1})


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_a_stream_of_requests_keeps_the_bound(keys: list[int]) -> None:
    """Hot keys or not: nobody holds more than max(floor, ceil(c · mean))."""
    ring = Ring(dict.fromkeys(OWNERS, 1))
    in_flight: Counter[str] = Counter()
    for key in keys * 10:
        in_flight[choose(ring.owners(str(key), 4), in_flight)] += 1
        total = in_flight.total()
        assert max(in_flight.values()) <= max(FLOOR, ceil(C * total / 4))


@given(st.dictionaries(st.sampled_from(OWNERS), st.integers(0, 50)))
def test_somebody_is_always_chosen(in_flight: dict[str, int]) -> None:
    """And one who has room, if the mean is below the bound, as it always is."""
    chosen = choose(OWNERS, in_flight)
    total = sum(in_flight.values()) + 1
    assert in_flight.get(chosen, 0) < max(FLOOR, ceil(C * total / len(OWNERS)))
