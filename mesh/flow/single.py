"""Equal work in flight is done once: who comes second joins the first.

Shell: used by doors whose contract says that a duplicate request id joins, and
by caches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class _Flight(Generic[Result]):
    __slots__ = ("riders", "task")

    def __init__(self, task: asyncio.Task[Result]) -> None:
        self.task = task
        self.riders = 0


class SingleFlight(Generic[Result]):
    """Work in flight by key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[Result]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def join(self, key: Hashable, start: Callable[[], Awaitable[Result]]) -> Result:
        """Return what `start()` gives; it is started only if no equal work is in flight.

        A rider who is cancelled leaves the others undisturbed; the last one to leave
        cancels the work.
        """
        flight = self._flights.get(key) or self._start(key, start)
        flight.riders += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.riders -= 1
            if not flight.riders and not flight.task.done():
                self._land(key, flight)
                flight.task.cancel()
                await asyncio.wait({flight.task})

    def _start(self, key: Hashable, start: Callable[[], Awaitable[Result]]) -> _Flight[Result]:
        flight = self._flights[key] = _Flight(asyncio.ensure_future(_run(start)))
        flight.task.add_done_callback(lambda _: self._land(key, flight))
        return flight

    def _land(self, key: Hashable, flight: _Flight[Result]) -> None:
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # seen, even if every rider has left
        if self._flights.get(key) is flight:
            del self._flights[key]


async def _run(start: Callable[[], Awaitable[Result]]) -> Result:
    return await start()
