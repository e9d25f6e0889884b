"""An answer that is one JSON body: its head and body leave in one write.

Shell. aiohttp's own `Response` is made for everything an answer can be (parts, compression,
ranges, cookies) and takes a quarter of the time of a small model's request to find out that
it is none of it. This one has the few methods that aiohttp's connection calls.
"""

from __future__ import annotations

import http
import time
from email.utils import formatdate

from aiohttp import HttpVersion11, web
from aiohttp.client_exceptions import ClientConnectionResetError

_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: application/json\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Cache-Control: no-store\r\n"
    b"Content-Length: %d\r\nDate: %b\r\n%b\r\n%b"
)


_FAILED = b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\nDate: %b\r\n\r\n%b"


def whole(body: bytes, more: str) -> bytes:
    """Return a finished 200 answer of JSON.

    Args:
        body: JSON.
        more: headers beside those that every answer has, each with its line end.
    """
    return _HEAD % (len(body), _date(), more.encode("latin-1"), body)


def spelled(response: web.Response, more: str) -> bytes:
    """Return the bytes of an answer of aiohttp's that has a body of bytes and no connection."""
    body = response.body
    assert isinstance(body, bytes)
    lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items()) + more
    reason = http.HTTPStatus(response.status).phrase.encode() if response.status != 499 else b""
    head = lines.encode("latin-1")
    return _FAILED % (response.status, reason, head, len(body), _date(), body)


class Whole(web.StreamResponse):
    """A finished 200 answer of JSON; not for routes that answer HEAD, which wants no body.

    Args:
        body: JSON.
    """

    def __init__(self, body: bytes) -> None:
        # Not the base's: what it prepares is what this class does without.
        self._state = {}
        self._bytes = body
        self._sent = False
        self._more: dict[str, str] = {}
        self._keeps = True
        self._request: web.BaseRequest | None = None

    @property
    def status(self) -> int:
        """Always 200."""
        return 200

    @property
    def headers(self) -> dict[str, str]:  # type: ignore[override]
        """Headers beside those that every answer has; values must hold no line ends."""
        return self._more

    @property
    def prepared(self) -> bool:
        """Whether the head has been made, after which headers come too late."""
        return self._request is not None

    @property
    def keep_alive(self) -> bool:
        """Whether the connection lives on."""
        return self._keeps

    def force_close(self) -> None:
        """Let the connection end with this answer."""
        self._keeps = False

    async def prepare(self, request: web.BaseRequest) -> None:  # type: ignore[override]
        """Learn whom to answer."""
        self._request = request
        self._keeps = self._keeps and bool(request.keep_alive)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send everything."""
        assert not data
        request = self._request
        assert request is not None
        if self._sent:
            return
        self._sent = True
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the client went away")
        more = ""
        for name, value in self._more.items():
            assert "\n" not in value, "a header's value must not begin another header"
            more += f"{name}: {value}\r\n"
        if not self._keeps:
            more += "Connection: close\r\n"
        elif request.version != HttpVersion11:
            more += "Connection: keep-alive\r\n"
        transport.write(whole(self._bytes, more))
        if request.protocol.writing_paused:
            # A slow reader: the connection's next request waits until this answer has left.
            await request.writer.drain()


class _Clock:
    """The date header, written once a second."""

    at_s = 0
    text = b""


def _date() -> bytes:
    now_s = int(time.time())
    if now_s != _Clock.at_s:
        _Clock.at_s, _Clock.text = now_s, formatdate(now_s, usegmt=True).encode()
    return _Clock.text
