"""Takes frames from a computing thread and sends them on a stream, in order.

Shell: one wake-up of the loop for all frames that wait. Used by the head and by stages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from mesh.llm.frames import HEADER, HIDDEN
from mesh.wire.messages import Piece


class Sink(Protocol):
    """What pieces are sent on; `net.stream.Stream` is one."""

    async def send(self, piece: Piece) -> None:
        """Send a piece, once there is room."""


class Outlet:
    """Frames on their way out."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._frames: deque[tuple[bytes, Any]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    def put(self, header: bytes, hidden: Any) -> None:
        """Add a frame; called in any thread."""
        self._frames.append((header, hidden))
        if len(self._frames) == 1:  # otherwise somebody has waked it already
            self._wake_soon()

    def fail(self, error: BaseException) -> None:
        """Let `run` raise; called in any thread."""
        self._error = error
        self._wake_soon()

    async def run(self, sink: Sink) -> None:
        """Send until cancelled, or told to fail."""
        while True:
            while self._frames:
                header, hidden = self._frames[0]
                fields = {HEADER: header} if hidden is None else {HEADER: header, HIDDEN: hidden}
                await sink.send(Piece(fields))
                self._frames.popleft()
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            if not self._frames:  # a thread may have put one meanwhile
                await self._waiter
            self._waiter = None

    def _wake_soon(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            return  # the loop was closed: nobody is left to send to

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
