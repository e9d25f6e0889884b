"""The cost model finds base and unit where they can be told apart, and is never negative."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.policy.cost import CostModel


@given(st.floats(0.0, 1.0), st.floats(0.001, 1.0))
def test_it_finds_the_line_that_made_the_samples(base_s, unit_s):
    """Exact samples of a line give back that line."""
    model = CostModel()
    for cost in [1, 2, 5, 9, 30, 3]:
        model.observe(cost, base_s + unit_s * cost)
    assert model.batch_s(10) == pytest.approx(base_s + unit_s * 10, rel=1e-4, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0.0, 10.0)), min_size=1))
def test_it_is_never_negative(samples):
    """Whatever noise it is fed, no batch takes less than no time."""
    model = CostModel()
    for cost, ran_s in samples:
        model.observe(cost, ran_s)
        assert model.base_s >= 0.0
        assert model.unit_s >= 0.0


def test_equal_batches_count_per_unit():
    model = CostModel()
    for _ in range(5):
        model.observe(4, 2.0)
    assert model.batch_s(1) == pytest.approx(0.5)
    assert model.work_s(8, 8, 4, 0) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("items", "cost", "items_max", "cost_max", "expected"),
    [(0, 0, 4, 0, 0.0), (4, 4, 4, 0, 5.0), (5, 5, 4, 0, 7.0), (4, 40, 4, 10, 44.0)],
)
def test_work_is_counted_in_batches(items, cost, items_max, cost_max, expected):
    model = CostModel()
    for size in (1, 2, 3):
        model.observe(size, 1.0 + size)
    assert model.work_s(items, cost, items_max, cost_max) == pytest.approx(expected)


def test_it_forgets_a_machine_that_became_slower():
    model = CostModel()
    for seconds in [1.0] * 100 + [3.0] * 100:
        model.observe(1, seconds)
    assert model.batch_s(1) == pytest.approx(3.0, rel=0.1)
