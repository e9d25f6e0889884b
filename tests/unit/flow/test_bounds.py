"""Who does not end in time is left or killed; what is too long is refused."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from mesh.errors import RoleError, Unprocessable
from mesh.flow import lane, process, stream_lane, takeover
from mesh.policy.epoch import Edition
from mesh.roles.base import Context, Role, StreamRole


class Stubborn(Role):
    """Does not end."""

    gate = Event()

    def run(self, batch):
        return list(batch)

    def close(self):
        """Wait in a thread for the test; in a child for much longer than it takes."""
        self.gate.wait(60.0)


class StubbornTeller(StreamRole):
    """Does not end either, and streams."""

    async def stream(self, item, request):
        yield item

    def close(self):
        time.sleep(60.0)


def test_a_thread_that_does_not_end_is_left_behind(monkeypatch):
    """A role that hangs in `close` must not keep its node from stopping."""
    monkeypatch.setattr(lane, "JOIN_S", 0.01)

    async def main():
        mine = lane.open_lane("thread", Stubborn(Context("r")))
        async with asyncio.timeout(5.0):
            await mine.aclose()
        Stubborn.gate.set()

    asyncio.run(main())


@pytest.mark.slow
def test_a_child_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(process, "CLOSE_S", 0.05)
    role = process.ProcessRole(Stubborn(Context("r")))
    role.load()
    child = role._child
    role.close()
    assert -signal.SIGKILL == child.returncode


@pytest.mark.slow
def test_a_streaming_child_that_does_not_end_or_greet_is_killed(monkeypatch):
    monkeypatch.setattr(stream_lane, "CLOSE_S", 0.05)

    async def main():
        mine = stream_lane.StreamLane(StubbornTeller(Context("r")), lambda role, is_up: None)
        await mine.load()
        child = mine._child.process
        await mine.aclose()
        assert -signal.SIGKILL == child.returncode
        monkeypatch.setattr(stream_lane, "START_S", 0.0)
        mine = stream_lane.StreamLane(StubbornTeller(Context("r")), lambda role, is_up: None)
        with pytest.raises(RoleError, match="ended with"):
            await mine.load()
        await mine.aclose()

    asyncio.run(main())


def test_a_topology_beyond_its_limit_is_refused(monkeypatch):
    """Before anything reads it."""
    monkeypatch.setattr(takeover, "TEXT_BYTES_MAX", 10)

    async def main():
        mine = SimpleNamespace(_edition=Edition("m", 1, 0), _refuse=lambda *_: None)
        mine._judged = lambda *given: takeover.Takeover._judged(mine, *given)
        with pytest.raises(Unprocessable, match="expected at most 10 bytes, found 11"):
            await takeover.Takeover.offer(mine, "x" * 11, str(Path("t.toml")))

    asyncio.run(main())
