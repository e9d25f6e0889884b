"""The first answer wins, the loser is cancelled, and nobody else's cancellation is swallowed."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import NoOwner, Overloaded
from mesh.flow.race import Interruption, Race
from tests.support.virtual_loop import run_virtual


class Runner:
    """A call that takes a time and notes its end."""

    def __init__(self, name, seconds, error=None):
        self.name, self.seconds, self.error = name, seconds, error
        self.end = "not begun"

    async def __call__(self):
        self.end = "cancelled"
        await asyncio.sleep(self.seconds)
        self.end = "done"
        if self.error:
            raise self.error
        return self.name


@pytest.mark.parametrize(
    ("first_s", "second_s", "winner", "at_s", "ends"),
    [
        (0.5, 9.0, "first", 0.5, ("done", "not begun")),
        (9.0, 1.0, "second", 2.0, ("cancelled", "done")),
        (3.0, 9.0, "first", 3.0, ("done", "cancelled")),
    ],
)
def test_the_first_answer_wins(first_s, second_s, winner, at_s, ends):
    async def scenario():
        first, second = Runner("first", first_s), Runner("second", second_s)
        race = Race(second)
        race.start_after(1.0)
        won = await race.run(first())
        now_s = asyncio.get_running_loop().time()
        return won, now_s, (first.end, second.end), asyncio.current_task().cancelling()

    assert run_virtual(scenario()) == (winner, at_s, ends, 0)


def test_a_tie_has_one_winner_and_no_rest():
    async def scenario():
        race = Race(Runner("second", 1.0))
        race.start_after(1.0)
        won = await race.run(Runner("first", 2.0)())
        await asyncio.sleep(1.0)
        return won in ("first", "second"), len(asyncio.all_tasks())

    assert run_virtual(scenario()) == (True, 1)


def test_a_first_that_fails_waits_for_its_second():
    async def scenario():
        race = Race(Runner("second", 5.0))
        race.start_after(1.0)
        return await race.run(Runner("first", 2.0, Overloaded())())

    assert run_virtual(scenario()) == "second"


def test_a_second_that_fails_leaves_the_first():
    async def scenario():
        race = Race(Runner("second", 0.5, Overloaded()))
        race.start_after(1.0)
        return await race.run(Runner("first", 4.0)())

    assert run_virtual(scenario()) == "first"


def test_when_both_fail_the_first_ones_error_counts():
    async def scenario():
        race = Race(Runner("second", 5.0, Overloaded()))
        race.start_after(1.0)
        await race.run(Runner("first", 2.0, NoOwner())())

    with pytest.raises(NoOwner):
        run_virtual(scenario())


def test_no_second_may_be_made():
    async def scenario():
        race = Race(lambda: None)
        race.start_after(1.0)
        return await race.run(Runner("first", 4.0)())

    assert run_virtual(scenario()) == "first"


@pytest.mark.parametrize("cancel_s", [0.5, 1.5, 2.0])
def test_a_cancelled_caller_is_cancelled(cancel_s):
    """Even at the moment when the second wins."""

    async def scenario():
        first, second = Runner("first", 9.0), Runner("second", 1.0)

        async def run():
            race = Race(second)
            race.start_after(1.0)
            return await race.run(first())

        task = asyncio.create_task(run())
        asyncio.get_running_loop().call_later(cancel_s, task.cancel)
        (result,) = await asyncio.gather(task, return_exceptions=True)
        return result, first.end, len(asyncio.all_tasks())

    result, end, tasks = run_virtual(scenario())
    assert isinstance(result, asyncio.CancelledError) or (cancel_s == 2.0 and result == "second")
    assert (end, tasks) == ("cancelled", 1)


def test_an_interruption_ends_its_block_and_nothing_else():
    async def scenario():
        loop, interruption = asyncio.get_running_loop(), Interruption()
        loop.call_later(1.0, interruption.fire)
        with interruption:
            await asyncio.sleep(9.0)
        interruption.fire()  # over: nothing happens
        await asyncio.sleep(1.0)
        return loop.time(), interruption.has_ended_block

    assert run_virtual(scenario()) == (2.0, True)
