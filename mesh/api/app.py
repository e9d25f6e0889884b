"""Puts the doors together and opens them.

Shell: aiohttp's application and its listening socket.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Sequence

from aiohttp import http_parser, web

from mesh.api import (
    admin,
    infer,
    native,
    openai,
    openai_answer,
    pages,
    protocol,
    seeds,
    status,
    vectors,
)
from mesh.api.fallback import Fallback
from mesh.api.front import Front
from mesh.api.guard import SHAPES, Guard, Shape, middleware
from mesh.api.parts import PARTS, Parts
from mesh.api.shortcut import Shortcut
from mesh.errors import SetupError

KEEPALIVE_S = 75.0  # above the 15 s after which aiohttp's client drops idle connections
HEADERS_MAX = 64
SHUTDOWN_S = 1.0  # the drain has waited already
FILES_SPARE = 256  # that a node itself opens: peers, models, documents, its log
GUARD: web.AppKey[Guard] = web.AppKey("guard", Guard)
BACKLOG = 1024  # connections that wait to be accepted; the usual 128 is one burst of a load test


def build(parts: Parts, more: Sequence[web.RouteDef] = ()) -> web.Application:
    """Return the application with every door."""
    # A body of exactly the limit passes, one byte more does not.
    guard = Guard(parts)
    app = web.Application(
        middlewares=[middleware(parts, guard)], client_max_size=parts.settings.limits.body_bytes_max
    )
    app[PARTS], app[GUARD] = parts, guard
    app[SHAPES] = _shapes()
    for routes in (native, openai, vectors, infer, protocol, admin, seeds, status, pages):
        app.add_routes(routes.routes())
    app.add_routes(more)
    return app


def _shapes() -> dict[str, Shape | None]:
    """Return the shape of errors of each route, and of what leads nowhere beside it."""
    shapes: dict[str, Shape | None] = {"/v1": openai_answer.error, "/v2": protocol.error_body}
    of_openai = (*openai.routes(), *vectors.routes())
    for routes, shape in (
        (native.routes(), None),
        (of_openai, openai_answer.error),
        (protocol.routes(), protocol.error_body),
    ):
        for route in routes:
            shapes[route.path] = shapes["/".join(route.path.split("/", 3)[:3])] = shape
    return shapes


class Doors:
    """The listening side of an application.

    Every connection is the front's at first; what is not plain goes on at aiohttp.
    """

    def __init__(self, app: web.Application) -> None:
        # The parser in Python has had request-smuggling faults that the one in C had not.
        if http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
            raise SetupError("aiohttp runs without its C parser; unset AIOHTTP_NO_EXTENSIONS")
        self._app = app
        self._shortcut = Shortcut(app)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # a client that goes away ends its work
            keepalive_timeout=KEEPALIVE_S,
            max_headers=HEADERS_MAX,
            shutdown_timeout=SHUTDOWN_S,
        )
        self._front: Front | None = None
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        server.request_handler = self._shortcut.handle  # type: ignore[assignment]
        parts, guard = self._app[PARTS], self._app[GUARD]
        self._front = Front(
            parts,
            guard,
            lambda closed: Fallback(server, guard, closed),
            KEEPALIVE_S,
            min(parts.settings.limits.connections_max, files_left()),
        )
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._front.accept, sock=sock, backlog=BACKLOG)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._server is not None:
            self._server.close()
        if self._front is not None:
            await self._front.aclose(SHUTDOWN_S)
        await self._runner.cleanup()


def files_left() -> int:
    """Return how many connections the system lets this process have beside its own files."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if most == resource.RLIM_INFINITY else max(FILES_SPARE, most - FILES_SPARE)


def bind(key: str, address: str) -> socket.socket:
    """Return a socket bound to "host:port"; bound early, so that its port is known early.

    Args:
        key: of the setting, for messages.
        address: port 0 asks the system for a free one.

    Raises:
        SetupError: the port is taken, or the address is not ours.
    """
    host, _, port = address.rpartition(":")
    try:
        infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, kind, protocol, _, place = infos[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SetupError(f"{key}: cannot listen on {address!r}: {error.strerror}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            message = f"{key}: {address!r} is taken by another process; choose another port"
            raise SetupError(message) from error
        raise SetupError(f"{key}: cannot listen on {address!r}: {error.strerror}") from error
    return sock


def address_of(sock: socket.socket) -> str:
    """Return the "host:port" that a socket is bound to."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
