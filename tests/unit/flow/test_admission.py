"""A place at the door is always given back, and a leaving node gives none."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import Draining, Overloaded
from mesh.flow.admission import Admission
from mesh.policy.request import Request
from mesh.settings.schema import Limits
from tests.support.virtual_loop import run_virtual


def door(**limits):
    return Admission(Limits(**limits))


def request(id):
    return Request(id, 160.0)


def test_places_are_counted_and_given_back_however_they_end():
    admission = door(requests_max=2)
    with admission.admit(request("a")), admission.admit(request("b")):
        with pytest.raises(Overloaded, match="2 requests are in flight") as caught:
            admission.admit(request("c"))
        assert caught.value.retry_after_s == 1.0
    with pytest.raises(KeyError), admission.admit(request("d")):
        raise KeyError
    assert admission.statistics() == {
        "active_requests": 0,
        "total_requests": 3,
        "refused_requests": 1,
        "refused_connections": 0,
        "draining": False,
    }


def test_a_draining_node_finishes_what_it_has_and_takes_nothing_new():
    async def scenario():
        admission, loop = door(), asyncio.get_running_loop()

        async def hold():
            with admission.admit(request("a")):
                await asyncio.sleep(2.0)

        task = asyncio.create_task(hold())
        await asyncio.sleep(0.5)
        admission.drain()
        with pytest.raises(Draining):
            admission.admit(request("b"))
        early = await admission.wait_idle(1.0)
        late = await admission.wait_idle(5.0)
        await task
        return early, late, loop.time()

    assert run_virtual(scenario()) == (False, True, 2.0)
