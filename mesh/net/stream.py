"""What callers and handlers hold of one call: pieces with credit, both ways.

Shell: `net.peer` fills the inboxes. A `Stream` is the caller's end, a `Reply` the
handler's. Both only touch their peer through the `Way` that it gives them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from mesh.errors import ConnectionLost, LocalProtocolError, MeshError
from mesh.wire.messages import Answer, Call, Piece


class Way(Protocol):
    """What a peer does for one of its streams."""

    async def send_piece(self, stream: int, piece: Piece) -> None:
        """Send a piece as soon as there is credit and room."""

    def take(self, stream: int, cost: int) -> None:
        """Give back the credit of a piece."""

    def finish(self, stream: int) -> None:
        """Say that the caller sends no more pieces."""

    def cancel(self, stream: int) -> None:
        """Give up a call of ours."""


class Inbox:
    """What has arrived on one stream and was not yet read, in order; then its end, or an error.

    It needs no limit of its own: the sender's credit is one.
    """

    __slots__ = ("_end", "_items", "_waiter")

    def __init__(self) -> None:
        self._items: deque[tuple[Piece | Answer, int]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._end: MeshError | StopAsyncIteration | None = None

    def put(self, item: Piece | Answer, cost: int = 0) -> None:
        """Add an item; dropped if the stream has ended."""
        if self._end is None:
            self._items.append((item, cost))
            self._wake()

    def end(self, error: MeshError | None = None) -> None:
        """Say that nothing more comes. What is here can still be read."""
        if self._end is None:
            self._end = error or StopAsyncIteration()
            self._wake()

    async def get(self) -> tuple[Piece | Answer, int]:
        """Return the next item and its cost; then raise `StopAsyncIteration` or the error."""
        while not self._items:
            if self._end is not None:
                raise self._end
            if self._waiter is not None:
                raise LocalProtocolError("two readers of one stream")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._items.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Reply:
    """The handler's end of a call.

    Attributes:
        node: the node that called.
        received_s: when the call arrived, in monotonic seconds.
        deadline_s: when it is to be answered, in monotonic seconds.
    """

    __slots__ = ("_inbox", "_stream", "_way", "deadline_s", "node", "received_s")

    def __init__(
        self, way: Way, stream: int, inbox: Inbox | None, node: str, received_s: float, call: Call
    ) -> None:
        self._way = way
        self._stream = stream
        self._inbox = inbox
        self.node = node
        self.received_s = received_s
        self.deadline_s = received_s + call.deadline_ms / 1000

    async def send(self, piece: Piece) -> None:
        """Send a piece of the answer; waits while the caller has not read those before.

        Raises:
            LocalProtocolError: the call did not ask for pieces.
        """
        if self._inbox is None:
            raise LocalProtocolError("expected a call that wants pieces")
        await self._way.send_piece(self._stream, piece)

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        """Return the caller's next piece; ends when it has sent its last."""
        if self._inbox is None:
            raise StopAsyncIteration
        piece, cost = await self._inbox.get()
        self._way.take(self._stream, cost)
        assert isinstance(piece, Piece)
        return piece

    async def receive(self) -> Piece | None:
        """Return the caller's next piece, None after its last."""
        return await anext(self, None)


Opening = Callable[[Call, Inbox], Awaitable[tuple[Way, int]]]


class Stream:
    """The caller's end of a call: iterate over its pieces and, last, its answer.

    Nothing is sent before the first use. Close it (`contextlib.aclosing`) if you do not
    read it to its end: that cancels the call, as letting go of it does.
    """

    def __init__(self, opening: Opening, call: Call) -> None:
        self._opening = opening
        self._call = call
        self._inbox = Inbox()
        self._way: Way | None = None
        self._stream = 0
        self._is_over = False
        self._lock = asyncio.Lock()  # a reader and a writer may both be the first
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncIterator[Piece | Answer]:
        return self

    async def __anext__(self) -> Piece | Answer:
        """Return the next piece, or the answer, after which the stream is over."""
        if self._is_over:
            raise StopAsyncIteration
        way = await self.open()
        try:
            item, cost = await self._inbox.get()
        except (MeshError, StopAsyncIteration):
            self._is_over = True
            raise
        if isinstance(item, Answer):
            self._is_over = True
        else:
            way.take(self._stream, cost)
        return item

    async def open(self) -> Way:
        """Send the call, if that has not been done."""
        if self._way is not None:
            return self._way
        async with self._lock:
            if self._is_over:
                raise ConnectionLost("the stream is over")
            if self._way is None:
                try:
                    self._way, self._stream = await self._opening(self._call, self._inbox)
                except MeshError:
                    self._is_over = True
                    raise
            return self._way

    async def send(self, piece: Piece) -> None:
        """Send a piece to the handler; waits while it has not read those before."""
        if self._is_over:
            raise ConnectionLost("the stream is over")
        await (await self.open()).send_piece(self._stream, piece)

    async def finish(self) -> None:
        """Say that no more pieces will be sent; the answer is still to come."""
        (await self.open()).finish(self._stream)

    async def aclose(self) -> None:
        """Cancel the call, unless it is answered."""
        if self._way is not None and not self._is_over:
            self._way.cancel(self._stream)
        self._is_over = True

    def __del__(self) -> None:
        # An abandoned `async for`: the handler should not work for nobody. The garbage
        # collector may run in any thread, and after the loop has closed.
        if self._way is not None and not self._is_over and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._way.cancel, self._stream)
