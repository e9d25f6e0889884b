"""Lines end at their deadline, failures are forgotten, and no event is gathered for ever."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from mesh import client
from mesh.errors import RemoteProtocolError
from mesh.net import lines, peers, refusals
from mesh.settings.schema import Limits
from mesh.wire.messages import Answer, Call

pytestmark = pytest.mark.live


def test_a_line_ends_at_its_deadline(monkeypatch):
    monkeypatch.setattr(lines, "DEADLINE_MS", 20)

    async def never(call: Call, reply: object) -> Answer:
        await asyncio.sleep(60.0)
        raise AssertionError

    async def main():
        server = peers.Peers(mesh_name="demo", node="n0", secret="", limits=Limits())
        server.serve("lines", never)
        host, port = (await server.listen("127.0.0.1:0")).split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b'{"id": 1, "method": "x", "params": {}}\n')
        told = json.loads(await asyncio.wait_for(reader.readline(), 10.0))
        assert "deadline_exceeded" in json.dumps(told)
        writer.close()
        await server.aclose()

    asyncio.run(main())


def test_an_address_that_failed_is_forgotten_in_the_end():
    async def main():
        mine = peers.Peers(mesh_name="demo", node="n0", secret="", limits=Limits())
        mine._remember("old:1", peers._Failure("gone", 0.0))
        mine._remember("new:1", peers._Failure("gone", 0.0))
        assert {"old:1", "new:1"} == set(mine._failures)
        mine._failures["old:1"].again_s = time.monotonic() - peers.FORGET_S - 1.0
        mine._remember("new:1", peers._Failure("gone", 0.0))
        assert {"new:1"} == set(mine._failures)

    asyncio.run(main())


def test_an_event_without_end_is_given_up(monkeypatch):
    """The client gathers no more than one event may have."""
    monkeypatch.setattr(client, "EVENT_BYTES_MAX", 100)

    async def endless():
        while True:
            yield b"data: x"

    async def main():
        content = SimpleNamespace(iter_any=endless)
        async for _ in client._events(SimpleNamespace(content=content)):
            raise AssertionError

    with pytest.raises(RemoteProtocolError, match="longer than 100 bytes"):
        asyncio.run(main())


def test_refusals_that_are_remembered_are_bounded():
    known = refusals.Refusals()
    for number in range(refusals.REFUSALS_MAX + 2):
        for found in "ab":
            known.note(f"10.0.0.{number}:1", f"expected x, found {found}", is_accepted=True)
    assert len(known._known) == 2
