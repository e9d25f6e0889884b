"""Calls a role beside the one that answers, and only counts how it went.

Shell: what is shadowed never slows, fails or outlives its node: such calls have
the least urgent class, a limit, and end with the router.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import structs

from mesh.errors import MeshError
from mesh.policy.request import Priority, Request
from mesh.wire.messages import Fields

SHADOWS_MAX = 32  # in flight per door; beyond, calls are not shadowed

Call = Callable[[str, Fields, Request], Awaitable[object]]


class Shadows:
    """Shadow calls in flight.

    Args:
        call: makes one.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts = {"answered": 0, "failed": 0, "skipped": 0}

    def start(self, role: str, fields: Fields, request: Request) -> None:
        """Call a role without waiting for it."""
        if len(self._tasks) >= SHADOWS_MAX:
            self._counts["skipped"] += 1
            return
        low = structs.replace(request, id=f"{request.id}~shadow", priority=Priority.BATCH)
        task = asyncio.create_task(self._run(role, dict(fields), low))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def statistics(self) -> dict[str, int]:
        """Return the counts."""
        return {**self._counts, "in_flight": len(self._tasks)}

    async def aclose(self) -> None:
        """Give up what is in flight."""
        tasks: set[asyncio.Task[Any]] = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, role: str, fields: Fields, request: Request) -> None:
        try:
            await self._call(role, fields, request)
        except MeshError:
            self._counts["failed"] += 1  # nobody asked for this answer
        else:
            self._counts["answered"] += 1
