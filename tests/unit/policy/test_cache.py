"""A cache keeps its limits, forgets the unused first, and never serves what is too old."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.policy.cache import Cache, content_key, encoded

A, B, C = b"a", b"b", b"c"


def test_the_least_recently_used_goes_first():
    cache = Cache(2, 100, 60.0)
    cache.put(A, 1, 1, 0.0)
    cache.put(B, 2, 1, 0.0)
    assert cache.get(A, 0.0) == 1
    cache.put(C, 3, 1, 0.0)
    assert (cache.get(A, 0.0), cache.get(B, 0.0), cache.get(C, 0.0)) == (1, None, 3)


def test_size_counts_and_what_is_too_large_is_not_kept():
    cache = Cache(9, 10, 60.0)
    cache.put(A, 1, 6, 0.0)
    cache.put(B, 2, 11, 0.0)
    assert cache.get(A, 0.0) == 1
    cache.put(C, 3, 5, 0.0)
    assert cache.get(A, 0.0) is None
    assert cache.statistics() == {
        "items": 1, "bytes": 5, "hits": 1, "misses": 1, "evictions": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("now_s", "expected"), [(59.9, 1), (60.0, None)])
def test_what_is_too_old_is_gone(now_s, expected):
    cache = Cache(2, 10, 60.0)
    cache.put(A, 1, 1, 0.0)
    assert cache.get(A, now_s) == expected


@given(
    st.lists(
        st.tuples(st.binary(max_size=1), st.integers(0, 12), st.integers(0, 5), st.booleans())
    ),
    st.integers(1, 4),
)
def test_limits_hold_and_values_are_right(moves, items_max):
    """Whatever is put and got: limits hold, and a value found is the last one put."""
    cache, truth, now_s = Cache(items_max, 10, 9.0), {}, 0.0
    for key, size, pass_s, is_put in moves:
        now_s += pass_s
        if is_put:
            cache.put(key, (key, now_s), size, now_s)
            truth[key] = now_s
        else:
            found = cache.get(key, now_s)
            assert found is None or (found == (key, truth[key]) and now_s < truth[key] + 9.0)
        cache.check()


def key(**fields):
    return content_key(encoded(fields))


def test_equal_content_has_one_key_and_other_content_another():
    base = {"text": "a", "v": np.arange(4, dtype=np.float32), "k": [1, {"x": 2.0, "y": None}]}
    same = {"k": [1, {"y": None, "x": 2.0}], "v": np.arange(4, dtype=np.float32), "text": "a"}
    assert key(**base) == key(**same)
    others = [
        {**base, "text": "b"},
        {**base, "v": np.arange(4, dtype=np.float64)},
        {**base, "v": np.arange(4, dtype=np.float32).reshape(2, 2)},
        {**base, "v": np.arange(1, 5, dtype=np.float32)},
        {**base, "more": None},
    ]
    assert len({key(**base), *(key(**other) for other in others)}) == 6
