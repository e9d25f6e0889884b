"""Counts what is being answered here, so that a drain can wait for it.

Shell: `node` wraps what other nodes call in it; `flow.admission` adds who may enter by a door.
"""

from __future__ import annotations

import asyncio

from mesh.net.serving import Handler, Reply
from mesh.wire.messages import Answer, Call


class Serving:
    """Requests or calls that are being answered here; a `with` block is one."""

    def __init__(self) -> None:
        self.active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def counting(self, handler: Handler) -> Handler:
        """Return a handler of other nodes' calls that counts what it is answering."""

        async def counted(call: Call, reply: Reply) -> Answer:
            with self:
                return await handler(call, reply)

        return counted

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
