"""Requests with faults, cut anywhere: the front answers as aiohttp alone, and nothing breaks."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.api import head
from mesh.api.front import Connection
from tests.live.test_front import ODD, PLAIN, post
from tests.support.live import mesh
from tests.support.topologies import pipeline, role

pytestmark = pytest.mark.live

TEXT = (
    '[mesh]\nname = "fuzz"\n'
    + role("count", "Count", "n0", lane="inline")
    + pipeline("p", "query", "n", ("count", "text=query", "count=n"))
)
QUIET_TURNS = 25  # of the loop, after which nothing more comes: roles compute in it
# "slow" and "spell" are not here: whoever asks for them finds no such role, which is fine too.
GOOD = [data for name, data in PLAIN.items() if name not in ("no time", "urgent")]
BASE = [*GOOD, *GOOD, *(data for name, data in ODD.items() if name != "head" and len(data) < 500)]
PARTS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff", b"{", b'"', b"0\r\n\r\n",
    b"\r\nContent-Length: 3", b"\r\nContent-Length: 14", b"\r\nTransfer-Encoding: chunked",
    b"\r\nHost: evil.example", b"\r\nConnection: close", b"\r\nExpect: 100-continue",
    b"\r\nX-Request-ID: mine", b"\r\nX-Deadline-Ms: -1", b"\r\nAccept: text/event-stream",
    b'"stream":true,', b'"request_id":"a b",', post(),
]  # fmt: skip


class Wire:
    """What a transport is to a protocol, without a socket."""

    def __init__(self, protocol):
        self.protocol, self.written = protocol, bytearray()
        self.is_closed, self.is_reading, self.fed = False, True, 0
        protocol.connection_made(self)

    def write(self, data):
        if not self.is_closed:
            self.written += data

    def writelines(self, parts):
        self.write(b"".join(parts))

    def close(self):
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self):
        return self.is_closed

    def set_protocol(self, protocol):
        self.protocol = protocol

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True

    def get_extra_info(self, _name, default=None):
        return default


async def said(make, pieces):
    """Return the answers of one side, and whether it closed the connection."""
    wire = Wire(make())
    for piece in pieces:
        if wire.is_closed:
            break
        assert wire.is_reading
        wire.fed += len(piece)
        wire.protocol.data_received(piece)
        await asyncio.sleep(0)
    await quiet(wire)
    if isinstance(wire.protocol, Connection):
        wire.protocol.hand_over()  # as it is once the front's patience has ended
        await quiet(wire)
    found = answers(bytes(wire.written)), wire.is_closed
    wire.close()
    await quiet(wire)
    return found


async def quiet(wire):
    """Wait until nothing more is said."""
    turns = 0
    while turns < QUIET_TURNS:
        before = len(wire.written), wire.is_closed
        await asyncio.sleep(0)
        turns = turns + 1 if (len(wire.written), wire.is_closed) == before else 0


def answers(data):
    """Return status, headers and body of each answer, without ids, dates and times."""
    found = []
    while data:
        first, _, data = data.partition(b"\r\n\r\n")
        status, *lines = first.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        if "Content-Length" in headers:
            length = int(headers["Content-Length"])
        else:  # events, or a word before the answer
            length = data.index(b"0\r\n\r\n") + 5 if "Transfer-Encoding" in headers else 0
        body, data = data[:length], data[length:]
        assert len(body) == length
        for name in ("Date", "Server", "Content-Length"):
            headers.pop(name, None)
        drawn = headers.get("X-Request-ID", "-")
        if re.fullmatch("[0-9a-f]{16}", drawn):
            headers["X-Request-ID"] = "drawn"
            body = body.replace(drawn.encode(), b"drawn")
        body = re.sub(rb"(^|\r\n)[0-9a-f]+\r\n", b"", body)
        body = re.sub(rb"(can be read: ).*?(\",\")", rb"\1\2", body)  # shows what came at once
        body = re.sub(rb'"(\w+_ms)":[0-9.e-]+', rb'"\1":0', body)
        found.append((status, headers, re.sub(rb'"cached":(true|false)', b'"cached":0', body)))
    return found


def later(pieces, fed):
    """Return the pieces that came after so many bytes."""
    for piece in pieces:
        if fed <= 0:
            yield piece
        fed -= len(piece)


def split(data):
    """Return the requests that the front has answered: each plain, and whole."""
    found = []
    while data:
        end = data.index(head.END) + len(head.END)
        end += head.read(data[: end - len(head.END)]).length
        found.append(data[:end])
        data = data[end:]
    return found


@st.composite
def conversations(draw):
    """Draw the bytes of some requests, with faults, in pieces."""
    data = b"".join(draw(st.lists(st.sampled_from(BASE), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.sampled_from([0, 0, 1, 1, 2, 20])))
        new = draw(st.one_of(st.sampled_from(PARTS), st.binary(max_size=3), st.just(b"")))
        data = data[:begin] + new + data[end:]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]


def test_a_pause_goes_over_with_the_connection(tmp_path):
    """Half a request behind an answer that is not read: aiohttp knows that it may not write."""

    async def main():
        async with mesh(tmp_path, count=1, text=TEXT) as ((node,), _):
            wire = Wire(node._site._front.accept())
            wire.protocol.data_received(post())
            await quiet(wire)
            wire.protocol.pause_writing()
            wire.protocol.data_received(post()[:-3])
            wire.protocol.hand_over()
            assert wire.protocol.writing_paused
            wire.protocol.data_received(post()[-3:])
            await quiet(wire)
            wire.protocol.resume_writing()
            await quiet(wire)
            assert [status for status, _, _ in answers(bytes(wire.written))] == [
                "HTTP/1.1 200 OK"
            ] * 2
            wire.close()
            await quiet(wire)

    asyncio.run(main())


@pytest.mark.slow
def test_the_front_says_what_aiohttp_would(tmp_path, monkeypatch):
    """To good and bad requests in any pieces; nothing crashes, hangs or stays behind."""
    crashed, handed = [], []
    hand_over = Connection.hand_over

    def noted(self):
        handed.append((self._transport.fed, self._buffer))
        hand_over(self)

    monkeypatch.setattr(Connection, "hand_over", noted)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        (node,), _ = runner.run(
            stack.enter_async_context(mesh(tmp_path, count=1, text=TEXT))  # no `with`: many runs
        )
        runner.get_loop().set_exception_handler(lambda _, context: crashed.append(context))
        front = node._site._front

        @settings(
            max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(
            st.one_of(conversations(), conversations(), st.lists(st.binary(min_size=1), max_size=3))
        )
        def holds(pieces):
            """Each side is given the same bytes, and nothing of them stays behind."""
            handed.clear()
            ours = runner.run(said(front.accept, pieces))
            ((fed, rest),) = handed
            data = b"".join(pieces)
            # aiohttp gets what the front answered one by one, and the rest as the front gave it.
            same = [*split(data[: fed - len(rest)]), rest, *later(pieces, fed)]
            assert ours == runner.run(said(front.fallback, same))
            assert not crashed
            assert not front.connections
            assert front._handed_over == 0
            assert node.admission.active == node.parts.metrics.http_active == 0

        try:
            holds()
        finally:
            runner.run(stack.aclose())
