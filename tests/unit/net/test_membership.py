"""The shell over real datagrams: join, tell, die, leave, and nothing read too late."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mesh.errors import SetupError
from mesh.gossip import events as ev
from mesh.gossip.member import Facts, Status
from mesh.gossip.packets import Codec, Packet, Ping
from mesh.net.membership import Membership
from mesh.settings.schema import Gossip
from mesh.wire.messages import Call
from tests.support.fake_peers import FakeNetwork, FakePeers

pytestmark = pytest.mark.live

# Ten times faster than usual, so that a death takes half a second and not five.
QUICK = Gossip(
    probe_interval_s=0.1, probe_timeout_s=0.05, gossip_interval_s=0.02, rejoin_interval_s=1.0
)


def free_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Node:
    """One membership that runs, with the fake connections that it uses."""

    def __init__(self, network: FakeNetwork, name: str, seeds: tuple[str, ...] = (), **named):
        self.address = free_address()
        self.peers = FakePeers(network, self.address)
        settings = {"mesh_name": "test", "secret": "", "settings": QUICK, "identity": None}
        self.membership = Membership(
            **(settings | named),
            listen=self.address,
            advertise="",
            seeds=seeds,
            facts=Facts(name),
            rng=random.Random(name),
            peers=self.peers,
        )
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> Node:
        await self.membership.start()
        self.task = asyncio.create_task(self.membership.run())
        await asyncio.sleep(0)
        return self

    async def kill(self) -> None:
        """End as a killed process does: without a word."""
        assert self.task is not None
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.peers.close()

    def view(self) -> dict[str, Status]:
        return {one.facts.name: one.status for one in self.membership.members}


@contextlib.asynccontextmanager
async def mesh(count: int, **named) -> AsyncIterator[list[Node]]:
    network = FakeNetwork()
    first = await Node(network, "n0", **named).start()
    rest = [Node(network, f"n{at}", (first.address,), **named) for at in range(1, count)]
    nodes = [first, *[await node.start() for node in rest]]
    try:
        await until(nodes, lambda: all(alive(node, count) for node in nodes))
        yield nodes
    finally:
        for node in nodes:
            if node.task is not None and not node.task.done():
                await node.kill()


def alive(node: Node, count: int) -> bool:
    return [Status.ALIVE] * count == list(node.view().values())


async def until(nodes: list[Node], condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for changes of any node's view, never by sleeping."""
    async with asyncio.timeout(seconds):
        while not condition():
            waits = [
                asyncio.ensure_future(node.membership.wait_change(node.membership.version))
                for node in nodes
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("secret", ["", "a secret"])
def test_three_nodes_meet_lose_one_and_part(secret):
    async def scenario():
        async with mesh(3, secret=secret) as nodes:
            a, b, c = nodes
            b.membership.tell(Facts("n1", roles=("embed",)))
            told = lambda node: any(one.facts.roles for one in node.membership.members)  # noqa: E731
            await until(nodes, lambda: told(a) and told(c))
            await c.kill()
            await until([a, b], lambda: a.view()["n2"] == b.view()["n2"] == Status.DEAD)
            await b.membership.leave()
            await until([a], lambda: a.view()["n1"] is Status.LEFT)
            assert Status.LEFT is b.membership.me.status
            assert {} == a.membership.statistics()["dropped"]
            assert 1 == a.membership.statistics()["deaths"]

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_restart_with_its_identity_is_the_same_member(tmp_path):
    async def scenario():
        async with mesh(2) as nodes:
            for _ in range(2):
                file = tmp_path / "identity.json"
                node = Node(nodes[0].peers.network, "n2", (nodes[0].address,), identity=file)
                await node.start()
                group = [*nodes, node]
                await until(group, lambda: all(alive(one, 3) for one in group))  # noqa: B023
                await node.kill()

    asyncio.run(scenario())


@pytest.mark.slow
def test_early_birds_find_their_seed():
    async def scenario():
        network = FakeNetwork()
        seed = Node(network, "n0")
        seed.peers.close()
        early = await Node(network, "n1", (seed.address,)).start()
        network.nodes[seed.address] = seed.peers
        await seed.start()
        await until([seed, early], lambda: alive(seed, 2) and alive(early, 2), 3.0)
        for node in (seed, early):
            await node.kill()

    asyncio.run(scenario())


def test_strangers_and_garbage_change_nothing_and_are_counted():
    async def scenario():
        async with mesh(2, secret="a secret") as nodes:
            node, before = nodes[0].membership, nodes[0].membership.members
            strange = Packet("other", "x", 1, 1, messages=(Ping(1, ""),))
            host, port = nodes[0].address.split(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for data in (b"", b"junk", Codec("other").encode(strange), b"S" + bytes(60)):
                    sender.sendto(data, (host, int(port)))
            # Loopback delivers at once: the packets are readable now.
            await asyncio.sleep(0)
            node._on_readable()
            dropped = node.statistics()["dropped"]
            assert 3 == dropped["not_sealed"]
            assert 1 == dropped["wrong_seal"]
            assert before == node.members

    asyncio.run(scenario())


@pytest.mark.slow
def test_everything_is_read_before_an_alarm_rings():
    """An ack that arrived while the loop stood still is heard before its deadline."""

    async def scenario():
        async with mesh(2) as (a, b):
            seen: list[object] = []
            machine = a.membership._swim
            handle = machine.handle
            machine.handle = lambda event, now_s: (seen.append(event), handle(event, now_s))[1]
            codec = Codec("test")
            other = b.membership.me
            ping = Packet("test", other.id, *other.version, messages=(Ping(1, machine.me.id),))
            host, port = a.address.split(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(50):
                    sender.sendto(codec.encode(ping), (host, int(port)))
            time.sleep(0.3)  # the stall itself: nothing else may run  # noqa: ASYNC251
            a.membership._on_alarm(time.monotonic())
            kinds = [type(event).__name__ for event in seen]
            tick = kinds.index("Tick")
            assert 50 <= kinds[:tick].count("PacketReceived")
            assert {Status.ALIVE} == set(a.view().values())

    asyncio.run(scenario())


def test_a_copy_of_our_identity_ends_this_process():
    async def scenario():
        network = FakeNetwork()
        node = await Node(network, "n0").start()
        me = node.membership.me
        later = Packet("test", me.id, me.boot + 1, 1)
        node.membership._handle(ev.PacketReceived(later, "127.0.0.1:9"))
        assert node.task is not None
        with pytest.raises(SetupError, match="another process"):
            await node.task

    asyncio.run(scenario())


def test_peers_get_answers_and_nonsense_gets_none():
    async def scenario():
        async with mesh(2) as (a, b):
            me = a.membership.me.id
            answered = await b.peers.call(a.address, Call(to="mesh/ping", fields={"target": me}))
            assert {"id": me} == answered.answer.fields
            for state in (None, 7, b"junk"):
                with pytest.raises(Exception, match="unreadable"):
                    await b.peers.call(a.address, Call(to="mesh/sync", fields={"state": state}))
            assert 3 == a.membership.statistics()["dropped"]["unreadable"]

    asyncio.run(scenario())


def test_a_taken_port_is_reported():
    async def scenario():
        async with mesh(1) as nodes:
            other = Node(nodes[0].peers.network, "n1")
            other.membership._listen = nodes[0].address
            with pytest.raises(SetupError, match=f"UDP {nodes[0].address}"):
                await other.membership.start()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("listen", "advertise", "address"),
    [
        ("127.0.0.1:7", "", "127.0.0.1:7"),
        ("127.0.0.1:7", "node.example:8", "node.example:8"),
        ("0.0.0.0:7", "node.example:8", "node.example:8"),
        ("0.0.0.0:7", "", "127.0.0.1:7"),
    ],
)
def test_which_address_others_are_told(listen, advertise, address):
    membership = Membership(
        mesh_name="m",
        secret="",
        settings=QUICK,
        listen=listen,
        advertise=advertise,
        seeds=("127.0.0.1:1",),
        facts=Facts("n"),
        identity=None,
        rng=random.Random(1),
        peers=FakePeers(FakeNetwork(), listen),
    )
    assert address == membership.me.address
    assert (membership.me,) == membership.members


@pytest.mark.parametrize(
    ("named", "expected"),
    [({"mesh_name": "m" * 65}, "at most 64 bytes"), ({"identity": Path("/dev/null/x")}, "x")],
)
def test_settings_that_cannot_work_are_refused(named, expected):
    with pytest.raises(SetupError, match=expected):
        Node(FakeNetwork(), "n0", **named)


def test_leaving_before_running_is_no_error():
    asyncio.run(Node(FakeNetwork(), "n0").membership.leave())
