"""Calls are split by share, a key stays where it is, and growth moves only what it must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.policy.versions import choose, point_of, shadows
from mesh.settings.topology import Version

TWO = {"b": Version("r-b", 0.25), "c": Version("r-c", 0.5), "s": Version("r-s", 0.5, True)}


@pytest.mark.parametrize(
    ("point", "expected"),
    [(0.0, "b"), (0.249, "b"), (0.25, "c"), (0.749, "c"), (0.75, ""), (0.999, "")],
)
def test_shares_lie_end_to_end(point, expected):
    assert choose(TWO, point) == expected


@pytest.mark.parametrize(("point", "expected"), [(0.1, ["s"]), (0.5, [])])
def test_a_shadow_has_its_own_share(point, expected):
    assert shadows(TWO, point) == expected


@given(st.binary(), st.floats(0, 1), st.floats(0, 1))
def test_a_version_that_grows_keeps_its_keys(key, small, large):
    """Whoever had the version at the smaller share has it at the larger one."""
    small, large = sorted((small, large))
    point = point_of("r", key)
    if choose({"v": Version("v", small)}, point) == "v":
        assert choose({"v": Version("v", large)}, point) == "v"


def test_keys_are_spread_evenly_and_roles_are_independent():
    points = [point_of("r", str(n).encode()) for n in range(4000)]
    assert all(900 < sum(q / 4 <= p < (q + 1) / 4 for p in points) < 1100 for q in range(4))
    both = sum(p < 0.5 and point_of("other", str(n).encode()) < 0.5 for n, p in enumerate(points))
    assert 900 < both < 1100
