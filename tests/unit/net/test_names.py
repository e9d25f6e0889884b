"""Names are looked up without waiting, and asked again for ever."""

from __future__ import annotations

import asyncio

import pytest

from mesh.net import names as naming
from mesh.net.names import Names


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answers(monkeypatch) -> dict[str, str]:
    """What the resolver knows."""
    known: dict[str, str] = {}

    async def getaddrinfo(self, host, port, **_):
        if host not in known:
            raise OSError("unknown")
        return [(2, 2, 17, "", (known[host], port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return known


@pytest.mark.parametrize(
    ("address", "where"),
    [("127.0.0.1:70", ("127.0.0.1", 70)), ("[::1]:70", ("::1", 70))],
)
def test_an_address_needs_no_resolver(address, where):
    names = Names()
    assert where == names.lookup(address)
    assert not names.is_stale(address)


def test_a_name_is_resolved_and_followed(clock, answers):
    names = Names(clock)
    assert names.lookup("seed:7") is None
    assert names.is_stale("seed:7")
    assert not names.is_stale("seed:7"), "once per attempt"
    answers["seed"] = "10.0.0.1"
    asyncio.run(names.resolve("seed:7"))
    assert ("10.0.0.1", 7) == names.lookup("seed:7")
    clock.now_s = naming.FRESH_S
    assert names.is_stale("seed:7")
    answers["seed"] = "10.0.0.2"
    asyncio.run(names.resolve("seed:7"))
    assert ("10.0.0.2", 7) == names.lookup("seed:7")


def test_what_does_not_resolve_is_asked_again_soon(clock, answers):
    names = Names(clock)
    for address in ("seed:7", "seed:port"):
        assert names.is_stale(address)
        asyncio.run(names.resolve(address))
        assert names.lookup(address) is None
    clock.now_s = naming.RETRY_S
    assert names.is_stale("seed:7")


def test_names_are_bounded(monkeypatch):
    monkeypatch.setattr(naming, "NAMES_MAX", 2)
    names = Names()
    for port in range(5):
        names.lookup(f"127.0.0.1:{port}")
    assert 2 == len(names._known)
