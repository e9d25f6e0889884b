"""A node that computes at a crawl is seen after seconds, and no sooner; then plans reckon."""

from __future__ import annotations

import pytest

from mesh.llm.paces import FORGET_S_MIN, GAP_S, SLOW_S, SLOW_STEPS, Paces, Slow, Speeds
from mesh.llm.split import Costs, Part, Place, bottleneck_s, plan

PARTS = (Part("a", 0, 4), Part("b", 4, 10), Part("c", 10, 16))
STEP_S = 0.02


def play(paces, times, seconds, begin_s=0.0, layer_s=0.001):
    """Let steps come back in which nodes take so many times as long; return when one is slow."""
    now_s = begin_s
    while now_s < begin_s + seconds:
        spent_s = [part.count * layer_s * times.get(part.node, 1.0) for part in PARTS]
        paces.note(spent_s, now_s)
        if paces.slow is not None:
            return now_s - begin_s
        now_s += STEP_S
    return None


def test_even_nodes_are_not_slow():
    assert play(Paces(PARTS, {}), {}, 60.0) is None


@pytest.mark.parametrize("node", ["a", "b", "c"])
def test_a_slow_node_is_named_after_a_while(node):
    paces = Paces(PARTS, {})
    after_s = play(paces, {node: 5.0}, 60.0)
    assert SLOW_S <= after_s <= SLOW_S + (SLOW_STEPS + 1) * STEP_S
    assert paces.slow.node == node
    assert paces.slow.times == pytest.approx(5.0)


def test_a_moment_of_slowness_is_forgiven():
    """Bursts shorter than the limit, again and again, cut nothing."""
    paces, now_s = Paces(PARTS, {}), 0.0
    for _ in range(10):
        assert play(paces, {"b": 6.0}, SLOW_S - 0.5, now_s) is None
        assert play(paces, {}, 1.0, now_s + SLOW_S) is None
        now_s += SLOW_S + 1.0


def test_twice_as_long_is_a_busy_neighbour_and_stays():
    assert play(Paces(PARTS, {}), {"b": 2.0}, 60.0) is None


def test_a_node_known_to_be_slow_is_slow_only_beyond_its_plan():
    """Planned with a fifth of the speed, five times as long is as planned."""
    assert play(Paces(PARTS, {"b": 0.2}), {"b": 5.0}, 60.0) is None
    assert play(Paces(PARTS, {"b": 0.2}), {"b": 20.0}, 60.0) is not None


def test_steps_of_another_way_are_no_measure():
    paces = Paces(PARTS, {})
    paces.note([1.0], 0.0)
    assert paces.shown() == {}


def test_cuts_keep_their_distance_and_speeds_are_forgotten():
    """Each time for longer, so that a node that is slow again and again is left in peace."""
    speeds, slow = Speeds(), Slow("b", 5.0, 0.2)
    assert speeds.may_cut(0.0)
    speeds.remember(slow, 0.0)
    assert not speeds.may_cut(GAP_S - 1)
    assert speeds.may_cut(GAP_S)
    assert speeds.known(FORGET_S_MIN - 1) == {"b": 0.2}
    assert speeds.known(FORGET_S_MIN + 1) == {}
    speeds.remember(slow, 100.0)
    assert speeds.known(100.0 + 2 * FORGET_S_MIN - 1) == {"b": 0.2}


def test_a_plan_with_measured_speeds_is_faster():
    """The slow node gets less, or nothing: a spare takes its place."""
    costs = Costs(layer_s=0.001, ends_s=0.002)
    even = [Place(name) for name in "abcd"]
    slow = [Place(name, 0.2 if name == "b" else 1.0) for name in "abcd"]
    before, after = plan(16, costs, even), plan(16, costs, slow)
    assert sum(part.count for part in after) == 16
    assert bottleneck_s(after, costs, slow) < 0.5 * bottleneck_s(before, costs, slow)
    counts = {part.node: part.count for part in after}
    assert counts.get("b", 0) <= 1
