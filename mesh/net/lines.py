"""The socket of a connection that speaks JSON lines.

Shell: `wire.lines` reads and writes the lines; each request becomes a call of the
service "lines", whose fields are `method` and `params`, and whose answer's fields
are the result.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from mesh.errors import MeshError, TooLarge, Unauthorized
from mesh.net.stream import Reply
from mesh.wire.lines import LineReader, LineRequest, error_line, result_line
from mesh.wire.messages import Answer, Call

log = logging.getLogger(__name__)

SERVICE = "lines"
REQUESTS_MAX = 256  # in flight on one connection; beyond it nothing more is read
DEADLINE_MS = 300_000  # lines name none; the longest that the pipelines of old clients took
IDLE_S = 300.0  # longer than a person at `nc` thinks; a program that is closed connects anew


class LinesPeer(asyncio.Protocol):
    """One connection of JSON lines."""

    def __init__(
        self,
        find: Callable[[str], Callable[[Call, Reply], Awaitable[Answer]]],
        closed: Callable[[LinesPeer], None],
        *,
        is_allowed: bool,
    ) -> None:
        self._find = find
        self._closed = closed
        self._is_allowed = is_allowed
        self._reader = LineReader()
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport | None = None
        self._node = ""
        self._is_reading = True
        self._has_ended = False  # the other side has said all
        self._since_s = time.monotonic()  # of the last request or answer; half a line is neither

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own class
        self._node = str(transport.get_extra_info("peername"))

    def data_received(self, data: bytes) -> None:
        """Start what the lines ask for."""
        if self._transport is None:
            return
        if not self._is_allowed:
            self._refuse(Unauthorized("this mesh has a secret, so JSON lines are off"))
            return
        try:
            requests = self._reader.receive_data(data)
        except TooLarge as error:
            self._refuse(error)
            return
        if requests:
            self._since_s = time.monotonic()
        for request in requests:
            if isinstance(request, LineRequest):
                task = asyncio.get_running_loop().create_task(self._answer(request))
                self._tasks.add(task)
                task.add_done_callback(self._done)
            else:
                self._transport.write(request.reply)
        self._read_or_wait()

    def pause_writing(self) -> None:
        """Read nothing more until the answers so far are taken."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        if self._transport is not None and self._is_reading:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """Answer what was asked before closing: `printf … | nc` ends with its last line."""
        self._has_ended = True
        return bool(self._tasks)  # without any, the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what nobody waits for any more."""
        self._transport = None
        for task in self._tasks:
            task.cancel()
        self._closed(self)

    def tick(self) -> bool:
        """Close and return True if nothing was asked for long; called every `pulse.TICK_S`."""
        if self._transport is None or self._tasks or time.monotonic() - self._since_s < IDLE_S:
            return False
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # who never read its answers would hold the socket
        self.leave()
        self._transport = None
        return True

    def leave(self) -> None:
        """Close."""
        if self._transport is not None:
            self._transport.close()

    async def wait_handlers(self) -> None:
        """Wait until every handler has ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _refuse(self, error: MeshError) -> None:
        assert self._transport is not None
        self._transport.write(error_line(None, error))
        self._transport.close()
        self._transport = None

    async def _answer(self, request: LineRequest) -> None:
        line = await self._line(request)
        if self._transport is not None:
            self._transport.write(line)

    async def _line(self, request: LineRequest) -> bytes:
        fields: dict[str, Any] = {"method": request.method, "params": request.params}
        call = Call(to=SERVICE, fields=fields, deadline_ms=DEADLINE_MS)
        reply = Reply(_NoWay(), 0, None, self._node, time.monotonic(), call)
        try:
            async with asyncio.timeout(DEADLINE_MS / 1000):
                answer = await self._find(SERVICE)(call, reply)
            return result_line(request.id, answer.fields)
        except MeshError as error:
            return error_line(request.id, error)
        except TimeoutError:
            return error_line(request.id, "deadline_exceeded: no answer in time")
        except Exception as error:
            log.exception("handler.failed", extra={"service": SERVICE, "method": request.method})
            return error_line(request.id, f"role_error: {type(error).__name__}: {error}")

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._since_s = time.monotonic()
        if self._has_ended and not self._tasks:
            self.leave()
        self._read_or_wait()

    def _read_or_wait(self) -> None:
        """Stop reading while too many requests are in flight."""
        should_read = len(self._tasks) < REQUESTS_MAX
        if self._transport is None or should_read == self._is_reading:
            return
        self._is_reading = should_read
        if should_read:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()


class _NoWay:
    """Lines have no pieces: `Reply` never gets here without an inbox."""

    async def send_piece(self, stream: int, piece: Any) -> None:
        raise AssertionError

    def take(self, stream: int, cost: int) -> None:
        raise AssertionError

    def finish(self, stream: int) -> None:
        raise AssertionError

    def cancel(self, stream: int) -> None:
        raise AssertionError
