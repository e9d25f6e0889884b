"""Keeps the answers of a role by content, and makes equal ones that are in flight once.

Shell: stands before a role whose topology says `cache`. With `route = "ring"` and
a key, equal items meet on one node, and the nodes' caches are one cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from mesh.errors import DeadlineExceeded
from mesh.flow.batcher import Started, Tell
from mesh.flow.served import Served
from mesh.flow.single import SingleFlight
from mesh.policy.cache import Cache, content_key, encoded
from mesh.policy.deadline import exceeded
from mesh.policy.request import Request
from mesh.settings import topology
from mesh.wire.messages import Answer, Fields, Piece, Timing


class Cached:
    """A role and its answers.

    Args:
        inner: makes what is not kept.
        spec: the limits.
        clock: monotonic seconds.
    """

    def __init__(self, inner: Served, spec: topology.Cache, clock: Callable[[], float]) -> None:
        self.role = inner.role
        self._inner = inner
        self._cache: Cache[Fields] = Cache(spec.items_max, spec.bytes_max, spec.ttl_s)
        self._flights: SingleFlight[Answer] = SingleFlight()
        self._joined = 0
        self._clock = clock

    async def call(self, fields: Fields, request: Request) -> Answer:
        """Answer one item, from what is kept if it can be."""
        key = content_key(encoded(fields))
        kept = self._kept(key)
        return kept if kept is not None else await self._join(key, fields, request)

    def start(self, fields: Fields, request: Request, tell: Tell) -> Started | None:
        """Return None: who joins another waits for it."""
        return None

    async def stream(
        self, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answer, None]:
        """Answer one item piece by piece, or whole at once if it is kept."""
        key = content_key(encoded(fields))
        kept = self._kept(key)
        if kept is not None:
            yield kept
            return
        async with aclosing(self._inner.stream(fields, request)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    self._keep(key, part)
                yield part

    @property
    def in_flight(self) -> int:
        """Items that are not yet answered."""
        return self._inner.in_flight

    def waiting_s(self) -> float:
        """Return the estimated wait, seconds."""
        return self._inner.waiting_s()

    def used_s(self, streams: int) -> float:
        """Return for how long it was fully used; what is kept uses nothing."""
        return self._inner.used_s(streams)

    def statistics(self) -> dict[str, Any]:
        """Return the cache's figures beside the role's."""
        cache = {**self._cache.statistics(), "joined": self._joined}
        return {**self._inner.statistics(), "cache": cache}

    async def aclose(self) -> None:
        """Stop."""
        await self._inner.aclose()

    async def _join(self, key: bytes, fields: Fields, request: Request) -> Answer:
        async def make() -> Answer:
            answer = await self._inner.call(fields, request)
            self._keep(key, answer)
            return answer

        while True:
            is_leader = key not in self._flights
            try:
                async with asyncio.timeout_at(request.deadline_s):
                    answer = await self._flights.join(key, make)
            except TimeoutError as error:
                raise exceeded() from error
            except DeadlineExceeded:
                if is_leader or self._clock() >= request.deadline_s:
                    raise
                continue  # the one that we joined had less time than we have
            if is_leader:
                return answer
            self._joined += 1
            return Answer(dict(answer.fields), _CACHED, self._inner.waiting_s())

    def _kept(self, key: bytes) -> Answer | None:
        fields = self._cache.get(key, self._clock())
        return None if fields is None else Answer(dict(fields), _CACHED, self._inner.waiting_s())

    def _keep(self, key: bytes, answer: Answer) -> None:
        self._cache.put(key, answer.fields, len(encoded(answer.fields)), self._clock())


_CACHED = Timing(cached=True)
