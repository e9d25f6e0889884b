"""Lanes that go abreast with one thread each keep to cores of their own; all others roam."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from mesh.llm.cores import CORES, Seat, leave

pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="one core, or a system that does not say")


def in_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def places(seat, *takes):
    """Return where a thread may run after each of its takes, and its number of threads."""
    found = []
    for threads, lane, abreast in takes:
        seat.take(threads, lane, abreast)
        found.append((sorted(os.sched_getaffinity(0)), torch.get_num_threads()))
    return found


def test_a_lane_has_its_core_while_it_goes_abreast_and_all_cores_else():
    seat = Seat()
    takes = (1, 0, 2), (1, 1, 2), (1, 1, 1), (2, 1, 2), (1, 1, len(CORES) + 1)
    expected = [([CORES[0]], 1), ([CORES[1]], 1), (CORES, 1), (CORES, 2), (CORES, 1)]
    assert expected == in_thread(lambda: places(seat, *takes))


def test_each_thread_has_a_seat_of_its_own():
    seat = Seat()
    assert in_thread(lambda: places(seat, (1, 1, 2))) == [([CORES[1]], 1)]
    assert in_thread(lambda: places(seat, (1, 0, 1))) == [(CORES, 1)]


def test_a_thread_made_in_a_lanes_place_may_leave_it():
    def left():
        leave()
        return sorted(os.sched_getaffinity(0))

    def work():
        Seat().take(1, 1, 2)
        return in_thread(left)

    assert in_thread(work) == CORES
