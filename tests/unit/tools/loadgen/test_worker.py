"""A request's latency counts from when it was meant to start, whatever the server did meanwhile."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from tests.support.virtual_loop import run_virtual
from tools.loadgen.kind import What
from tools.loadgen.plan import Load, starts
from tools.loadgen.plan import Work as Part
from tools.loadgen.worker import Orders, Worker

SERVICE_S = 0.01
STALL_S = 2.0
GOOD = b'{"trace": {"stages": []}}'
READING_S = 1e-4  # a look at the clock takes a little, or who waits by looking would wait forever


class Answer:
    """A whole answer of a pipeline."""

    status = 200

    def __init__(self, wait_s, body):
        self._wait_s, self._body = wait_s, body

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def read(self):
        await asyncio.sleep(self._wait_s)
        return self._body


class Session:
    """A server that answers one request at a time, and stands still once at `stall_at_s`."""

    def __init__(self, stall_at_s=float("inf"), fault=None, body=GOOD):
        self._free_s, self._stall_at_s = 0.0, stall_at_s
        self._fault, self._body = fault, body

    def post(self, _url, **_options):
        if self._fault is not None:
            raise self._fault
        now_s = asyncio.get_running_loop().time()
        begin_s = max(now_s, self._free_s)
        if begin_s >= self._stall_at_s:
            begin_s, self._stall_at_s = begin_s + STALL_S, float("inf")
        self._free_s = begin_s + SERVICE_S
        return Answer(self._free_s - now_s, self._body)


@pytest.fixture
def samples(monkeypatch):
    def run(load, session):
        async def scenario():
            loop = asyncio.get_running_loop()
            late_s = 0.0

            def monotonic():
                nonlocal late_s
                late_s += READING_S
                return loop.time() + late_s

            monkeypatch.setattr(time, "monotonic", monotonic)
            part = Part(load, starts(load, 1) if load.is_open else [])
            worker = Worker(Orders(["http://server"], [What()], part))
            return await worker.run(session, loop.time())

        return run_virtual(scenario())

    return run


def test_open_loop_counts_from_the_intended_start(samples):
    """At 50/s a stall of 2 s is seen by every request that was meant to start in it."""
    load = Load(rate=50.0, seconds=6.0, arrival="constant")
    found = samples(load, Session(stall_at_s=1.0))
    late = [one.latency_s for one in found if 1.0 <= one.intended_s < 3.0]
    assert len(found) == 300
    assert len(late) >= 99
    assert max(late) >= STALL_S
    assert sum(late) / len(late) >= STALL_S / 2  # each waited for what was left of it, and a queue
    assert max(one.lag_s for one in found) < 0.01  # none was sent late


def test_closed_loop_sees_the_same_stall_once(samples):
    """Whoever waits for an answer before the next question meets the stall in one request."""
    found = samples(Load(requests=300, concurrent=1), Session(stall_at_s=1.0))
    assert 1 == sum(one.latency_s > 1.0 for one in found)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ConnectionResetError(), "reset"),
        (aiohttp.ServerDisconnectedError(), "reset"),
        (aiohttp.ClientPayloadError(), "truncated"),
        (aiohttp.ConnectionTimeoutError(), "connect_timeout"),
        (TimeoutError(), "timeout"),
        (ValueError("Chunk too big"), "bad_payload"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_a_broken_connection_has_its_class(samples, fault, expected):
    (sample,) = samples(Load(requests=1), Session(fault=fault))
    assert expected == sample.failure


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (GOOD, ""),
        (b"", "bad_payload"),
        (b"[]", "bad_payload"),
        (b'{"trace": 1}', "wrong_answer"),
        (b'{"trace": {"stages": 1}}', "bad_payload"),
        (b'{"trace": {"stages": [{"ran_ms": "x"}]}}', "bad_payload"),
    ],
)
def test_an_answer_of_any_shape_has_its_class(samples, body, expected):
    """No answer of a server ends the load process."""
    (sample,) = samples(Load(requests=1), Session(body=body))
    assert expected == sample.failure
