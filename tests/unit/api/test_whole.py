"""The short answer says what aiohttp's own would, in one write."""

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.client_exceptions import ClientConnectionResetError

from mesh.api.whole import Whole


class Pipe:
    """A transport that remembers."""

    def __init__(self, closing=False):
        self.writes, self._closing = [], closing

    def is_closing(self):
        return self._closing

    def write(self, data):
        self.writes.append(data)


READS_ON = SimpleNamespace(writing_paused=False)


def send(answer, version=HttpVersion11, keep_alive=True, pipe=None):
    pipe = pipe or Pipe()

    async def go():
        await answer.prepare(
            SimpleNamespace(
                transport=pipe, version=version, keep_alive=keep_alive, protocol=READS_ON
            )
        )
        assert answer.prepared
        await answer.write_eof()
        await answer.write_eof()

    asyncio.run(go())
    (written,) = pipe.writes
    head, _, body = written.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def test_head_and_body_leave_in_one_write():
    """With the length, the date, and the headers that were added."""
    answer = Whole(b'{"a":1}')
    answer.headers["X-Request-ID"] = "r1"
    first, headers, body = send(answer)
    assert first == "HTTP/1.1 200 OK"
    assert body == b'{"a":1}'
    assert headers.pop("Date").endswith(" GMT")
    assert headers == {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Content-Length": "7",
        "X-Request-ID": "r1",
    }


@pytest.mark.parametrize(
    ("version", "keep_alive", "expected"),
    [
        (HttpVersion11, True, None),
        (HttpVersion11, False, "close"),
        (HttpVersion10, True, "keep-alive"),
        (HttpVersion10, False, "close"),
    ],
)
def test_the_connection_header_says_what_happens_next(version, keep_alive, expected):
    """And nothing where the version's default is meant."""
    answer = Whole(b"{}")
    assert send(answer, version, keep_alive)[1].get("Connection") == expected
    assert answer.keep_alive is keep_alive


def test_a_client_that_is_gone_is_a_connection_error():
    """Which aiohttp's connection knows how to take."""
    with pytest.raises(ClientConnectionResetError):
        send(Whole(b"{}"), pipe=Pipe(closing=True))


def test_a_header_cannot_begin_another():
    """Values with line ends never leave."""
    answer = Whole(b"{}")
    answer.headers["X-Request-ID"] = "a\nSet-Cookie: b"
    with pytest.raises(AssertionError):
        send(answer)


def test_the_connection_waits_for_a_slow_reader():
    """Its next request is read when this answer is on its way, or answers would pile up."""
    drained = []

    class Writer:
        async def drain(self):
            drained.append(True)

    async def go(is_paused):
        answer = Whole(b"{}")
        protocol = SimpleNamespace(writing_paused=is_paused)
        await answer.prepare(
            SimpleNamespace(
                transport=Pipe(),
                version=HttpVersion11,
                keep_alive=True,
                protocol=protocol,
                writer=Writer(),
            )
        )
        await answer.write_eof()

    asyncio.run(go(False))
    assert drained == []
    asyncio.run(go(True))
    assert drained == [True]
