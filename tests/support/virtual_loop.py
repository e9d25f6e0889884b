"""An event loop whose clock jumps to the next timer instead of waiting for it.

Only for code whose waits are loop timers and in-memory queues: with threads or
real sockets the clock would jump past them, so `tests/live/` uses an ordinary loop.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _JumpingSelector(selectors.SelectSelector):
    """Polls, and instead of sleeping moves its own clock forward."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("deadlock: every task waits and no timer is set")
        self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector loop in virtual time, starting at 0.0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._jumping.now_s


def run_virtual(main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` to its end in virtual time; a deadlock raises `RuntimeError`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
