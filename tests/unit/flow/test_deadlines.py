"""A watched wait ends soon after its deadline, and many share a timer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import DeadlineExceeded
from mesh.flow.deadlines import GRAIN_S, Deadlines
from tests.support.virtual_loop import run_virtual


@given(st.floats(0.001, 1000.0))
def test_a_wait_ends_within_a_grain_of_its_deadline(deadline_s):
    """Never early, never later than one grain."""

    async def scenario():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        Deadlines().watch(future, deadline_s)
        with pytest.raises(DeadlineExceeded):
            await future
        return loop.time()

    assert deadline_s <= run_virtual(scenario()) <= deadline_s + GRAIN_S + 1e-9


def test_what_is_done_or_forgotten_is_left_alone():
    async def scenario():
        loop, deadlines = asyncio.get_running_loop(), Deadlines()
        done, forgotten = loop.create_future(), loop.create_future()
        for future in (done, forgotten):
            deadlines.watch(future, 1.0)
        done.set_result("here")
        deadlines.forget(forgotten, 1.0)
        await asyncio.sleep(2.0)
        return done.result(), forgotten.done(), deadlines._buckets

    assert run_virtual(scenario()) == ("here", False, {})


def test_a_thousand_waits_share_one_timer():
    async def scenario():
        loop, deadlines = asyncio.get_running_loop(), Deadlines()
        futures = [loop.create_future() for _ in range(1000)]
        for future in futures:
            deadlines.watch(future, 1.0)
        timers = len(deadlines._buckets)
        await asyncio.gather(*futures, return_exceptions=True)
        return timers, all(isinstance(f.exception(), DeadlineExceeded) for f in futures)

    assert run_virtual(scenario()) == (1, True)
