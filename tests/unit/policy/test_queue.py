"""Nobody who waits is lost, and who is next follows from class, deadline and order."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.policy.queue import Queue, State
from mesh.policy.request import Priority

C, N, B = Priority.CRITICAL, Priority.NORMAL, Priority.BATCH


def push(queue, item, priority=N, deadline_s=inf, now_s=0.0, cost=1):
    return queue.push(item, now_s, cost=cost, priority=priority, deadline_s=deadline_s)


def drain(queue):
    return [queue.pop().item for _ in range(len(queue))]


@pytest.mark.parametrize(
    ("pushed", "left"),
    [
        ([("a", N, 9), ("b", N, 9)], "ab"),  # first come
        ([("a", N, 9), ("b", N, 8)], "ba"),  # earliest deadline
        ([("a", B, 1), ("b", N, 9), ("c", C, 99)], "cba"),  # class before deadline
    ],
)
def test_who_is_next(pushed, left):
    queue = Queue(9)
    for item, priority, deadline_s in pushed:
        push(queue, item, priority, deadline_s)
    assert "".join(drain(queue)) == left


def test_a_discarded_entry_never_comes_and_frees_its_place():
    queue = Queue(2)
    first = push(queue, "a")
    push(queue, "b")
    assert queue.is_full
    assert queue.discard(first)
    assert not queue.discard(first)
    assert not queue.is_full
    assert drain(queue) == ["b"]


def test_eviction_takes_the_last_of_the_least_urgent_class_below():
    queue = Queue(4)
    for item, priority, deadline_s in [("n", N, 5), ("b1", B, 5), ("b2", B, 7), ("c", C, 5)]:
        push(queue, item, priority, deadline_s)
    assert queue.evict(N).item == "b2"
    assert queue.evict(N).item == "b1"
    assert queue.evict(N) is None
    assert queue.evict(C).item == "n"


def test_expired_entries_leave_at_their_deadline_in_every_class():
    queue = Queue(9)
    push(queue, "a", B, 1.0)
    push(queue, "b", N, 2.0)
    push(queue, "c", N, 3.0)
    assert {entry.item for entry in queue.expire(2.0)} == {"a", "b"}
    assert drain(queue) == ["c"]


def test_many_discards_leave_no_rubbish_behind():
    queue = Queue(10_000)
    entries = [push(queue, n) for n in range(1000)]
    for entry in entries[:-1]:
        queue.discard(entry)
    assert sum(len(heap) for heap in queue._heaps) < 200
    assert drain(queue) == [999]


class AnyUse(RuleBasedStateMachine):
    """Whatever is done to it, each entry leaves once, and the best waiting one is next."""

    def __init__(self):
        super().__init__()
        self.queue = Queue(12)
        self.entries = []
        self.now_s = 0.0
        self.left = []

    @precondition(lambda self: not self.queue.is_full)
    @rule(priority=st.sampled_from(Priority), wait_s=st.integers(0, 9), cost=st.integers(0, 5))
    def push(self, priority, wait_s, cost):
        number = len(self.entries)
        deadline_s = self.now_s + wait_s
        entry = push(self.queue, number, priority, deadline_s, self.now_s, cost)
        self.entries.append(entry)

    @precondition(lambda self: len(self.queue))
    @rule()
    def pop(self):
        waiting = [e for e in self.entries if e.state is State.WAITING]
        best = min(waiting, key=lambda e: (e.priority, e.deadline_s, e.item))
        entry = self.queue.pop()
        assert entry is best
        self.left.append(entry.item)

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def discard(self, data):
        entry = data.draw(st.sampled_from(self.entries))
        if self.queue.discard(entry):
            self.left.append(entry.item)

    @rule(priority=st.sampled_from(Priority))
    def evict(self, priority):
        entry = self.queue.evict(priority)
        if entry is not None:
            assert entry.priority > priority
            self.left.append(entry.item)

    @rule(pass_s=st.integers(0, 4))
    def expire(self, pass_s):
        self.now_s += pass_s
        gone = self.queue.expire(self.now_s)
        assert all(entry.deadline_s <= self.now_s for entry in gone)
        waiting = [e for e in self.entries if e.state is State.WAITING]
        assert all(entry.deadline_s > self.now_s for entry in waiting)
        self.left += [entry.item for entry in gone]

    @invariant()
    def nothing_is_lost_or_doubled(self):
        self.queue.check()
        assert len(set(self.left)) == len(self.left)
        assert len(self.left) + len(self.queue) == len(self.entries)


TestAnyUse = pytest.mark.slow(AnyUse.TestCase)


@given(st.lists(st.sampled_from(Priority)))
def test_equal_deadlines_keep_their_order_within_a_class(classes):
    """First in, first out within each class."""
    queue = Queue(len(classes) + 1)
    for number, priority in enumerate(classes):
        push(queue, (priority, number), priority, 5.0)
    assert drain(queue) == sorted((priority, number) for number, priority in enumerate(classes))


@pytest.mark.parametrize("cost_max", [0, 5])
def test_many_at_once_are_those_that_would_come_one_by_one(cost_max):
    """In the same order, and the one that does not fit stays."""
    rng = random.Random(9)
    for _ in range(50):
        one, many = Queue(64), Queue(64)
        for item in range(rng.randrange(1, 40)):
            given = {
                "cost": rng.randrange(1, 8),
                "priority": rng.randrange(3),
                "deadline_s": float(rng.randrange(1, 9)),
            }
            for queue in (one, many):
                entry = queue.push(item, 0.0, **given)
                if item % 5 == 0:
                    queue.discard(entry)
        while len(one):
            expected = [one.pop()]
            while len(expected) < 4 and (head := one.peek()):
                if cost_max and sum(e.cost for e in expected) + head.cost > cost_max:
                    break
                expected.append(one.pop())
            taken = many.pop_many(4, cost_max)
            assert [e.item for e in expected] == [e.item for e in taken]
            many.check()
        assert not many.pop_many(4, cost_max)
