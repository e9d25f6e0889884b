"""Frames that touch a slot are computed at every stage in the order in which they were sent."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest

from mesh.llm.frames import Kind
from mesh.llm.traffic import Flight, Traffic, Turns

STAGES, LANES, SLOTS = 3, 3, 6


class Round:
    """A way round in virtual time: each lane has a thread and a queue at each stage."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.traffic = Traffic(LANES)
        self.turns = [Turns(LANES) for _ in range(STAGES)]
        self.queues = [[[] for _ in range(LANES)] for _ in range(STAGES)]
        self.busy = [[False] * LANES for _ in range(STAGES)]
        self.begun = [[] for _ in range(STAGES)]
        self.at_work = [set() for _ in range(STAGES)]
        self.events, self.ties = [], itertools.count()

    def later(self, now_s, work):
        """Let something happen soon after; what is sent on one lane keeps its order."""
        heapq.heappush(self.events, (now_s + self.draw.random(), next(self.ties), work))

    def send(self, kind, slots, now_s):
        free = [lane for lane in range(LANES) if self.draw.random() < 0.5]
        lane = self.traffic.row_lane(free[0], LANES) if free else self.traffic.lane(slots)
        after = self.traffic.after(lane, slots)
        number = self.traffic.send(Flight(None, kind, lane, slots, now_s))
        self.arrive(0, (number, lane, slots, after, self.draw.randint(1, 3)), now_s)

    def arrive(self, stage, frame, now_s):
        if stage == STAGES:
            assert self.traffic.back(frame[0]) is not None
            return
        self.queues[stage][frame[1]].append(frame)
        self.look(stage, now_s)

    def look(self, stage, now_s):
        """Let each lane's thread begin, if it may."""
        for lane in range(LANES):
            queue = self.queues[stage][lane]
            if self.busy[stage][lane] or not queue:
                continue
            _, _, slots, after, abreast = frame = queue[0]
            if not self.turns[stage].may_begin(after, abreast):
                continue
            queue.pop(0)
            assert len(self.at_work[stage]) < abreast
            for other in self.at_work[stage]:
                assert slots.isdisjoint(other[2])
            self.turns[stage].begin()
            self.busy[stage][lane] = True
            self.at_work[stage].add(frame)
            self.begun[stage].append(frame)
            self.later(now_s, lambda at, frame=frame: self.end(stage, frame, at))

    def end(self, stage, frame, now_s):
        self.arrive(stage + 1, frame, now_s)  # what is sent on is there before the next one
        self.turns[stage].end(frame[1], frame[0])
        self.busy[stage][frame[1]] = False
        self.at_work[stage].remove(frame)
        self.look(stage, now_s)


@pytest.mark.parametrize("seed", range(20))
def test_frames_of_a_slot_keep_their_order_and_none_waits_for_ever(seed):
    """Law: at each stage, slot by slot, frames begin as they were sent, and never at once."""
    held = Round(seed)
    for at in range(200):
        slots = frozenset(held.draw.sample(range(SLOTS), held.draw.randint(1, 3)))
        kind = held.draw.choice(list(Kind))
        held.later(at * 0.2, lambda now_s, k=kind, s=slots: held.send(k, s, now_s))
    while held.events:
        now_s, _, work = heapq.heappop(held.events)
        work(now_s)
    assert held.traffic.flights() == []
    for begun in held.begun:
        assert sorted(frame[0] for frame in begun) == list(range(1, 201))
        for slot in range(SLOTS):
            numbers = [frame[0] for frame in begun if slot in frame[2]]
            assert numbers == sorted(numbers)


def test_a_frame_follows_those_of_its_slots_else_takes_the_emptiest_lane():
    traffic = Traffic(3)
    assert traffic.lane({0}) == 0
    traffic.send(Flight(None, Kind.BACK, 0, {0}))
    assert traffic.lane({0, 5}) == 0
    assert traffic.lane({1}) == 1
    second = traffic.send(Flight(None, Kind.ROWS, 1, {1, 2}))
    traffic.send(Flight(None, Kind.BACK, 2, {7}))
    assert traffic.after(0, {2, 3}) == ((1, second),)
    assert traffic.after(1, {1, 2}) == ()


def test_rows_go_where_no_rows_are_and_steps_being_made_count():
    traffic = Traffic(3)
    assert traffic.row_lane(1, 2) == 1
    made = Flight(None, Kind.ROWS, 1, {1})
    traffic.make(made)
    assert traffic.under_way(Kind.ROWS) == 1
    assert traffic.is_making(Kind.ROWS)
    assert traffic.row_lane(1, 2) == 0
    traffic.made(made)
    assert traffic.row_lane(1, 2) == 1
    assert not traffic.is_making(Kind.ROWS)
