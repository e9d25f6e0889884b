"""The limits that only a socket shows: heads, idle connections, backlogs, floods, silence."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import pytest

from mesh import Client
from mesh import client as client_module
from mesh.api import app
from mesh.errors import DeadlineExceeded
from mesh.net import membership, peers
from mesh.settings.schema import Join
from tests.support.live import mesh, node_of, running, url, wait_until

pytestmark = pytest.mark.live

ALONE = '[mesh]\nname = "test"\n'


def test_a_head_beyond_the_parsers_limits_is_refused(tmp_path):
    async def main():
        async with mesh(tmp_path, ALONE, 1) as (nodes, http):
            many = {f"X-{number}": "x" for number in range(app.HEADERS_MAX + 1)}
            async with http.get(url(nodes[0], "/livez"), headers=many) as response:
                assert 400 == response.status
                assert "bad_request" == (await response.json())["error"]["code"]
            async with http.get(url(nodes[0], "/livez")) as response:
                assert 200 == response.status

    asyncio.run(main())


def test_a_body_that_never_ends_costs_its_deadline(tmp_path):
    """A connection held by half a body is a connection less for others."""

    async def main():
        async with mesh(tmp_path, ALONE, 1) as ((node,), _):
            host, port = node.http_address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = b"POST /admin/topology HTTP/1.1\r\nHost: localhost\r\nX-Deadline-Ms: 50\r\n"
            writer.write(head + b"Content-Length: 9\r\n\r\n{")
            async with asyncio.timeout(5.0):
                assert b"HTTP/1.1 504 Gateway Timeout\r\n" == await reader.readline()
            writer.close()

    asyncio.run(main())


def test_an_idle_connection_is_kept_as_long_as_said(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "KEEPALIVE_S", 0.05)

    async def main():
        async with mesh(tmp_path, ALONE, 1) as ((node,), _):
            host, port = node.http_address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(10.0):
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
                await reader.read()  # ends with the connection
            writer.close()

    asyncio.run(main())


def test_both_doors_listen_with_their_backlog(tmp_path):
    """Linux tells it in the state of the listening socket."""

    def backlog_of(sock: socket.socket) -> int:
        state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return struct.unpack_from("<7I", state, 8)[5]

    most = int(Path("/proc/sys/net/core/somaxconn").read_text())

    async def main():
        async with mesh(tmp_path, ALONE, 1) as ((node,), _):
            await wait_until(lambda: node.membership._tasks is not None)
            [door] = node.peers._server.sockets
            found = backlog_of(node._doors), backlog_of(door)
        assert (min(most, app.BACKLOG), min(most, peers.BACKLOG)) == found

    asyncio.run(main())


def test_gossip_reads_a_flood_in_turns_from_a_large_buffer(tmp_path, monkeypatch):
    """What is no packet is counted; alarms ring in between."""
    monkeypatch.setattr(membership, "DRAIN_MAX", 3)
    most = int(Path("/proc/sys/net/core/rmem_max").read_text())

    async def main():
        async with mesh(tmp_path, ALONE, 1) as ((node,), _):
            room = node.membership._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            assert room >= min(most, membership.RECEIVE_BUFFER_BYTES)
            host, port = node.peer_address.split(":")
            with socket.socket(type=socket.SOCK_DGRAM) as udp:
                for _ in range(50):
                    udp.sendto(b"rubbish", (host, int(port)))
            dropped = node.membership._dropped
            await wait_until(lambda: dropped["unreadable"] == 50)

    asyncio.run(main())


def test_who_finds_nobody_serves_alone_after_its_grace(tmp_path):
    async def main():
        seeds = Join(seeds=("127.0.0.1:9",), grace_s=0.2)  # nothing listens on the discard port
        async with running(node_of("n0", tmp_path, ALONE, join=seeds)) as (node,):
            assert node.why_not_ready()
            await wait_until(lambda: not node.why_not_ready())

    asyncio.run(main())


def test_a_node_that_says_nothing_costs_the_clients_deadline(monkeypatch):
    monkeypatch.setattr(client_module, "GRACE_S", 0.05)

    async def main():
        # The kernel takes the connection; nobody ever reads it.
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            async with asyncio.timeout(10.0), Client(address, deadline_s=0.05) as client:
                with pytest.raises(DeadlineExceeded):
                    await client.ask("ask", query="x")

    asyncio.run(main())
