"""The front answers as aiohttp would: each request goes both ways, and nobody can tell which."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import zlib
from contextlib import asynccontextmanager
from random import Random

import pytest

from mesh.api import fallback, front
from mesh.api.head import BODY_BYTES_MAX
from mesh.settings.schema import Limits, Security
from tests.support.live import mesh, wait_idle, wait_until
from tests.support.roles import Spell
from tests.support.topologies import pipeline, role

pytestmark = pytest.mark.live

TEXT = (
    '[mesh]\nname = "front"\n'
    + role("count", "Count", "n0")
    + role("slow", "Shout", "n0", sleep_s=0.1)
    + role("spell", "Spell", "n0")
    + pipeline("p", "query", "n", ("count", "text=query", "count=n"))
)
GOOD = b'{"text":"abc"}'


def post(path="/v1/roles/count", body=GOOD, *lines, host="localhost", length=None):
    """Return the bytes of a request."""
    size = len(body) if length is None else length
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {size}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chunked(body=GOOD):
    head = b"POST /v1/roles/count HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


ASK = "/v1/pipelines/p"
PLAIN = {
    "role": post(),
    "pipeline": post(ASK, b'{"query":"abcdefghijkl"}'),
    "named in the body": post(ASK, b'{"query":"x","request_id":"mine"}'),
    "named in the head": post(ASK, b'{"query":"x"}', "X-Request-ID: mine-2"),
    "named twice": post(ASK, b'{"query":"x","request_id":"a"}', "X-Request-ID: b"),
    "no stream": post(ASK, b'{"query":"x","stream":false}'),
    "traced": post("/v1/roles/count", GOOD, f"traceparent: 00-{'a' * 32}-{'b' * 16}-01"),
    "urgent": post("/v1/roles/count", GOOD, "X-Priority: critical", "X-Deadline-Ms: 900"),
    "kept": post("/v1/roles/count", GOOD, "Connection: keep-alive", "User-Agent: x"),
    "streaming role, whole": post("/v1/roles/spell", b'{"text":"ab"}'),
    "role fails": post("/v1/roles/spell", b'{"text":"FAIL"}'),
    "too late": post("/v1/roles/slow", GOOD, "X-Deadline-Ms: 20"),
    "no time": post("/v1/roles/count", GOOD, "X-Deadline-Ms: 0"),
    "no json": post(body=b"{bad"),
    "not utf-8": post(body=b"\xff\xfe"),
    "no object": post(body=b"[1]"),
    "wrong type": post(body=b'{"text":5}'),
    "missing field": post(body=b'{"other":5}'),
    "no string": post(ASK, b'{"query":5}'),
    "unknown input": post(ASK, b'{"query":"x","more":1}'),
    "bad id": post(ASK, b'{"query":"x","request_id":"a b"}'),
    "bad field of a named one": post(ASK, b'{"query":5,"request_id":"mine-3"}'),
}
ODD = {
    "chunked": chunked(),
    "stream": post(ASK, b'{"query":"x","stream":true}'),
    "stream of a role": post("/v1/roles/spell", b'{"text":"ab","stream":true}'),
    "stream hidden": post(ASK, b'{"query":"x","str\\u0065am":true}'),
    "stream wrong": post(ASK, b'{"query":"x","stream":1}'),
    "wants events": post(ASK, b'{"query":"x"}', "Accept: text/event-stream"),
    "expects": post("/v1/roles/count", GOOD, "Expect: 100-continue"),
    "last": post("/v1/roles/count", GOOD, "Connection: close"),
    "old": post().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "old, kept": post("/v1/roles/count", GOOD, "Connection: keep-alive").replace(b"/1.1", b"/1.0"),
    "query": post("/v1/roles/count?a=b"),
    "escaped": post("/v1/roles/c%6funt"),
    "unknown role": post("/v1/roles/nobody"),
    "no such route": post("/v1/nothing/x"),
    "head": b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "get": b"GET /v1/roles HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "get a role": b"GET /v1/roles/count HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "options": b"OPTIONS /v1/roles/count HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "empty": post(body=b""),
    "stranger": post(host="evil.example"),
    "page": post("/v1/roles/count", GOOD, "Origin: http://evil.example"),
    "two hosts": post("/v1/roles/count", GOOD, "Host: localhost"),
    "two lengths": post("/v1/roles/count", GOOD, "Content-Length: 3"),
    "both framings": post("/v1/roles/count", GOOD, "Transfer-Encoding: chunked"),
    "bad priority": post("/v1/roles/count", GOOD, "X-Priority: urgent"),
    "bad deadline": post("/v1/roles/count", GOOD, "X-Deadline-Ms: soon"),
    "bad id in the head": post("/v1/roles/count", GOOD, "X-Request-ID: a b"),
    "large": post(body=json.dumps({"text": "x" * (BODY_BYTES_MAX + 9)}).encode()),
    "too large": post(body=b"x" * ((1 << 20) + 1)),
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "websocket": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n",
    "upgrade of a post": post("/v1/roles/count", GOOD, "Connection: upgrade", "Upgrade: h2c"),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "many headers": post("/v1/roles/count", GOOD, *(f"X-{n}: a" for n in range(62))),
    "too many headers": post("/v1/roles/count", GOOD, *(f"X-{n}: a" for n in range(70))),
    "long header": post("/v1/roles/count", GOOD, f"X-Long: {'a' * 8100}"),
    "too long header": post("/v1/roles/count", GOOD, f"X-Long: {'a' * 9000}"),
    "long path": post(f"/v1/roles/{'a' * 9000}"),
    "trailers": chunked()[:-2] + b"X-Sum: 1\r\n\r\n",
    "bad chunk": chunked().replace(b"\r\n\r\ne\r\n", b"\r\n\r\nzz\r\n"),
    "compressed": post("/v1/roles/count", zlib.compress(GOOD), "Content-Encoding: deflate"),
    "lone line feeds": post().replace(b"\r\n", b"\n"),
}


@asynccontextmanager
async def both(folder, **parts):
    """Run a node; give it with the ports of its front and of aiohttp alone."""
    async with mesh(folder, count=1, text=TEXT, **parts) as (nodes, _):
        loop, site = asyncio.get_running_loop(), nodes[0]._site
        plain = await loop.create_server(site._front.fallback, "127.0.0.1", 0)
        ports = [int(nodes[0].http_address.rpartition(":")[2]), plain.sockets[0].getsockname()[1]]
        try:
            yield nodes[0], ports
        finally:
            plain.close()


def counting(monkeypatch):
    """Return a list that grows by each connection that the front hands over."""
    handed, hand_over = [], front.Connection.hand_over

    def counted(self):
        handed.append(self._buffer)
        hand_over(self)

    monkeypatch.setattr(front.Connection, "hand_over", counted)
    return handed


async def ask(port, pieces, answers=1):
    """Return what a server answers to bytes that come in pieces, as far as it can be compared."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            for _ in range(3):  # the server runs in this loop: it reads this piece alone
                await asyncio.sleep(0)
        async with asyncio.timeout(5):
            return [await read(reader, pieces[0][:4]) for _ in range(answers)]
    finally:
        writer.close()


async def read(reader, method=b"POST"):
    """Return status, headers and body of one answer, without ids, dates and times."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        return ("closed", error.partial)
    if head.startswith("HTTP/1.1 100"):
        return ("go on", await read(reader))
    status, *lines = head.strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    if headers.get("Transfer-Encoding") == "chunked" or "Content-Length" not in headers:
        body = await reader.readuntil(b"0\r\n\r\n") if "Content-Type" in headers else b""
        body = re.sub(rb"(^|\r\n)[0-9a-f]+\r\n", b"", body)  # sizes, which times change
    else:
        body = (
            b"" if method == b"HEAD" else await reader.readexactly(int(headers["Content-Length"]))
        )
    for name in ("Date", "Server", "Content-Length"):
        headers.pop(name, None)
    drawn = headers.get("X-Request-ID", "-")
    if re.fullmatch("[0-9a-f]{16}", drawn):
        headers["X-Request-ID"] = "drawn"
        body = body.replace(drawn.encode(), b"drawn")
    body = re.sub(rb'"(\w+_ms)":[0-9.e-]+', rb'"\1":0', body)
    return status, headers, re.sub(rb'"cached":(true|false)', b'"cached":0', body)


@pytest.mark.parametrize("kind", ["plain", "odd"])
def test_answers_are_those_of_aiohttp(tmp_path, monkeypatch, kind):
    """Good, bad and odd; and only what is odd is handed over."""
    handed = counting(monkeypatch)

    async def main():
        async with both(tmp_path) as (node, ports):
            for name, data in (PLAIN if kind == "plain" else ODD).items():
                handed.clear()
                ours, theirs = [await ask(port, [data]) for port in ports]
                assert ours == theirs, name
                assert len(handed) == (kind == "odd"), name
            await wait_idle([node])

    asyncio.run(main())


@pytest.mark.slow
def test_pieces_make_no_difference(tmp_path):
    """Split anywhere, and with other requests before and behind on the same connection."""
    draw = Random(7)
    good = [data for name, data in PLAIN.items() if name != "too late"]
    odd = [ODD[name] for name in ("chunked", "query", "get", "unknown role", "escaped", "large")]

    async def main():
        async with both(tmp_path) as (node, ports):
            for _ in range(120):
                asked = draw.choices(good, k=draw.randrange(1, 5))
                asked += draw.choices(odd, k=draw.randrange(2)) + draw.choices(good, k=1)
                data = b"".join(asked)
                cuts = sorted(draw.choices(range(len(data)), k=draw.randrange(6)))
                pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
                ours, theirs = [await ask(port, pieces, len(asked)) for port in ports]
                assert ours == theirs, (asked, cuts)
            for place in range(1, len(post())):
                ours = await ask(ports[0], [post()[:place], post()[place:]])
                assert ours[0][0] == "HTTP/1.1 200 OK", place
            await wait_idle([node])

    asyncio.run(main())


def test_requests_in_a_row_are_answered_in_order(tmp_path, monkeypatch):
    """Also when a later one would be ready sooner."""
    handed = counting(monkeypatch)

    async def main():
        async with both(tmp_path) as (_node, ports):
            kinds = ["slow", "count", "slow", "count", "count"]
            data = b"".join(
                post(f"/v1/roles/{kind}", GOOD, f"X-Request-ID: r{number}")
                for number, kind in enumerate(kinds)
            )
            answers = await ask(ports[0], [data], len(kinds))
            assert [headers["X-Request-ID"] for _, headers, _ in answers] == [
                "r0", "r1", "r2", "r3", "r4",
            ]  # fmt: skip
            assert handed == []

    asyncio.run(main())


def test_what_comes_slowly_is_left_to_aiohttp(tmp_path, monkeypatch):
    """Which answers it when it is whole, or closes it in its own time."""
    handed = counting(monkeypatch)
    monkeypatch.setattr(front, "PATIENCE_S", 0.02)

    async def main():
        async with both(tmp_path) as (_node, ports):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
            data = post()
            writer.write(data[:-3])
            await wait_until(lambda: handed == [data[:-3]])
            writer.write(data[-3:])
            assert (await read(reader))[0] == "HTTP/1.1 200 OK"
            writer.close()

    asyncio.run(main())


def test_idle_connections_are_closed_in_time(tmp_path, monkeypatch):
    """Whether they were used or not."""
    monkeypatch.setattr(front, "IDLE_LOOK_S", 0.01)

    async def main():
        async with both(tmp_path) as (node, ports):
            node._site._front._keepalive_s = 0.1
            used = await asyncio.open_connection("127.0.0.1", ports[0])
            fresh = await asyncio.open_connection("127.0.0.1", ports[0])
            used[1].write(post())
            assert (await read(used[0]))[0] == "HTTP/1.1 200 OK"
            for reader, writer in (used, fresh):
                assert await reader.read() == b""
                writer.close()
            assert not node._site._front.connections

    asyncio.run(main())


@pytest.mark.parametrize("role", ["slow", "spell"])
def test_a_client_that_goes_away_ends_its_work(tmp_path, role):
    """Be it told of or awaited: nothing is held for it."""

    async def main():
        async with both(tmp_path) as (node, ports):
            body = b'{"text":"FOREVER"}'
            _, writer = await asyncio.open_connection("127.0.0.1", ports[0])
            writer.write(post(f"/v1/roles/{role}", body))
            await wait_until(lambda: node.admission.active == 1)
            writer.transport.abort()
            await wait_until(lambda: node.admission.active == 0)
            await wait_idle([node])
            assert Spell.running == 0
            assert node.parts.metrics.http_active == 0
            assert b'status="499"' in node.parts.metrics.text()

    asyncio.run(main())


def test_a_client_that_does_not_read_is_not_answered_for_ever(tmp_path):
    """Its requests wait with it: neither answers nor requests pile up here."""

    async def main():
        async with both(tmp_path) as (node, ports):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", ports[0]))
            _, writer = await asyncio.open_connection(sock=sock)
            writer.transport.pause_reading()
            data = post(body=b'{"text":"%b","request_id":"r"}' % (b"x" * 100)) * 2000
            asked = asyncio.create_task(_write(writer, data * 20))
            (connection,) = await _connections(node)
            await wait_until(lambda: connection._is_paused and connection._is_deaf)
            total = node.admission.total
            for _ in range(20):
                await asyncio.sleep(0)
            assert node.admission.total == total
            assert len(connection._buffer) < 1 << 20
            asked.cancel()
            writer.transport.abort()
            await wait_idle([node])

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/roles/count", "/v1/roles/count?aiohttp"])
def test_a_client_that_never_reads_is_cut_off(tmp_path, monkeypatch, path):
    """By the kernel, which sees that nothing is taken; one that reads slowly is not."""
    monkeypatch.setattr(front, "UNREAD_S", 0.3)

    async def main():
        async with both(tmp_path) as (node, ports):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", ports[0]))
            _, writer = await asyncio.open_connection(sock=sock)
            writer.transport.pause_reading()
            data = post(path, b'{"text":"%b","request_id":"r"}' % (b"x" * 100)) * 20_000
            asked = asyncio.create_task(_write(writer, data))
            doors = node._site._front
            await wait_until(lambda: doors.connections or doors._handed_over)
            await wait_until(lambda: not doors.connections and not doors._handed_over)
            asked.cancel()
            writer.transport.abort()
            await wait_idle([node])

    asyncio.run(main())


async def _write(writer, data):
    writer.write(data)
    await writer.drain()


async def _connections(node):
    await wait_until(lambda: node._site._front.connections)
    return tuple(node._site._front.connections)


def test_keys_limits_and_a_full_door_hold_here_too(tmp_path):
    """A head that was good once is asked for its key again."""

    async def main():
        security = Security(api_keys=("right",))
        limits = Limits(body_bytes_max=200, requests_max=1)
        async with both(tmp_path, security=security, limits=limits) as (node, ports):
            long = b'{"text":"%b"}' % (b"x" * 200)
            for key, body in (("right", GOOD), ("wrong", GOOD), ("", GOOD), ("right", long)):
                data = post("/v1/roles/count", body, f"Authorization: Bearer {key}")
                ours, theirs = [await ask(port, [data]) for port in ports]
                assert ours == theirs, key
            with node.admission:
                data = post("/v1/roles/count", GOOD, "Authorization: Bearer right")
                ours, theirs = [await ask(port, [data]) for port in ports]
                assert ours == theirs
                assert ours[0][0] == "HTTP/1.1 503 Service Unavailable"
            node.admission.drain()
            ours, theirs = [await ask(port, [data]) for port in ports]
            assert ours == theirs
            assert b"draining" in ours[0][2]
            assert ours[0][1]["Connection"] == "close"

    asyncio.run(main())


def test_the_end_of_a_node_lets_the_answer_out(tmp_path):
    """And says that the connection ends with it."""

    async def main():
        async with both(tmp_path) as (node, ports):
            busy = await asyncio.open_connection("127.0.0.1", ports[0])
            idle = await asyncio.open_connection("127.0.0.1", ports[0])
            busy[1].write(post("/v1/roles/slow"))
            await wait_until(lambda: node.admission.active == 1)
            await node._site.aclose()
            status, headers, _ = await read(busy[0])
            assert (status, headers["Connection"]) == ("HTTP/1.1 200 OK", "close")
            assert await idle[0].read() == b""
            for _, writer in (busy, idle):
                writer.close()

    asyncio.run(main())


def test_a_door_that_drains_ends_each_connection_with_its_answer(tmp_path):
    """Whoever was let in before, too: nobody sends into a connection that is about to close."""

    async def main():
        async with both(tmp_path) as (node, ports):
            lines = [await asyncio.open_connection("127.0.0.1", port) for port in ports]
            for _, writer in lines:
                writer.write(post("/v1/roles/slow"))
            await wait_until(lambda: node.admission.active == 2)
            node.admission.drain()
            for reader, writer in lines:
                status, headers, _ = await read(reader)
                assert (status, headers["Connection"]) == ("HTTP/1.1 200 OK", "close")
                assert await reader.read() == b""
                writer.close()

    asyncio.run(main())


def test_counts_are_those_of_aiohttp(tmp_path):
    """Requests, pipelines and failures count alike, whoever answers."""

    async def main():
        async with both(tmp_path) as (node, ports):
            seen = []
            for port in ports:
                before = _counts(node)
                for name in ("role", "pipeline", "role fails", "no json"):
                    await ask(port, [PLAIN[name]])
                seen.append({key: n - before.get(key, 0) for key, n in _counts(node).items()})
            assert seen[0] == seen[1]
            assert len(seen[0]) > 10

    asyncio.run(main())


def _counts(node):
    lines = node.parts.metrics.text().decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if re.match(r"mesh_\w+_(total|count)", line))
    kept = ("mesh_http_request", "mesh_pipeline", "mesh_stage")
    return {key: float(n) for key, n in found.items() if key.startswith(kept)}


def test_errors_are_counted_by_their_codes(tmp_path):
    """Those of requests, those before a handler, and those of bytes that are no request."""

    async def main():
        async with both(tmp_path) as (node, ports):
            for port in ports:
                for data in (PLAIN["no json"], ODD["stranger"], ODD["garbage"]):
                    await ask(port, [data])
            text = node.parts.metrics.text().decode()
            assert 'mesh_http_errors_total{code="bad_request"} 4.0' in text
            assert 'mesh_http_errors_total{code="misdirected"} 2.0' in text

    asyncio.run(main())


def test_a_head_that_never_ends_is_not_waited_for(tmp_path, monkeypatch):
    """Be it plain so far or not; nor does it help to send a byte now and then."""
    monkeypatch.setattr(front, "PATIENCE_S", 0.02)
    monkeypatch.setattr(fallback, "HEAD_S", 0.1)

    async def main():
        async with both(tmp_path) as (node, ports):
            for begin in (b"POST /v1/roles/count HTTP/1.1\r\nX-", b"GET / HTTP/1.1\r\nX-"):
                reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
                writer.write(begin)
                async with asyncio.timeout(5):
                    while not reader.at_eof():
                        writer.write(b"a")
                        try:
                            async with asyncio.timeout(0.01):
                                assert await reader.read() == b""
                        except TimeoutError:
                            pass
                        except ConnectionResetError:
                            break  # our byte came to a socket that was closed
                writer.close()
            assert not node._site._front._handed_over

    asyncio.run(main())


def test_connections_beyond_the_limit_are_told_so(tmp_path):
    """Also when the others are aiohttp's; who leaves makes room."""

    async def main():
        async with both(tmp_path, limits=Limits(connections_max=2)) as (node, ports):
            plain = await asyncio.open_connection("127.0.0.1", ports[0])
            odd = await asyncio.open_connection("127.0.0.1", ports[0])
            for (reader, writer), data in ((plain, post()), (odd, ODD["get"])):
                writer.write(data)
                assert (await read(reader))[0] == "HTTP/1.1 200 OK"
            status, headers, body = (await ask(ports[0], [b""]))[0]
            assert (status, headers["Connection"]) == ("HTTP/1.1 503 Service Unavailable", "close")
            assert headers["Retry-After"] == "1"
            assert json.loads(body)["error"]["code"] == "overloaded"
            assert b'limit="door.connections",role=""} 1.0' in node.parts.metrics.text()
            odd[1].close()
            await wait_until(lambda: not node._site._front._handed_over)
            assert (await ask(ports[0], [post()]))[0][0] == "HTTP/1.1 200 OK"
            plain[1].close()

    asyncio.run(main())
