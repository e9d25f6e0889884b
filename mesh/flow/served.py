"""Two ways in which a role of this node answers: in batches, or piece by piece.

Shell: `flow.local` finds the role by name; here its items are checked and run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol

from mesh.errors import MeshError, Overloaded, RoleError
from mesh.flow.batcher import Batcher, Started, Tell, percentiles
from mesh.flow.fields import Shape
from mesh.flow.lane import Lane
from mesh.policy.deadline import exceeded
from mesh.policy.request import Request
from mesh.roles.base import Role, StreamRole, Whole
from mesh.wire.messages import Answer, Fields, Piece, Timing

log = logging.getLogger(__name__)

SAMPLES_MAX = 256  # recent streams that the mean and percentiles are taken from


class Served(Protocol):
    """A role that answers here."""

    @property
    def role(self) -> Role:
        """The role itself."""

    def call(self, fields: Fields, request: Request) -> Awaitable[Answer]:
        """Answer one item."""

    def start(self, fields: Fields, request: Request, tell: Tell) -> Started | None:
        """Begin to answer one item; None, and nothing has begun, if only `call` can."""

    def stream(self, fields: Fields, request: Request) -> AsyncGenerator[Piece | Answer, None]:
        """Answer one item piece by piece."""

    @property
    def in_flight(self) -> int:
        """Items that are not yet answered."""

    def waiting_s(self) -> float:
        """Return the estimated wait, seconds."""

    def used_s(self, streams: int) -> float:
        """Return for how long it was fully used in all; `streams` at once are a full use."""

    def statistics(self) -> dict[str, Any]:
        """Return figures."""

    async def aclose(self) -> None:
        """Stop."""


class Batched:
    """A role that answers batches."""

    def __init__(self, role: Role, batcher: Batcher) -> None:
        self.role = role
        self._batcher = batcher
        self._shape = Shape(role.context.role, role.takes)

    def call(self, fields: Fields, request: Request) -> Awaitable[Answer]:
        """Answer one item in a batch."""
        return self._batcher.submit(self._shape.check(fields), request)

    def start(self, fields: Fields, request: Request, tell: Tell) -> Started | None:
        """Begin to answer one item in a batch."""
        return self._batcher.start(self._shape.check(fields), request, tell)

    async def stream(
        self, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answer, None]:
        """Answer one item, whole."""
        yield await self.call(fields, request)

    @property
    def in_flight(self) -> int:
        """Items that are not yet answered."""
        return self._batcher.in_flight

    def waiting_s(self) -> float:
        """Return the estimated wait, seconds."""
        return self._batcher.waiting_s()

    def used_s(self, streams: int) -> float:
        """Return for how long the lane has computed."""
        return self._batcher.busy_s

    def statistics(self) -> dict[str, Any]:
        """Return the batcher's figures and the role's own."""
        return self._batcher.statistics() | self.role.statistics()

    async def aclose(self) -> None:
        """Stop."""
        await self._batcher.aclose()


class Streamed:
    """A role that forms its own batches and answers piece by piece."""

    def __init__(
        self, role: StreamRole, lane: Lane, in_flight_max: int, clock: Callable[[], float]
    ) -> None:
        self.role = role
        self._lane = lane
        self._shape = Shape(role.context.role, role.takes)
        self._in_flight = 0
        self._in_flight_max = in_flight_max
        self._clock = clock
        self._total = self._refused = 0
        self._whole_ms: list[float] = []
        self._stream_s = 0.0  # the sum over streams of how long each ran
        self._counted_s = clock()

    async def call(self, fields: Fields, request: Request) -> Answer:
        """Answer one item, whole."""
        async with aclosing(self.stream(fields, request)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    return part
        raise self._endless()

    def start(self, fields: Fields, request: Request, tell: Tell) -> Started | None:
        """Return None: a stream is a task's work."""
        return None

    async def stream(
        self, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answer, None]:
        """Answer one item piece by piece."""
        item = self._shape.check(fields)
        if self._in_flight >= self._in_flight_max:
            self._refused += 1
            raise Overloaded(
                f"role {self.role.context.role!r} has {self._in_flight} items in flight, the limit",
                role=self.role.context.role,
                retry_after_s=max(1.0, self.waiting_s()),
            )
        self._count(1)
        self._total += 1
        parts = self.role.stream(item, request)
        try:
            while True:
                part = await self._next(parts, request)
                if isinstance(part, Whole):
                    yield self._answer(part)
                    return
                yield Piece(part.fields)
        finally:
            self._count(-1)
            close = getattr(parts, "aclose", None)  # generators have it, other iterators need not
            if close is not None:
                await close()

    @property
    def in_flight(self) -> int:
        """Streams that have not ended."""
        return self._in_flight

    def used_s(self, streams: int) -> float:
        """Return how long streams have run in all, by how many make a full use."""
        self._count(0)
        return self._stream_s / streams

    def _count(self, more: int) -> None:
        now_s = self._clock()
        self._stream_s += self._in_flight * (now_s - self._counted_s)
        self._counted_s = now_s
        self._in_flight += more

    def waiting_s(self) -> float:
        """Return a rough wait: items in flight share the engine, so each slows the others."""
        if not self._whole_ms:
            return 0.0
        return self._in_flight * sum(self._whole_ms) / len(self._whole_ms) / 1000.0

    def statistics(self) -> dict[str, Any]:
        """Return figures of the streams and the role's own."""
        return {
            "running": self._in_flight,
            "total_items": self._total,
            "dropped": {"overloaded": self._refused},
            "ran_ms": percentiles(self._whole_ms),
        } | self.role.statistics()

    async def aclose(self) -> None:
        """Stop."""
        await self._lane.aclose()

    async def _next(self, parts: AsyncIterator[Any], request: Request) -> Any:
        try:
            async with asyncio.timeout_at(request.deadline_s):
                return await anext(parts)
        except TimeoutError as error:
            raise exceeded("while the answer was being made") from error
        except StopAsyncIteration as error:
            raise self._endless() from error
        except MeshError as error:
            error.role = error.role or self.role.context.role
            raise
        except Exception as error:
            name = self.role.context.role
            log.exception("role.failed", extra={"role": name})
            what = f"role {name!r} failed: {type(error).__name__}: {error}"
            raise RoleError(what, role=name) from error

    def _answer(self, whole: Whole) -> Answer:
        self._whole_ms.append(whole.ran_ms)
        del self._whole_ms[:-SAMPLES_MAX]
        timing = Timing(whole.queued_ms, whole.ran_ms, whole.batch_size)
        return Answer(whole.fields, timing, self.waiting_s())

    def _endless(self) -> RoleError:
        name = self.role.context.role
        return RoleError(f"role {name!r} ended its stream without an answer", role=name)
