"""Equal work runs once; riders come and go without hurting each other."""

from __future__ import annotations

import asyncio

import pytest

from mesh.flow.single import SingleFlight
from tests.support.virtual_loop import run_virtual


class Work:
    """Takes a second, counts its starts and cancellations."""

    def __init__(self, error=None):
        self.started = self.cancelled = 0
        self.error = error

    async def __call__(self):
        self.started += 1
        try:
            await asyncio.sleep(1.0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return self.started


def test_who_comes_second_joins():
    async def scenario():
        flights, work = SingleFlight(), Work()
        first = asyncio.create_task(flights.join("k", work))
        await asyncio.sleep(0.5)
        other = asyncio.create_task(flights.join("other", work))
        second = await flights.join("k", work)
        return await first, second, await other, len(flights)

    assert run_virtual(scenario()) == (2, 2, 2, 0)


def test_after_landing_work_starts_anew():
    async def scenario():
        flights, work = SingleFlight(), Work()
        return [await flights.join("k", work), await flights.join("k", work)]

    assert run_virtual(scenario()) == [1, 2]


def test_an_error_reaches_every_rider():
    async def scenario():
        flights, work = SingleFlight(), Work(ValueError("no"))
        tasks = [asyncio.create_task(flights.join("k", work)) for _ in range(3)]
        return await asyncio.gather(*tasks, return_exceptions=True), work.started

    errors, started = run_virtual(scenario())
    assert [str(error) for error in errors] == ["no"] * 3
    assert started == 1


def test_a_rider_who_leaves_stops_nothing_but_the_last_one_does():
    async def scenario():
        flights, work = SingleFlight(), Work()
        riders = [asyncio.create_task(flights.join("k", work)) for _ in range(3)]
        await asyncio.sleep(0.2)
        riders[0].cancel()
        await asyncio.sleep(0.2)
        alive = work.cancelled == 0
        riders[1].cancel()
        riders[2].cancel()
        await asyncio.gather(*riders, return_exceptions=True)
        return alive, work.cancelled, len(flights)

    assert run_virtual(scenario()) == (True, 1, 0)


def test_work_that_fails_after_its_riders_left_is_not_reported_as_lost():
    async def scenario():
        flights = SingleFlight()

        async def stubborn():
            try:
                await asyncio.sleep(1.0)
            except asyncio.CancelledError:
                raise ValueError("while cleaning up") from None

        rider = asyncio.create_task(flights.join("k", stubborn))
        await asyncio.sleep(0.1)
        rider.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rider

    run_virtual(scenario())
