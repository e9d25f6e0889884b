"""A bare aiohttp handler with opportunistic batching: the least that such a server can be.

Shell. `inline` computes on the loop, at the end of each turn of it; `thread` hands batches to
one thread, and the next batch gathers meanwhile. `raw` computes as `inline` does, but speaks to
the socket itself: it believes whatever it reads, and is no server, only what is left of one.
"""

from __future__ import annotations

import asyncio
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
import uvloop
from aiohttp import web

from bench.mlp import forward

ITEMS_MAX = 32
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def answer(batch: list[list[float]]) -> list[list[float]]:
    """Compute one batch."""
    return forward(np.array(batch, dtype=np.float32)).tolist()


class Inline:
    """Computes whatever one turn of the loop has brought."""

    def __init__(self) -> None:
        self._waiting: list[tuple[list[float], asyncio.Future]] = []
        self._loop = asyncio.get_running_loop()

    def submit(self, x: list[float]) -> asyncio.Future:
        """Return the future answer."""
        future = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append((x, future))
        return future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), ITEMS_MAX):
            part = waiting[start : start + ITEMS_MAX]
            for (_, future), y in zip(part, answer([x for x, _ in part]), strict=True):
                if not future.done():
                    future.set_result(y)


class Threaded(Inline):
    """Hands a batch to the thread whenever the thread is idle."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = ThreadPoolExecutor(1)
        self._busy = False

    def submit(self, x: list[float]) -> asyncio.Future:
        """Return the future answer."""
        future = self._loop.create_future()
        self._waiting.append((x, future))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._start)
        return future

    def _start(self) -> None:
        part, self._waiting = self._waiting[:ITEMS_MAX], self._waiting[ITEMS_MAX:]
        self._busy = bool(part)
        if part:
            self._thread.submit(self._run, part)

    def _run(self, part: list) -> None:
        answers = answer([x for x, _ in part])
        self._loop.call_soon_threadsafe(self._finish, part, answers)

    def _finish(self, part: list, answers: list) -> None:
        for (_, future), y in zip(part, answers, strict=True):
            if not future.done():
                future.set_result(y)
        self._start()


class Raw(asyncio.Protocol):
    """Answers requests that come whole and alone, as the client of this bench sends them."""

    def __init__(self, batches: Inline) -> None:
        self._batches, self._buffer = batches, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom to answer."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Ask, if the body is here."""
        self._buffer += data
        length = _LENGTH.search(self._buffer)
        _, end, body = self._buffer.partition(b"\r\n\r\n")
        if end and length and len(body) >= int(length[1]):
            self._buffer = b""
            self._batches.submit(orjson.loads(body)["x"]).add_done_callback(self._answer)

    def _answer(self, future: asyncio.Future) -> None:
        body = orjson.dumps({"y": future.result()})
        self._transport.write(_HEAD % len(body) + body)  # type: ignore[attr-defined]


async def serve_raw(port: int) -> None:
    """Serve until cancelled."""
    batches, loop = Inline(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Raw(batches), "127.0.0.1", port)
    await server.serve_forever()


async def serve(port: int, kind: type[Inline]) -> None:
    """Serve until cancelled."""
    batches = kind()

    async def handle(request: web.Request) -> web.Response:
        x = orjson.loads(await request.read())["x"]
        body = orjson.dumps({"y": await batches.submit(x)})
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    how = "".join(sys.argv[2:])
    if how == "raw":
        uvloop.run(serve_raw(int(sys.argv[1])))
    else:
        uvloop.run(serve(int(sys.argv[1]), Threaded if how == "thread" else Inline))
