"""Counts what is being answered here, so that a drain can wait for it.

Shell: `node` wraps what other nodes call in it; `flow.admission` adds who may enter by a door.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from mesh.errors import MeshError
from mesh.net.serving import Cancellable, Handler, Reply, Starter, Tell
from mesh.wire.messages import Answer, Call


class Serving:
    """Requests or calls that are being answered here; a `with` block is one."""

    def __init__(self) -> None:
        self.active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def counting(self, handler: Handler, starter: Starter | None = None) -> Counting:
        """Return a handler of other nodes' calls that counts what it is answering.

        Args:
            handler: answers.
            starter: begins to answer without a task, where it can.
        """
        return Counting(self, handler, starter)

    async def wait_idle(self, within_s: float) -> bool:
        """Wait until nothing is being answered; False if that takes longer."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> None:
        self.active += 1
        self._idle.clear()

    def __exit__(self, *_error: object) -> None:
        self.active -= 1
        if not self.active:
            self._idle.set()


class Counting:
    """A handler that counts what another one is answering."""

    def __init__(self, serving: Serving, handler: Handler, starter: Starter | None) -> None:
        self._serving = serving
        self._handler = handler
        self._starter = starter

    def __call__(self, call: Call, reply: Reply) -> Awaitable[Answer]:
        """Answer a call."""
        return self._counted(call, reply)

    def start(self, call: Call, tell: Tell) -> Cancellable | None:
        """Begin to answer a call; None if that takes a task."""
        if self._starter is None:
            return None
        counted = _Counted(self._serving, tell)
        under_way = counted.under_way = self._starter(call, counted.told)
        if under_way is None:
            return None
        self._serving.__enter__()
        return counted

    async def _counted(self, call: Call, reply: Reply) -> Answer:
        with self._serving:
            return await self._handler(call, reply)


class _Counted:
    """A call that was begun, and is counted until it is told or cancelled."""

    __slots__ = ("_serving", "_tell", "under_way")

    def __init__(self, serving: Serving, tell: Tell) -> None:
        self._serving = serving
        self._tell = tell
        self.under_way: Cancellable | None = None

    def told(self, outcome: Answer | MeshError) -> None:
        """Tell the outcome."""
        self.under_way = None  # it holds us: a ring that only the collector would find
        self._serving.__exit__()
        self._tell(outcome)

    def cancel(self) -> None:
        """Give the call up."""
        under_way, self.under_way = self.under_way, None
        if under_way is not None:
            under_way.cancel()
            self._serving.__exit__()
