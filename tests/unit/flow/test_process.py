"""A role in a process of its own answers as one in a thread, and survives its own death."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest

from mesh.errors import RoleError, Unprocessable
from mesh.flow.lane import open_lane
from mesh.roles.base import Context, Role

pytestmark = pytest.mark.slow


class Scale(Role):
    """Multiplies an array by its option, and dies on demand."""

    options = {"by": 2.0}  # noqa: RUF012

    def run(self, batch):
        print("roles may print")  # noqa: T201
        return [self._one(item["x"]) for item in batch]

    def _one(self, x):
        if isinstance(x, str):
            if x == "die":
                os._exit(3)
            return Unprocessable("no number") if x == "refuse" else ValueError("bad")
        return {"x": x * self.context.options["by"], "pid": os.getpid()}


class Unloadable(Scale):
    """Cannot load."""

    def load(self):
        raise OSError("no such file")


async def ask(lane, *values):
    done = asyncio.get_running_loop().create_future()
    lane.compute([{"x": value} for value in values], done.set_result)
    return (await asyncio.wait_for(done, 30)).answers


def test_it_answers_with_arrays_and_errors_and_starts_anew_when_it_dies():
    async def scenario():
        lane = open_lane("process", Scale(Context(role="scale", options={"by": 3.0})))
        await lane.load()
        good, refused, bad = await ask(lane, np.ones((2, 2), np.float32), "refuse", "bad")
        before, dead, after = await ask(lane, 1.0, "die", 2.0)
        await lane.aclose()
        return good, refused, bad, before, dead, after

    good, refused, bad, before, dead, after = asyncio.run(scenario())
    assert good["x"].tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert good["pid"] != os.getpid()
    assert isinstance(refused, Unprocessable)
    assert isinstance(bad, RoleError)
    assert "ValueError: bad" in bad.message
    assert (before["x"], after["x"]) == (3.0, 6.0)
    assert isinstance(dead, RoleError)
    assert "ended with 3" in dead.message


def test_a_role_that_cannot_load_says_why():
    async def scenario():
        lane = open_lane("process", Unloadable(Context(role="r")))
        try:
            await lane.load()
        finally:
            await lane.aclose()

    with pytest.raises(RoleError, match="OSError: no such file"):
        asyncio.run(scenario())
