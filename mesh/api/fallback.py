"""The whole of HTTP: aiohttp's side of a connection, with our patience and our errors.

Shell: `api.front` makes one for each connection that it hands over. aiohttp waits for the first
head for ever, and answers what it cannot parse with plain text, a traceback in the log and
nothing in the metrics; here such a request ends as any other that is refused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from mesh.api import answer
from mesh.api.guard import NO_ROUTE, Guard
from mesh.api.intake import new_id
from mesh.errors import BadRequest, MeshError

_BYTES = re.compile(r":? *(?:bytearray\()?b['\"]")
HEAD_S = 10.0  # a head that takes longer is a client that holds the connection, or has lost it


class Fallback(web.RequestHandler):
    """One connection.

    Args:
        server: of aiohttp, whose settings it takes.
        guard: notes what is no request.
        closed: called once when the connection is gone.
    """

    __slots__ = ("_closed", "_guard")

    def __init__(self, server: web.Server, guard: Guard, closed: Callable[[], None]) -> None:
        super().__init__(server, loop=server._loop, **server._kwargs)
        self._guard = guard
        self._closed = closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and close the connection if it stays without a request."""
        super().connection_made(transport)
        # aiohttp's own timer, which it sets only after an answer: it closes whoever asks nothing.
        self._next_keepalive_close_time = self._loop.time() + HEAD_S
        self._keepalive_handle = self._loop.call_at(
            self._next_keepalive_close_time, self._process_keepalive
        )

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give up what is under way."""
        super().connection_lost(exc)
        self._closed()

    def log_exception(self, *words: Any, **more: Any) -> None:
        """Log an error of ours; of a body that broke off, its sender was told already."""
        if not isinstance(more.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*words, **more)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what never came to a handler, or broke off behind one."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun: there is no room for another")
        request_id = new_id()
        if status == 400:
            error: MeshError = BadRequest(
                f"this is no HTTP request that can be read: {_said(message or '')}"
            )
        else:
            cause = exc if isinstance(exc, Exception) else TimeoutError()
            error = self._guard.crashed(cause, request_id, request.path)
        # No line in the log: whoever sends rubbish could fill the disk with it.
        self._guard.count(NO_ROUTE, "other", error.status, error.code, 0.0)
        response = answer.failed(error, answer.error_body(error, request_id))
        response.headers["X-Request-ID"] = request_id
        response.force_close()
        return response


def _said(message: str) -> str:
    """Return what a parser says without the bytes that it points into."""
    return _BYTES.split(" ".join(message.split()), maxsplit=1)[0][:200].rstrip()
