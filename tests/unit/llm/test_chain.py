"""The way round opens with whoever is there, and anew without who is lost or slow."""

from __future__ import annotations

import asyncio
import socket

import pytest

from mesh.errors import ConnectionLost
from mesh.llm.chain import Chain
from mesh.llm.frames import Limits
from mesh.llm.links import Candidate
from mesh.llm.order import Order
from mesh.llm.split import Costs
from mesh.wire.messages import Piece

LAYERS = 12
LIMITS = Limits(slots=4, cap=64, width=8, tokens_max=32)


class Hold:
    """A stage that is held until its node is lost."""

    def __init__(self):
        self.lost = asyncio.Event()
        self.is_told = False

    async def __anext__(self):
        if not self.is_told:
            self.is_told = True
            return Piece({"bytes": 1})
        await self.lost.wait()
        raise ConnectionLost("it was killed")

    async def aclose(self):
        pass


class Links:
    """Nodes of this process; connections lead straight home."""

    role = "generate"

    def __init__(self, names):
        self.loop = asyncio.get_running_loop()
        self.names = list(names)
        self.holds, self.homes, self.orders = {}, {}, []

    def candidates(self):
        return [Candidate(name, f"10.0.0.{at}:7000") for at, name in enumerate(self.names)]

    def expected(self):
        return len(self.names)

    def stream(self, address, call):
        self.orders.append(call.fields)
        name = next(each.name for each in self.candidates() if each.address == address)
        self.holds[name] = Hold()
        return self.holds[name]

    async def ping(self, address, instance, within_s):
        return any(each.address == address for each in self.candidates())

    def expect(self, token):
        self.homes[token] = self.loop.create_future()
        return self.homes[token]

    def forget(self, token):
        self.homes.pop(token, None)

    async def dial(self, address, token):
        ours, theirs = socket.socketpair()
        next(home for home in self.homes.values() if not home.done()).set_result(theirs)
        return ours

    def lose(self, name):
        self.names.remove(name)
        self.holds[name].lost.set()


class Relay:
    """Remembers the ways."""

    def __init__(self):
        self.ways, self.is_open = [], False

    def resume(self, way):
        self.ways.append(way)
        self.is_open = True

    def suspend(self):
        self.is_open = False

    def returned(self, header, hidden):
        pass

    def is_idle(self):
        return False

    def waits_s(self):
        return 0.0

    usual_s = waits_s


def run(names, scenario, counts=()):
    """Run a chain over the nodes, the first one its head, with a scenario beside it."""

    async def main():
        links, relay = Links(names), Relay()
        order = Order(0, 1, LIMITS, "int4", False, "", False)
        costs = Costs(layer_s=0.001, ends_s=0.001)
        chain = Chain(links, relay, order, LAYERS, counts, costs, lambda *_: Part(), "instance")
        task = asyncio.create_task(chain.run())
        try:
            async with asyncio.timeout(10):
                await scenario(links, relay, chain)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


class Part:
    """Layers of the head."""

    first, layers = 0, ()

    def size_bytes(self):
        return 1


async def opened(relay, count):
    while len(relay.ways) < count or not relay.is_open:  # noqa: ASYNC110 - threads are waited for
        await asyncio.sleep(0.001)


def nodes_of(chain):
    return [part.node for part in chain.state.parts]


@pytest.mark.parametrize("counts", [(), (4, 4, 4)])
def test_a_lost_stage_is_left_out_and_the_layers_dealt_anew(counts):
    async def scenario(links, relay, chain):
        await opened(relay, 1)
        assert nodes_of(chain) == ["a", "b", "c"]
        assert [order["next"] for order in links.orders] == ["10.0.0.2:7000", "10.0.0.0:7000"]
        links.lose("b")
        await opened(relay, 2)
        assert nodes_of(chain) == ["a", "c"]
        assert chain.statistics()["recoveries"] == 1
        assert sum(part.count for part in chain.state.parts) == LAYERS

    run(["a", "b", "c"], scenario, counts)


def test_a_head_goes_on_alone_when_every_stage_is_lost():
    async def scenario(links, relay, chain):
        await opened(relay, 1)
        links.lose("b")
        await opened(relay, 2)
        assert nodes_of(chain) == ["a"]
        assert relay.ways[-1].stages == 0
        assert chain.state.parts[0].count == LAYERS

    run(["a", "b"], scenario)


@pytest.mark.slow
def test_what_nobody_expected_is_reported_and_the_chain_opens_anew(caplog):
    """Whatever fails, a role never waits for ever for its chain."""

    async def scenario(links, relay, chain):
        await opened(relay, 1)
        real, links.expected = links.dial, lambda: 0

        async def fail(address, token):
            links.dial = real
            raise ValueError("a mistake")

        links.dial = fail
        links.holds["b"].lost.set()
        await opened(relay, 2)

    run(["a", "b", "c"], scenario)
    assert "chain.failed" in caplog.text


@pytest.mark.parametrize(("counts", "expected"), [((), ["a", "c", "d"]), ((4, 4, 4), "acd")])
def test_a_slow_stage_is_cut_out_for_a_spare(counts, expected):
    """Seen by its pace, while steps go round; the time is the steps', not the wall's."""

    async def scenario(links, relay, chain):
        await opened(relay, 1)
        parts = chain.state.parts
        assert "b" in nodes_of(chain)
        for at in range(400):
            spent_s = [part.count * (0.008 if part.node == "b" else 0.001) for part in parts]
            relay.ways[-1].paces.note(spent_s, at * 0.02)
        await opened(relay, 2)
        assert [name for name in nodes_of(chain) if name != "b"] == list(expected)
        assert all(part.count <= 1 for part in chain.state.parts if part.node == "b")
        assert "b" in chain.statistics()["slow"]

    run(["a", "b", "c", "d"], scenario, counts)


def test_nodes_of_one_machine_share_its_cores():
    async def scenario(links, relay, chain):
        await opened(relay, 1)
        assert relay.ways[-1].sharing == 1
        links.candidates = lambda: [Candidate(name, f"10.0.0.1:{name}") for name in links.names]
        links.lose("c")
        await opened(relay, 2)
        assert relay.ways[-1].sharing == 2

    run(["a", "b", "c"], scenario)
