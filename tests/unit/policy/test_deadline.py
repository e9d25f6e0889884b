"""A deadline only ever shrinks, and never below a millisecond on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import DeadlineExceeded
from mesh.policy.deadline import deadline_s, left_ms


@pytest.mark.parametrize(
    ("asked_ms", "expected"), [(None, 70.0), (500, 10.5), (10**9, 110.0), (1, 10.001)]
)
def test_what_is_asked_for_is_given_within_limits(asked_ms, expected):
    assert deadline_s(10.0, asked_ms, default_s=60.0, max_s=100.0) == pytest.approx(expected)


@pytest.mark.parametrize("asked_ms", [0, -1])
def test_a_deadline_in_the_past_is_refused(asked_ms):
    with pytest.raises(DeadlineExceeded, match=f"{asked_ms} ms were left"):
        deadline_s(0.0, asked_ms, 60.0, 100.0)


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e4))
def test_a_hop_never_has_more_time_than_its_caller(now_s, left_s):
    """Time left on the wire is rounded down, but for the last millisecond."""
    if now_s + left_s <= now_s:
        with pytest.raises(DeadlineExceeded):
            left_ms(now_s + left_s, now_s)
    else:
        assert 1 <= left_ms(now_s + left_s, now_s) <= max(1.0, left_s * 1000.0 + 1e-3)
