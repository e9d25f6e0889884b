"""A mesh in a thread of its own, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from tests.support.live import mesh, wait_idle, wait_until


class Town:
    """A mesh that lives in a thread of its own, so that the client may block as usual."""

    def __init__(self, folder, text, count=3):
        self._mesh = (folder, text, count)
        self._ready, self._loop = Future(), asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(),))

    def __enter__(self):
        self._thread.start()
        self.nodes = self._ready.result(30)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _live(self):
        try:
            async with mesh(*self._mesh) as (nodes, _):
                self._ready.set_result(nodes)
                await self._stop.wait()
                await wait_idle(nodes)
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise

    def wait(self, is_true):
        """Wait in the mesh's loop for something to become true there."""
        asyncio.run_coroutine_threadsafe(wait_until(is_true), self._loop).result(20)
