"""Calls, pieces and their ends over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from mesh.errors import (
    ConnectionLost,
    DeadlineExceeded,
    LocalProtocolError,
    MeshError,
    NotFound,
    Overloaded,
    PeerTimeout,
    RoleError,
    SetupError,
    TooLarge,
    Unreachable,
)
from mesh.net import peers as peers_module
from mesh.net.peer import HANDSHAKE_S, Peer
from mesh.net.peers import Peers, Reply
from mesh.settings.schema import Limits
from mesh.wire import connection
from mesh.wire.frames import PREAMBLE
from mesh.wire.handshake import Hello
from mesh.wire.messages import Answer, Call, Piece
from mesh.wire.pulse import QUIET_S, SILENCE_S, TICK_S

pytestmark = pytest.mark.live

LIMITS = Limits()


def node(name: str, *, mesh: str = "demo", secret: str = "", limits: Limits = LIMITS) -> Peers:
    return Peers(mesh_name=mesh, node=name, secret=secret, limits=limits)


class Two:
    """A client and a server that listens."""

    def __init__(self, client: Peers, server: Peers, address: str) -> None:
        self.client = client
        self.server = server
        self.address = address

    async def call(self, to: str, **fields: object) -> Answer:
        return (await self.client.call(self.address, Call(to=to, fields=fields))).answer


@asynccontextmanager
async def two(client: Peers | None = None, server: Peers | None = None) -> AsyncIterator[Two]:
    client, server = client or node("client"), server or node("server")
    address = await server.listen("127.0.0.1:0")
    try:
        yield Two(client, server, address)
    finally:
        await client.aclose()
        await server.aclose()


def run(scenario: Callable[[Two], Awaitable[None]], **sides: Peers) -> None:
    """Run a scenario between two nodes, and check that it leaves no task behind."""

    async def main() -> None:
        async with asyncio.timeout(20), two(**sides) as pair:
            await scenario(pair)
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    asyncio.run(main())


async def echo(call: Call, reply: Reply) -> Answer:
    return Answer(call.fields)


async def count_to(call: Call, reply: Reply) -> Answer:
    for index in range(call.fields["n"]):
        await reply.send(Piece({"i": index}))
    return Answer({"n": call.fields["n"]})


class Held:
    """A handler that waits to be let go, and says what became of it."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = asyncio.Event()
        self.was_cancelled = False

    async def __call__(self, call: Call, reply: Reply) -> Answer:
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()
        return Answer({})


# Calls.


def test_many_calls_share_one_connection_and_none_is_mixed_up() -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("echo", echo)
        answers = await asyncio.gather(*(pair.call("echo", i=index) for index in range(500)))
        assert list(range(500)) == [answer.fields["i"] for answer in answers]
        edge = pair.client.statistics()[pair.address]
        assert ("server", 500, 0, 0) == (
            edge["node"],
            edge["requests"],
            edge["failures"],
            edge["in_flight"],
        )
        assert 1 == len(pair.server._others)

    run(scenario)


def test_a_quick_call_does_not_wait_for_a_slow_one() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        pair.server.serve("echo", echo)
        slow = asyncio.create_task(pair.call("held"))
        await held.entered.wait()
        await pair.call("echo")
        assert not slow.done()
        held.go.set()
        await slow

    run(scenario)


@pytest.mark.parametrize("length", [0, 1000, 300_000, 2_000_000])
def test_arrays_come_back(length: int) -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("echo", echo)
        array = np.arange(length, dtype=np.float32)
        answer = await pair.call("echo", x=array)
        np.testing.assert_array_equal(array, answer.fields["x"])

    run(scenario)


def test_services_are_found_by_name_then_by_prefix() -> None:
    async def scenario(pair: Two) -> None:
        async def prefix(call: Call, reply: Reply) -> Answer:
            return Answer({"to": call.to, "node": reply.node})

        pair.server.serve("role/", prefix)
        pair.server.serve("role/echo", echo)
        assert {"to": "role/x", "node": "client"} == (await pair.call("role/x")).fields
        assert {} == (await pair.call("role/echo")).fields
        with pytest.raises(NotFound, match="nothing"):
            await pair.call("nothing")

    run(scenario)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (Overloaded("full", retry_after_s=0.5), Overloaded),
        (RoleError("bad item"), RoleError),
        (ValueError("a bug"), RoleError),
    ],
)
def test_errors_of_a_handler_reach_the_caller(raised: Exception, expected: type) -> None:
    async def scenario(pair: Two) -> None:
        async def fail(call: Call, reply: Reply) -> Answer:
            raise raised

        pair.server.serve("fail", fail)
        with pytest.raises(expected) as caught:
            await pair.call("fail")
        assert "server" == caught.value.node
        assert getattr(raised, "retry_after_s", None) == caught.value.retry_after_s

    run(scenario)


def test_values_that_cannot_travel_fail_their_call_only() -> None:
    async def scenario(pair: Two) -> None:
        async def strange(call: Call, reply: Reply) -> Answer:
            return Answer({"x": object()})

        pair.server.serve("echo", echo)
        pair.server.serve("strange", strange)
        with pytest.raises(LocalProtocolError):
            await pair.call("echo", x=object())
        with pytest.raises(LocalProtocolError):
            await pair.call("strange")
        await pair.call("echo")

    run(scenario)


def test_messages_beyond_the_limit_fail_their_call_only() -> None:
    async def scenario(pair: Two) -> None:
        async def much(call: Call, reply: Reply) -> Answer:
            return Answer({"x": bytes(200_000)})

        pair.server.serve("much", much)
        pair.server.serve("echo", echo)
        with pytest.raises(TooLarge):
            await pair.call("echo", x=bytes(200_000))
        with pytest.raises(TooLarge):
            await pair.call("much")
        await pair.call("echo", x=bytes(90_000))

    small = Limits(frame_bytes_max=100_000)
    run(scenario, client=node("client", limits=small), server=node("server", limits=small))


def test_calls_beyond_the_limit_are_refused() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        calls = [asyncio.create_task(pair.call("held")) for _ in range(3)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert [Overloaded] == [type(task.exception()) for task in done]
        held.go.set()
        await asyncio.wait(calls)

    run(scenario, server=node("server", limits=Limits(requests_max=2)))


# Time.


def test_a_call_ends_at_its_deadline_and_so_does_its_handler() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        began_s = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await pair.client.call(pair.address, Call(to="held", deadline_ms=50))
        assert 0.05 <= time.monotonic() - began_s < 1
        await held.ended.wait()
        assert held.was_cancelled

    run(scenario)


def test_a_server_keeps_deadlines_of_a_caller_who_does_not() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        call = Call(to="held", deadline_ms=30)
        task = asyncio.create_task(pair.client.call(pair.address, call))
        await held.entered.wait()
        peer = pair.client._peers[pair.address]
        for waiting in peer._calls._waiting.values():
            waiting.deadline_s += 100
        with pytest.raises(DeadlineExceeded, match="server did not finish"):
            await task

    run(scenario)


@pytest.mark.parametrize("deadline_ms", [0, -5, 1 << 62])
def test_odd_deadlines_do_no_harm(deadline_ms: int) -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("echo", echo)
        await pair.call("echo")
        call = Call(to="echo", deadline_ms=deadline_ms)
        try:
            await pair.client.call(pair.address, call)
        except DeadlineExceeded:
            assert deadline_ms <= 0
        await pair.call("echo")

    run(scenario)


def test_time_on_the_way_is_told_apart_from_time_at_the_server() -> None:
    async def scenario(pair: Two) -> None:
        async def nap(call: Call, reply: Reply) -> Answer:
            await asyncio.sleep(0.05)
            return Answer({})

        pair.server.serve("nap", nap)
        await pair.client.call(pair.address, Call(to="nap"))
        began_s = time.monotonic()
        answered = await pair.client.call(pair.address, Call(to="nap"))
        took_ms = (time.monotonic() - began_s) * 1000
        assert 0 <= answered.network_ms <= took_ms - 49

    run(scenario)


def test_rtt_and_clock_offset_are_measured() -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("echo", echo)
        await pair.call("echo")
        await pair.call("echo")
        edge = pair.client.statistics()[pair.address]
        assert 0 < edge["rtt_ms"] < 1000
        assert abs(edge["clock_offset_ms"]) < 1000

    run(scenario)


# Cancelling, and losing the connection.


def test_a_caller_who_goes_away_cancels_the_handler() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        task = asyncio.create_task(pair.call("held"))
        await held.entered.wait()
        task.cancel()
        await held.ended.wait()
        assert held.was_cancelled
        assert 0 == pair.client.statistics()[pair.address]["in_flight"]

    run(scenario)


def test_a_lost_connection_fails_all_calls_at_once_and_is_made_anew() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        pair.server.serve("echo", echo)
        calls = [asyncio.create_task(pair.call("held")) for _ in range(5)]
        await held.entered.wait()
        for each in list(pair.server._others):
            each._transport.abort()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [ConnectionLost] * 5 == [type(result) for result in results]
        await held.ended.wait()
        assert held.was_cancelled
        await pair.call("echo")
        assert 6 == pair.client.statistics()[pair.address]["requests"]

    run(scenario)


def test_dropping_an_address_fails_its_calls() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        task = asyncio.create_task(pair.call("held"))
        await held.entered.wait()
        pair.client.drop(pair.address)
        pair.client.drop("127.0.0.1:1")
        with pytest.raises(ConnectionLost):
            await task
        await held.ended.wait()

    run(scenario)


def test_a_server_that_leaves_fails_calls_so_that_they_go_elsewhere() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        task = asyncio.create_task(pair.call("held"))
        await held.entered.wait()
        await pair.server.aclose()
        with pytest.raises(ConnectionLost):
            await task
        assert held.was_cancelled
        with pytest.raises(Unreachable):
            await pair.call("held")

    run(scenario)


def test_a_silent_peer_is_given_up() -> None:
    """Half-open: its machine lost power, or a firewall swallows everything."""

    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        task = asyncio.create_task(pair.call("held"))
        await held.entered.wait()
        peer = pair.client._peers[pair.address]
        peer.tick()
        assert not task.done()
        peer.pulse.heard_s -= QUIET_S + 1
        peer.tick()
        assert (pair.client.quiet(), task.done()) == ({pair.address}, False)
        peer.pulse.heard_s -= SILENCE_S + 1
        peer.tick()
        assert pair.client.quiet() == set()
        with pytest.raises(PeerTimeout):
            await task
        assert {"peer_timeout": 1} == pair.client.endings

    run(scenario)


def test_a_stranger_that_says_nothing_is_let_go() -> None:
    """Neither a first byte nor a greeting may hold a socket for ever."""

    async def scenario(pair: Two) -> None:
        host, port = pair.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        while not pair.server._others:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0)
        [door] = pair.server._others
        for _ in range(int(HANDSHAKE_S / TICK_S)):
            door.tick()
        assert b"" == await reader.read()
        writer.close()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREAMBLE)
        while not any(isinstance(one, Peer) for one in pair.server._others):  # noqa: ASYNC110
            await asyncio.sleep(0)
        [greeted] = pair.server._others
        greeted._made_s -= HANDSHAKE_S + 1
        greeted.tick()
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        assert {"silent": 1, "refused": 1} == +pair.server.endings

    run(scenario)


# Connecting.


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_a_dead_address_is_unreachable_and_not_tried_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        client, address = node("client"), f"127.0.0.1:{free_port()}"
        with pytest.raises(Unreachable, match=address):
            await client.call(address, Call(to="x"))
        tried = []
        monkeypatch.setattr(client, "_dial", tried.append)
        with pytest.raises(Unreachable, match=address):
            await client.call(address, Call(to="x"))
        assert tried == []
        assert {"unreachable": 1} == client.endings
        await client.aclose()

    asyncio.run(main())


def test_a_node_that_comes_back_is_reached_after_the_pause() -> None:
    async def main() -> None:
        client, server, address = node("client"), node("server"), f"127.0.0.1:{free_port()}"
        server.serve("echo", echo)
        with pytest.raises(Unreachable):
            await client.call(address, Call(to="echo"))
        await server.listen(address)
        client._failures[address].again_s = 0
        await client.call(address, Call(to="echo"))
        assert {} == client._failures
        await client.aclose()
        await server.aclose()

    asyncio.run(main())


def test_an_address_that_never_answers_costs_the_connect_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers_module, "CONNECT_S", 0.05)

    async def main() -> None:
        # The system accepts for it, but nobody greets.
        silent = socket.create_server(("127.0.0.1", 0))
        host, port = silent.getsockname()
        client = node("client")
        with pytest.raises(Unreachable, match=r"0\.05"):
            await client.call(f"{host}:{port}", Call(to="x"))
        client._failures.clear()
        with pytest.raises(DeadlineExceeded):
            await client.call(f"{host}:{port}", Call(to="x", deadline_ms=10))
        await client.aclose()
        silent.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "address", ["", "nowhere", "host:", ":1", "h:99999", "h:x", "\0:1", "a" * 70 + ":1"]
)
def test_addresses_that_are_none_are_unreachable(address: str) -> None:
    async def main() -> None:
        client = node("client")
        with pytest.raises(Unreachable):
            await client.call(address, Call(to="x"))
        await client.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        ({"mesh": "other"}, "expected mesh 'other', found 'demo'"),
        ({"secret": "wrong"}, "wrong mesh secret"),
        ({}, "expected no mesh secret, found one"),
    ],
)
def test_strangers_are_refused_with_the_reason(client: dict[str, str], reason: str) -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("echo", echo)
        with pytest.raises(Unreachable, match=reason):
            await pair.call("echo")
        assert 1 == pair.client.endings["unreachable"]

    run(scenario, client=node("client", **client), server=node("server", secret="right"))


def test_a_node_of_another_version_is_refused_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes again after each pause; both sides say why, and once. Mended, it gets in."""
    version = {"client": 2, "server": 1}

    def hello(**fields: Any) -> Hello:
        return Hello(version=version[fields["node"]], **fields)

    monkeypatch.setattr(connection, "Hello", hello)

    async def scenario(pair: Two) -> None:
        pair.server.serve("echo", echo)
        for _ in range(3):
            with pytest.raises(Unreachable, match="expected protocol version 2, found 1"):
                await pair.call("echo")
            pair.client._failures.clear()
        while pair.server.endings["refused"] < 3:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0)
        reasons = [record.reason for record in caplog.records]
        assert ["expected protocol version 1, found 2", "expected protocol version 2, found 1"] == (
            sorted(reasons)
        )
        version["client"] = 1
        await pair.call("echo")

    run(scenario)


def test_nodes_with_the_secret_get_in() -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("echo", echo)
        await pair.call("echo")

    run(scenario, client=node("client", secret="s"), server=node("server", secret="s"))


def test_rubbish_closes_its_connection_only() -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("echo", echo)
        await pair.call("echo")
        host, port = pair.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"" == await reader.read()
        writer.close()
        await pair.call("echo")

    run(scenario)


def test_a_port_in_use_is_a_setup_error() -> None:
    async def scenario(pair: Two) -> None:
        with pytest.raises(SetupError, match="is taken by another"):
            await node("other").listen(pair.address)

    run(scenario)


def test_a_free_port_is_free_for_datagrams_too() -> None:
    async def scenario(pair: Two) -> None:
        host, port = pair.address.split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((host, int(port)))

    run(scenario)


# Pieces.

PIECES = Call(to="count", fields={"n": 5}, wants_pieces=True)


def test_pieces_arrive_in_order_and_the_answer_last() -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("count", count_to)
        items = [item async for item in pair.client.stream(pair.address, PIECES)]
        assert [*(Piece({"i": i}) for i in range(5)), Answer({"n": 5})] == items

    run(scenario)


def test_pieces_go_up_while_others_come_down() -> None:
    async def scenario(pair: Two) -> None:
        async def double(call: Call, reply: Reply) -> Answer:
            total = 0
            async for piece in reply:
                total += piece.fields["x"]
                await reply.send(Piece({"x": piece.fields["x"] * 2}))
            assert await reply.receive() is None
            return Answer({"total": total})

        pair.server.serve("double", double)
        stream = pair.client.stream(pair.address, Call(to="double", wants_pieces=True))
        for x in range(50):
            await stream.send(Piece({"x": x}))
            assert Piece({"x": 2 * x}) == await anext(stream)
        await stream.finish()
        assert Answer({"total": 1225}) == await anext(stream)
        assert [] == [item async for item in stream]

    run(scenario)


def test_a_slow_reader_holds_back_the_handler() -> None:
    async def scenario(pair: Two) -> None:
        sent = 0

        async def flood(call: Call, reply: Reply) -> Answer:
            nonlocal sent
            for _ in range(200):
                await reply.send(Piece({"x": bytes(100_000)}))
                sent += 1
            return Answer({})

        pair.server.serve("flood", flood)
        pair.server.serve("echo", echo)
        stream = pair.client.stream(pair.address, Call(to="flood", wants_pieces=True))
        await anext(stream)
        for _ in range(20):
            await pair.call("echo")  # others are not held back
        assert sent <= 12  # a window of 1 MiB, and what was read
        assert 199 + 1 == len([item async for item in stream])
        assert 200 == sent

    run(scenario)


def test_a_slow_handler_holds_back_the_caller() -> None:
    async def scenario(pair: Two) -> None:
        go, read = asyncio.Event(), []

        async def slow(call: Call, reply: Reply) -> Answer:
            await go.wait()
            read.extend([piece async for piece in reply])
            return Answer({})

        pair.server.serve("slow", slow)
        stream = pair.client.stream(pair.address, Call(to="slow", wants_pieces=True))

        async def write() -> None:
            for _ in range(100):
                await stream.send(Piece({"x": bytes(100_000)}))

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(write(), 0.1)
        go.set()
        await stream.finish()
        assert Answer({}) == await anext(stream)
        assert 11 == len(read)

    run(scenario)


@pytest.mark.parametrize("how", ["aclose", "del"])
def test_letting_go_of_a_stream_cancels_the_handler(how: str) -> None:
    async def scenario(pair: Two) -> None:
        ended = asyncio.Event()

        async def endless(call: Call, reply: Reply) -> Answer:
            try:
                while True:
                    await reply.send(Piece({"x": bytes(1000)}))
            finally:
                ended.set()

        pair.server.serve("endless", endless)
        stream = pair.client.stream(pair.address, Call(to="endless", wants_pieces=True))
        await anext(stream)
        if how == "aclose":
            await stream.aclose()
            assert [] == [item async for item in stream]
        else:
            del stream
            gc.collect()
        await ended.wait()
        assert 0 == pair.client.statistics()[pair.address]["in_flight"]

    run(scenario)


def test_a_connection_lost_mid_stream_ends_reader_and_writer() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        call = Call(to="held", wants_pieces=True)
        stream = pair.client.stream(pair.address, call)

        async def write() -> None:
            while True:
                await stream.send(Piece({"x": bytes(100_000)}))

        writer = asyncio.create_task(write())
        reader = asyncio.create_task(anext(stream))
        await held.entered.wait()
        pair.client.drop(pair.address)
        results = await asyncio.gather(reader, writer, return_exceptions=True)
        assert [ConnectionLost, ConnectionLost] == [type(result) for result in results]
        await held.ended.wait()

    run(scenario)


def test_what_arrived_before_a_connection_was_lost_is_read_first() -> None:
    async def scenario(pair: Two) -> None:
        async def part(call: Call, reply: Reply) -> Answer:
            await reply.send(Piece({"x": 1}))
            await asyncio.Event().wait()
            raise AssertionError

        pair.server.serve("part", part)
        pair.server.serve("echo", echo)
        stream = pair.client.stream(pair.address, Call(to="part", wants_pieces=True))
        await stream.open()
        await pair.call("echo")
        pair.client.drop(pair.address)
        assert Piece({"x": 1}) == await anext(stream)
        with pytest.raises(ConnectionLost):
            await anext(stream)

    run(scenario)


def test_a_stream_ends_at_its_deadline() -> None:
    async def scenario(pair: Two) -> None:
        held = Held()
        pair.server.serve("held", held)
        call = Call(to="held", wants_pieces=True, deadline_ms=40)
        stream = pair.client.stream(pair.address, call)
        with pytest.raises(DeadlineExceeded):
            await anext(stream)
        with pytest.raises(MeshError):
            await stream.send(Piece({}))
        if held.entered.is_set():  # on a busy machine the deadline may come first
            await held.ended.wait()

    run(scenario)


def test_a_handler_that_fails_mid_stream_ends_it_with_its_error() -> None:
    async def scenario(pair: Two) -> None:
        async def breaks(call: Call, reply: Reply) -> Answer:
            await reply.send(Piece({"x": bytes(400_000)}))
            raise RoleError("no more")

        pair.server.serve("breaks", breaks)
        stream = pair.client.stream(pair.address, Call(to="breaks", wants_pieces=True))
        await anext(stream)
        with pytest.raises(RoleError, match="no more"):
            await anext(stream)

    run(scenario)


def test_a_reply_without_pieces_says_so() -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("count", count_to)
        with pytest.raises(LocalProtocolError, match="wants pieces"):
            await pair.call("count", n=1)

    run(scenario)


# Large messages.


def test_a_small_call_passes_a_large_one() -> None:
    async def scenario(pair: Two) -> None:
        order = []

        async def note(call: Call, reply: Reply) -> Answer:
            order.append(len(call.fields["x"]))
            return Answer({})

        pair.server.serve("note", note)
        await pair.call("note", x=b"")
        large = asyncio.create_task(pair.call("note", x=bytes(30 << 20)))
        await asyncio.sleep(0)
        await pair.call("note", x=b"small")
        await large
        assert [0, 5, 30 << 20] == order

    run(scenario)


@pytest.mark.slow
def test_many_large_messages_both_ways_at_once() -> None:
    async def scenario(pair: Two) -> None:
        pair.server.serve("echo", echo)
        pair.client.serve("echo", echo)
        back = await pair.client.listen("127.0.0.1:0")
        arrays = [np.full(500_000, index, np.float64) for index in range(20)]

        async def one(peers: Peers, address: str, array: np.ndarray) -> None:
            answered = await peers.call(address, Call(to="echo", fields={"x": array}))
            np.testing.assert_array_equal(array, answered.answer.fields["x"])

        await asyncio.gather(
            *(one(pair.client, pair.address, array) for array in arrays),
            *(one(pair.server, back, array) for array in arrays),
        )

    run(scenario)


def test_a_peer_that_does_not_read_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.net.peer.QUEUED_BYTES_MAX", 1 << 20)

    async def scenario(pair: Two) -> None:
        async def much(call: Call, reply: Reply) -> Answer:
            return Answer({"x": bytes(1 << 20)})

        pair.server.serve("much", much)
        calls = [asyncio.create_task(pair.call("much")) for _ in range(3)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        ours = pair.client._peers[pair.address]
        [theirs] = pair.server._others
        ours._transport.pause_reading()
        calls += [asyncio.create_task(pair.call("much")) for _ in range(20)]
        while not theirs._is_deaf:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0)
        ours._transport.resume_reading()
        await asyncio.gather(*calls)
        assert not theirs._is_deaf

    run(scenario)


# Calls that are told of, and served, without a task.


class Quick:
    """Tells what the call asks for, in the next turn of the loop; "later" waits for a test."""

    def __init__(self) -> None:
        self.waiting: list[Quick.Begun] = []
        self.cancelled = 0

    class Begun:
        """A call under way."""

        def __init__(self, quick: Quick, tell: Callable[[Answer | MeshError], None]) -> None:
            self.quick, self.tell = quick, tell

        def cancel(self) -> None:
            self.quick.cancelled += 1

    async def __call__(self, call: Call, reply: Reply) -> Answer:
        return Answer({"awaited": True})

    def start(self, call: Call, tell: Callable[[Answer | MeshError], None]) -> Begun | None:
        what = call.fields["what"]
        if what == "a task":
            return None
        if what == "refuse":
            raise Overloaded("no place")
        if what == "break":
            raise ZeroDivisionError
        outcomes = {
            "fail": RoleError("no more"),
            "too long": Answer({"x": bytes(70_000)}),
            "no value": Answer({"x": object()}),
        }
        if what == "later":
            self.waiting.append(self.Begun(self, tell))
            return self.waiting[-1]
        loop = asyncio.get_running_loop()
        loop.call_soon(tell, outcomes.get(what, Answer({"told": what})))
        return self.Begun(self, tell)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("x", {"told": "x"}),
        ("a task", {"awaited": True}),
        ("refuse", "overloaded"),
        ("break", "role_error"),
        ("fail", "role_error"),
        ("too long", "too_large"),
        ("no value", "local_protocol_error"),
    ],
)
def test_a_call_without_a_task_ends_as_one_with(what: str, expected: object) -> None:
    """On either side, in any combination; and the connection lives on."""

    async def scenario(pair: Two) -> None:
        pair.server.serve("quick", Quick())
        call = Call(to="quick", fields={"what": what})
        assert pair.client.start(pair.address, call, print) is None  # no connection yet
        found: list[object] = []
        try:
            found.append((await pair.client.call(pair.address, call)).answer.fields)
        except MeshError as error:
            found.append(error.code)
        told = asyncio.get_running_loop().create_future()
        assert pair.client.start(pair.address, call, told.set_result) is not None
        outcome = await told
        found.append(outcome.code if isinstance(outcome, MeshError) else outcome.answer.fields)
        assert [expected, expected] == found
        assert {"told": "y"} == (await pair.call("quick", what="y")).fields

    run(scenario, client=node("client", limits=Limits(frame_bytes_max=1 << 16)))


def test_a_call_without_a_task_is_given_up_like_one_with() -> None:
    """By its caller, by its deadline, by the end of the connection: told once, or not at all."""

    async def scenario(pair: Two) -> None:
        quick, told = Quick(), []
        pair.server.serve("quick", quick)
        await pair.call("quick", what="x")
        begun = []
        for ms in (60_000, 60_000, 30):
            call = Call(to="quick", fields={"what": "later"}, deadline_ms=ms)
            begun.append(pair.client.start(pair.address, call, told.append))
        await _until(lambda: len(quick.waiting) == 3)
        begun[0].cancel()
        begun[0].cancel()
        await _until(lambda: told and quick.cancelled == 2)
        pair.client.drop(pair.address)
        await _until(lambda: quick.cancelled == 3)
        assert [DeadlineExceeded, ConnectionLost] == [type(each) for each in told]
        for late in quick.waiting:
            late.tell(Answer({}))  # nobody hears it

    run(scenario)


async def _until(is_true: Callable[[], object]) -> None:
    while not is_true():  # noqa: ASYNC110 - nobody is told of it
        await asyncio.sleep(0)
