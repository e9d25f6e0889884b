"""Counts the calls of other nodes that are being answered here, so that a drain can wait for them.

Shell: `node` wraps the handler of roles in it.
"""

from __future__ import annotations

import asyncio


class Serving:
    """Calls of other nodes that are being answered here; a `with` block is one call."""

    def __init__(self) -> None:
        self.count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self, within_s: float) -> bool:
        """Wait until no call is being answered; False if that takes longer."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> None:
        self.count += 1
        self._idle.clear()

    def __exit__(self, *_error: object) -> None:
        self.count -= 1
        if not self.count:
            self._idle.set()
