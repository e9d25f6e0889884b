"""Lets a second call run against a first one that is slow; the first answer wins.

Shell: the router starts races. The first call runs in the caller's own task, so
that a race which needs no second costs a timer and no task. The loser is
cancelled, and so on its node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar

from mesh.errors import MeshError

Result = TypeVar("Result")

Second = Callable[[], Coroutine[Any, Any, Result] | None]


class Interruption:
    """A block that somebody else may end early, without cancelling the task it runs in.

    Attributes:
        has_ended_block: whether it was.
    """

    __slots__ = ("_before", "_has_fired", "_task", "has_ended_block")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._before = 0
        self._has_fired = False
        self.has_ended_block = False

    def fire(self) -> None:
        """End the block at what it awaits; nothing happens once it is over."""
        if self._task is not None and not self._has_fired:
            self._has_fired = True
            self._task.cancel()

    def __enter__(self) -> Interruption:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._before = self._task.cancelling()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        task, self._task = self._task, None
        assert task is not None
        if not self._has_fired:
            return False
        is_only_ours = task.uncancel() <= self._before
        self.has_ended_block = is_only_ours and kind is asyncio.CancelledError
        return self.has_ended_block


class Race(Generic[Result]):
    """One call, and at most one more against it.

    Args:
        second: makes the second call, or returns None if there is to be none.
    """

    __slots__ = ("_interruption", "_make_second", "_second", "_timer")

    def __init__(self, second: Second[Result]) -> None:
        self._make_second: Second[Result] | None = second
        self._second: asyncio.Task[Result] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._interruption = Interruption()

    def start_after(self, seconds: float) -> None:
        """Let the second call start when the first has taken this long."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self.start)

    def start(self, second: Second[Result] | None = None) -> None:
        """Start the second call now, unless it has started or the race is over.

        Args:
            second: makes it, if otherwise than said at first.
        """
        if self._make_second is None:
            return
        made = (second or self._make_second)()
        if made is not None:
            self._make_second = None
            self._second = asyncio.ensure_future(made)
            self._second.add_done_callback(self._settle)

    async def run(self, first: Awaitable[Result]) -> Result:
        """Return the first answer; if both fail, raise the first call's error."""
        try:
            return await self._run(first)
        finally:
            self._make_second = None
            if self._timer is not None:
                self._timer.cancel()
            if self._second is not None and not self._second.done():
                self._second.cancel()
                await asyncio.wait({self._second})

    async def _run(self, first: Awaitable[Result]) -> Result:
        try:
            with self._interruption:
                return await first
        except MeshError as error:
            if self._second is None:
                raise
            try:
                return await self._second
            except MeshError:
                raise error from None
        assert self._second is not None
        return self._second.result()

    def _settle(self, second: asyncio.Task[Result]) -> None:
        if not second.cancelled() and second.exception() is None:
            self._interruption.fire()
