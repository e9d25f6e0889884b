"""A batch never waits for nothing, never grows past its limits, and never holds the dead."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import DeadlineExceeded, Overloaded
from mesh.policy.batch import BatchFormer, Cause
from mesh.policy.request import Priority

N, B = Priority.NORMAL, Priority.BATCH


def submit(former, item, now_s=0.0, cost=1, priority=N, deadline_s=inf):
    return former.submit(item, now_s, cost=cost, priority=priority, deadline_s=deadline_s)


def take(former, now_s=0.0):
    taken = former.take(now_s)
    return None if taken is None else "".join(entry.item for entry in taken.entries)


def test_an_idle_lane_takes_at_once_what_is_there():
    former = BatchFormer(items_max=4)
    submit(former, "a")
    assert take(former) == "a"
    assert take(former) is None
    for item in "bc":
        submit(former, item)
    assert take(former) == "bc"


def test_a_batch_stops_at_its_items():
    former = BatchFormer(items_max=2)
    for item in "abc":
        submit(former, item)
    assert take(former) == "ab"
    assert take(former) == "c"


def test_a_batch_stops_at_its_cost_but_one_item_always_goes():
    former = BatchFormer(items_max=9, cost_max=10)
    for item, cost in [("a", 50), ("b", 6), ("c", 4), ("d", 1)]:
        submit(former, item, cost=cost)
    assert [take(former) for _ in range(3)] == ["a", "bc", "d"]


def test_a_window_holds_a_batch_until_its_oldest_item_has_waited():
    former = BatchFormer(items_max=3, wait_s=0.25)
    submit(former, "a", now_s=1.0)
    submit(former, "b", now_s=1.1)
    assert take(former, 1.2) is None
    assert former.wakeup_s() == 1.25
    assert take(former, 1.25) == "ab"
    assert former.wakeup_s() is None


@pytest.mark.parametrize("limits", [{"items_max": 2}, {"items_max": 9, "cost_max": 2}])
def test_a_full_batch_does_not_wait_for_the_window(limits):
    former = BatchFormer(**limits, wait_s=0.25)
    submit(former, "a")
    submit(former, "b")
    assert take(former) == "ab"


def test_causes_are_told_apart():
    idle, window = BatchFormer(items_max=2), BatchFormer(items_max=2, wait_s=1.0)
    submit(idle, "a")
    submit(window, "a")
    assert idle.take(0.0).cause is Cause.IDLE
    assert window.take(1.0).cause is Cause.WINDOW
    for item in "ab":
        submit(idle, item)
    assert idle.take(0.0).cause is Cause.FULL


def test_a_full_queue_refuses_and_says_when_to_come_back():
    former = BatchFormer(items_max=1, queue_max=2)
    former.finished(1, 8.0)
    submit(former, "a")
    submit(former, "b")
    with pytest.raises(Overloaded, match="2 items wait") as caught:
        submit(former, "c")
    assert caught.value.retry_after_s == pytest.approx(8.0)


def test_a_full_queue_makes_room_for_the_more_urgent():
    former = BatchFormer(items_max=1, queue_max=1)
    submit(former, "a", priority=B)
    _, victim = submit(former, "b")
    assert victim.item == "a"
    assert take(former) == "b"


def test_who_cannot_be_served_in_time_is_refused_at_once():
    former = BatchFormer(items_max=1)
    former.finished(1, 2.0)
    submit(former, "a", deadline_s=1.0)  # nobody waits before it: it may try
    with pytest.raises(Overloaded, match="longer than the deadline"):
        submit(former, "b", deadline_s=1.0)
    submit(former, "c", deadline_s=5.0)  # two runs of two seconds, and a margin


def test_who_comes_after_the_deadline_is_not_queued():
    with pytest.raises(DeadlineExceeded):
        submit(BatchFormer(items_max=1), "a", now_s=2.0, deadline_s=2.0)


def test_the_waiting_time_counts_what_runs_and_what_waits():
    former = BatchFormer(items_max=2)
    former.finished(1, 2.0)
    former.finished(2, 3.0)
    former.finished(3, 4.0)
    assert former.waiting_s(0.0) == pytest.approx(0.0)
    for item in "abcd":
        submit(former, item)
    assert former.waiting_s(0.0) == pytest.approx(6.0)  # two batches: 2 · (1 + 2·1)
    former.take(0.0)
    assert former.waiting_s(0.0) == pytest.approx(6.0)  # one runs, one waits
    assert former.waiting_s(2.0) == pytest.approx(4.0)


items = st.tuples(
    st.integers(0, 30), st.integers(1, 12), st.sampled_from(Priority), st.integers(1, 40)
)


@given(
    st.lists(items, max_size=40),
    st.integers(1, 5),
    st.sampled_from([0, 10]),
    st.sampled_from([0.0, 3.0]),
    st.integers(1, 9),
)
def test_batch_laws(arrivals, items_max, cost_max, wait_s, run_s):
    """Each item runs once in time order or expires; no batch is over its limits or late."""
    former = BatchFormer(items_max=items_max, cost_max=cost_max, wait_s=wait_s)
    arrivals = sorted(enumerate(arrivals), key=lambda pair: pair[1][0])
    free_s, ran, gone, refused = 0.0, [], [], []
    for now_s in map(float, range(120)):
        while arrivals and arrivals[0][1][0] <= now_s:
            number, (_, cost, priority, wait) = arrivals.pop(0)
            try:
                submit(former, number, now_s, cost, priority, now_s + wait)
            except Overloaded:
                refused.append(number)
        if now_s < free_s:
            continue
        gone += [entry.item for entry in former.expire(now_s)]
        taken = former.take(now_s)
        if taken is None:
            assert not len(former) or former.wakeup_s() > now_s
            continue
        assert len(taken.entries) <= items_max
        assert not cost_max or taken.cost <= cost_max or len(taken.entries) == 1
        assert all(entry.deadline_s > now_s for entry in taken.entries)
        keys = [(e.priority, e.deadline_s) for e in taken.entries]
        assert keys == sorted(keys)
        ran += [entry.item for entry in taken.entries]
        free_s = now_s + run_s
        former.finished(taken.cost, run_s)
        former.check()
    everyone = sorted([*ran, *gone, *refused, *(e.item for e in former.clear())])
    assert everyone == list(range(len(everyone)))
    assert len(former) == 0
