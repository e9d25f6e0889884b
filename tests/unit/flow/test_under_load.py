"""What is promised of a mesh under load holds in virtual time: overload, a slow node, a dead one.

An open loop sends requests whatever comes back, through three doors to two nodes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest

from mesh.errors import ConnectionLost, MeshError, Unreachable
from mesh.gossip.member import Status
from mesh.policy.request import Priority
from mesh.roles.base import Role
from mesh.settings.topology import Batch
from tests.support.flow import Fault, World, request
from tests.support.virtual_loop import run_virtual

pytestmark = pytest.mark.slow

ITEMS_MAX = 8
CAPACITY_PER_S = 2 * ITEMS_MAX / 0.18  # two nodes, 20 ms and 20 ms per item


class Echo(Role):
    """Gives back its item."""

    def run(self, batch):
        return [dict(item) for item in batch]


@dataclass
class Heard:
    """What one caller heard."""

    number: int
    sent_s: float
    took_s: float
    error: MeshError | None


def run_s(items):
    return 0.02 + 0.02 * len(items)


class Load:
    """An open loop."""

    def __init__(self, *, in_s=1.0, route="least-loaded", **spec):
        self.world = World()
        batch = Batch(items_max=ITEMS_MAX)
        self.world.role("r", Echo, "n1", "n2", run_s=run_s, batch=batch, route=route, **spec)
        self.in_s = in_s
        self.heard: list[Heard] = []
        self.rng = Random(7)
        self.loop = asyncio.get_running_loop()

    async def send(self, per_s, seconds, priorities=(Priority.NORMAL,)):
        """Send at a mean rate for a while, and wait until every caller has heard."""
        until_s, tasks = self.loop.time() + seconds, []
        while self.loop.time() < until_s:
            await asyncio.sleep(self.rng.expovariate(per_s))
            tasks.append(asyncio.create_task(self._one(self.rng.choice(priorities))))
        await asyncio.gather(*tasks)

    async def _one(self, priority):
        number, sent_s = len(self.heard), self.loop.time()
        entry = Heard(number, sent_s, 0.0, None)
        self.heard.append(entry)
        router = self.world[f"n{number % 3}"].router
        try:
            asked = request(str(number), self.in_s, priority)
            answered = await router.call("r", {"n": number}, asked)
            assert answered.fields == {"n": number}
        except MeshError as error:
            entry.error = error
        entry.took_s = self.loop.time() - sent_s

    def good(self):
        return [h for h in self.heard if h.error is None]

    def bad(self):
        return [h for h in self.heard if h.error is not None]

    def runs(self):
        return Counter(
            item["n"] for lane in self.world.lanes.values() for b in lane.batches for item in b
        )


def p99(values):
    ordered = sorted(values)
    return ordered[int(0.99 * (len(ordered) - 1))]


@pytest.mark.parametrize("route", ["least-loaded", "ring", "round-robin"])
def test_three_times_too_much_leaves_the_goodput_and_refuses_the_rest_at_once(route):
    async def scenario():
        load = Load(route=route)
        await load.send(3 * CAPACITY_PER_S, 6.0)
        return load

    load = run_virtual(scenario())
    assert len(load.good()) >= 0.9 * CAPACITY_PER_S * 6.0
    assert p99(h.took_s for h in load.good()) <= 1.0
    assert {type(h.error).__name__ for h in load.bad()} <= {"Overloaded", "AttemptsSpent"}
    assert all(h.error.retry_after_s >= 1.0 for h in load.bad())
    assert p99(h.took_s for h in load.bad()) < 0.05
    assert sum(load.runs().values()) <= 1.01 * len(load.good())  # next to nothing ran in vain


def test_after_an_overload_everything_is_as_before():
    async def scenario():
        load = Load()
        await load.send(3 * CAPACITY_PER_S, 5.0)
        before = len(load.heard)
        await asyncio.sleep(1.0)
        await load.send(0.5 * CAPACITY_PER_S, 3.0)
        return load.heard[before:]

    heard = run_virtual(scenario())
    assert not [h for h in heard if h.error]
    assert p99(h.took_s for h in heard) < 0.5


def test_under_overload_the_urgent_are_served_and_the_batch_class_is_refused_first():
    async def scenario():
        load = Load(in_s=5.0)
        await load.send(0.5 * CAPACITY_PER_S, 1.0)
        urgent = asyncio.create_task(load.send(0.3 * CAPACITY_PER_S, 8.0, (Priority.CRITICAL,)))
        await load.send(1.5 * CAPACITY_PER_S, 8.0, (Priority.BATCH,))
        await urgent
        return load

    load = run_virtual(scenario())
    refused = Counter(h.error.message.split(";")[0] for h in load.bad())
    assert sum("stood for long" in message for message in refused.elements()) > 100
    assert len(load.good()) >= 0.9 * CAPACITY_PER_S * 8.0


def test_a_slowed_replica_costs_little_with_hedges_and_few_extra_calls():
    async def scenario(delay_s):
        load = Load(in_s=10.0)
        await load.send(0.1 * CAPACITY_PER_S, 20.0)  # past slow start, with a p95 known
        before = len(load.heard)
        ran = sum(load.runs().values())
        load.world.network.faults["n1:1"] = Fault(delay_s=delay_s)
        await load.send(0.1 * CAPACITY_PER_S, 60.0)
        calls = len(load.heard) - before
        extra = sum(load.runs().values()) - ran - calls
        return p99(h.took_s for h in load.heard[before:]), extra / calls, load.bad()

    healthy_s, _, _ = run_virtual(scenario(0.0))
    slowed_s, extra, bad = run_virtual(scenario(0.5))
    assert not bad
    assert extra <= 0.05
    assert slowed_s <= 1.3 * healthy_s


@pytest.mark.parametrize("error", [ConnectionLost("killed"), Unreachable("killed")])
def test_a_killed_replica_costs_no_request_and_no_duplicate_answer(error):
    async def scenario():
        load = Load(in_s=10.0)

        def kill():
            load.world.network.faults["n1:1"] = Fault(before=error)
            load.loop.call_later(3.0, lambda: load.world.tell(n1=Status.DEAD))

        load.loop.call_later(2.0, kill)
        await load.send(0.4 * CAPACITY_PER_S, 8.0)
        return load

    load = run_virtual(scenario())
    assert not load.bad()
    # Each caller heard once; only what was hedged ran twice.
    hedges = sum(n.router.statistics()["hedges"] for n in load.world.nodes.values())
    assert sum(load.runs().values()) <= len(load.good()) + hedges
    assert p99(h.took_s for h in load.good()) < 1.0


def test_a_silent_replica_is_left_as_soon_as_it_is_suspected():
    async def scenario():
        load = Load(in_s=20.0)
        watches = [asyncio.create_task(n.router.run()) for n in load.world.nodes.values()]
        load.loop.call_later(
            2.0, lambda: load.world.network.faults.update({"n1:1": Fault(is_silent=True)})
        )
        load.loop.call_later(3.5, lambda: load.world.tell(n1=Status.SUSPECT))
        await load.send(0.3 * CAPACITY_PER_S, 8.0)
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        return load

    load = run_virtual(scenario())
    assert not load.bad()
    assert max(h.took_s for h in load.good()) < 2.0
