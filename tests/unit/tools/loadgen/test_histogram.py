"""A value is known to within 1/128 of itself, and histograms merge by adding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tools.loadgen.histogram import SUBS, Histogram, bucket_of, floor_s

TIMES = st.floats(min_value=1e-6, max_value=1e5)


@given(value=TIMES)
def test_bucket_holds_its_value(value):
    """A bucket's bounds surround what it counts, up to one rounding of a float."""
    bucket = bucket_of(value)
    assert floor_s(bucket) * (1 - 1e-12) <= value <= floor_s(bucket + 1) * (1 + 1e-12)
    assert floor_s(bucket + 1) / floor_s(bucket) <= 1.0 + 1.0 / SUBS + 1e-12


@given(values=st.lists(TIMES, min_size=1), share=st.floats(0, 1))
def test_quantile_is_near_the_exact_one(values, share):
    """Within the width of a bucket of the value of that rank."""
    ordered = sorted(values)
    rank = max(0, min(len(ordered) - 1, -(-share * len(ordered) // 1) - 1))
    exact = ordered[int(rank)]
    assert abs(Histogram(values).quantile_s(share) - exact) <= exact / SUBS + 1e-12


@given(left=st.lists(TIMES), right=st.lists(TIMES))
def test_merging_equals_counting_together(left, right):
    """Adding two histograms loses nothing."""
    merged = Histogram(left)
    merged.add(Histogram(right))
    assert Histogram(left + right).counts == merged.counts


def test_nothing_counted_is_zero():
    assert 0.0 == Histogram().quantile_s(0.99)
