"""A lane computes away from the loop and tells the loop, whatever the role does."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mesh.errors import SetupError
from mesh.flow.lane import InlineLane, ThreadLane, open_lane
from mesh.roles.base import Context, Role


class Where(Role):
    """Says which thread it runs on."""

    def __init__(self, context):
        super().__init__(context)
        self.threads = []

    def load(self):
        self.threads.append(threading.current_thread().name)

    def run(self, batch):
        self.threads.append(threading.current_thread().name)
        return [dict(item) for item in batch]

    def close(self):
        self.threads.append(threading.current_thread().name)


class Broken(Where):
    """Cannot load."""

    def load(self):
        raise OSError("no such file")


async def once(kind):
    role = Where(Context(role="where"))
    lane = kind(role)
    await lane.load()
    done = asyncio.get_running_loop().create_future()
    lane.compute([{"n": 1}, {"n": 2}], done.set_result)
    computed = await asyncio.wait_for(done, 5)
    await lane.aclose()
    return computed, role.threads


def test_a_thread_lane_has_one_thread_of_its_own():
    computed, threads = asyncio.run(once(ThreadLane))
    assert computed.answers == [{"n": 1}, {"n": 2}]
    assert computed.began_s <= computed.ended_s
    assert threads == ["lane-where"] * 3


def test_an_inline_lane_runs_on_the_loop_but_loads_elsewhere():
    computed, threads = asyncio.run(once(InlineLane))
    assert computed.answers == [{"n": 1}, {"n": 2}]
    assert threads[0] != "MainThread"
    assert threads[1] == "MainThread"


@pytest.mark.parametrize("kind", [ThreadLane, InlineLane])
def test_a_role_that_cannot_load_says_why(kind):
    async def scenario():
        lane = kind(Broken(Context(role="broken")))
        try:
            await lane.load()
        finally:
            await lane.aclose()

    with pytest.raises(OSError, match="no such file"):
        asyncio.run(scenario())


def test_an_unknown_lane_is_a_fault_of_the_settings():
    async def scenario():
        open_lane("rocket", Where(Context(role="where")))

    with pytest.raises(SetupError, match=r"roles.where.lane: .* found 'rocket'"):
        asyncio.run(scenario())
