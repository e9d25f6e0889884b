"""Ends waits at their deadline, many with one timer.

Shell: shared by everything on a node that waits for a future. A timer per
request would cost more than the request; most requests share the same default
deadline, so they share a bucket of 20 ms and its one timer.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from mesh.errors import MeshError
from mesh.policy.deadline import exceeded

GRAIN_S = 0.02  # a wait ends this much late at most; finer would mean more timers


class Waiter(Protocol):
    """What waits: a future, or what stands in its place."""

    def done(self) -> bool:
        """Whether it is over."""

    def set_exception(self, error: MeshError, /) -> None:
        """End it."""


class Deadlines:
    """Waiters by the tick in which their deadline lies."""

    def __init__(self) -> None:
        self._buckets: dict[int, set[Any]] = {}

    def watch(self, future: Waiter, deadline_s: float) -> set[Any]:
        """Fail `future` with `DeadlineExceeded` once its deadline has passed.

        Returns:
            Where it is kept: discarding it there is to `forget` it, without a look-up.
        """
        tick = int(deadline_s / GRAIN_S) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            asyncio.get_running_loop().call_at(tick * GRAIN_S, self._expire, tick)
        bucket.add(future)
        return bucket

    def forget(self, future: Waiter, deadline_s: float) -> None:
        """Stop watching; the bucket's timer stays, others use it."""
        bucket = self._buckets.get(int(deadline_s / GRAIN_S) + 1)
        if bucket is not None:
            bucket.discard(future)

    def _expire(self, tick: int) -> None:
        for future in tuple(self._buckets.pop(tick, ())):  # who is told leaves its bucket
            if not future.done():
                future.set_exception(exceeded())
