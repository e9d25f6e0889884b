"""The node that should finish first is chosen; near ties go by lot."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.policy.balance import SLOW_START_S, View, least_loaded, weighted


def view(call_ms=10.0, load_s=0.0, in_flight=0, at_s=100.0):
    made = View(0.0)
    made.answered(at_s, ran_ms=call_ms, network_ms=0.0, batch_size=1, load_s=load_s)
    made.in_flight = in_flight
    return made


@pytest.mark.parametrize(
    ("made", "now_s", "weight", "expected"),
    [
        (view(), 100.0, 1.0, 0.010),
        (view(load_s=2.0), 100.0, 1.0, 2.010),
        (view(load_s=2.0), 101.5, 1.0, 0.5 + 0.01 * 0.5**0.025),  # worked off since
        (view(load_s=2.0), 109.0, 1.0, 0.01 * 0.5**0.15),
        (view(in_flight=4), 100.0, 1.0, 0.050),
        (view(in_flight=4, load_s=0.03), 100.0, 1.0, 0.050),  # ours are part of the load
        (view(), 100.0, 2.0, 0.005),
        (View(0.0), 100.0, 1.0, 0.020),  # not known yet: as the others
    ],
)
def test_estimated_finish(made, now_s, weight, expected):
    assert made.finish_s(now_s, weight, unknown_s=0.020) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("age_s", "share"), [(0, 0.1), (SLOW_START_S / 2, 0.55), (SLOW_START_S, 1.0)]
)
def test_a_newcomer_starts_slowly(age_s, share):
    assert View(50.0).share(50.0 + age_s) == pytest.approx(share)


def test_batched_items_add_less_than_a_lone_one():
    made = View(0.0)
    made.answered(100.0, ran_ms=80.0, network_ms=0.0, batch_size=8, load_s=0.0)
    assert made.unit_s == pytest.approx(0.010)
    assert made.call_s == pytest.approx(0.080)


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=4), st.integers())
def test_few_nodes_are_all_compared(finish_s, seed):
    """With few nodes the choice is within the tie margin of the best."""
    chosen = least_loaded(finish_s, Random(seed))
    assert finish_s[chosen] <= min(finish_s) * 1.2 + 0.0005


@given(st.lists(st.floats(0.0, 100.0), min_size=5, max_size=20, unique=True), st.integers())
def test_of_many_nodes_the_worst_is_never_chosen(finish_s, seed):
    """Power of two choices: whoever is drawn with the worst one beats it, but for near ties."""
    chosen = least_loaded(finish_s, Random(seed))
    second_worst = sorted(finish_s)[-2]
    worst = max(finish_s)
    assert finish_s[chosen] < worst or worst <= second_worst * 1.2 + 0.0005


def test_equals_share_evenly():
    rng = Random(1)
    counts = Counter(least_loaded([1.0, 1.0, 1.0], rng) for _ in range(3000))
    assert all(900 < counts[index] < 1100 for index in range(3))


def test_weights_are_respected():
    rng = Random(1)
    counts = Counter(weighted([1.0, 0.0, 3.0], rng) for _ in range(4000))
    assert counts[1] == 0
    assert 2850 < counts[2] < 3150
