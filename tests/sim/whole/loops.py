"""Event loops that turn when the world says so: one for each simulated process.

Shell. Each has its host's own clock, so a deadline that leaves a process as a clock reading is
found at once. A process that is paused does not turn, and what is due piles up, as after
SIGSTOP. One that is killed never turns again in a way that others could notice.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Iterable
from heapq import heappop
from typing import Any

GRAIN_S = 1e-6  # a timer so close to now is due: clocks of two rates never meet exactly
FUNERAL_TURNS_MAX = 10_000


class _NoSockets:
    """A selector without files: what would arrive by them is posted instead."""

    def select(self, timeout: float | None = None) -> list[Any]:
        return []


class HostLoop(asyncio.BaseEventLoop):
    """The loop of one process.

    Args:
        clock: the host's monotonic seconds.
        process: whose loop this is; what runs in it finds its way home by that.
        failed: told of what a task or callback raised and nobody took.
    """

    def __init__(
        self, clock: Callable[[], float], process: Any, failed: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._selector = _NoSockets()
        self._clock = clock
        self._clock_resolution = GRAIN_S
        self.process = process
        self.set_exception_handler(lambda _, context: failed(_words(context)))

    def time(self) -> float:
        """Return the host's monotonic seconds."""
        return self._clock()

    def turn(self) -> None:
        """Run what is ready, and timers that are due, once."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            self._run_once()
        finally:
            events._set_running_loop(before)

    def due_s(self) -> float | None:
        """Return when it wants to turn, in its own seconds; None: never."""
        if self._ready:
            return self.time()
        while self._scheduled and self._scheduled[0]._cancelled:
            self._scheduled[0]._scheduled = False
            self._timer_cancelled_count -= 1
            heappop(self._scheduled)
        return self._scheduled[0].when() if self._scheduled else None

    def bury(self) -> None:
        """Let every task end now; whatever it does reaches nobody, as the process is gone."""
        self.set_exception_handler(lambda *_: None)
        for _ in range(FUNERAL_TURNS_MAX):
            tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.turn()
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        pass  # one thread: nobody has to be woken

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Do at once what production does in a thread: a virtual clock must not pass it."""
        done = self.create_future()
        done.set_result(func(*args))
        return done

    # -- sockets ----------------------------------------------------------------------

    async def create_server(self, protocol_factory: Any, **_: Any) -> Any:  # type: ignore[override]
        """Listen at the process's own address."""
        return self.process.listen(protocol_factory)

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Any, host: str, port: int, **_: Any
    ) -> Any:
        """Connect to another process by the world's links."""
        return await self.process.links.connect(self.process, f"{host}:{port}", protocol_factory)


class Ordered(dict[Any, None]):
    """A set that is walked in the order of adding: what production walks must be repeatable."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(items))

    def add(self, one: Any) -> None:
        """Put one in."""
        self[one] = None

    def discard(self, one: Any) -> None:
        """Take one out, if it is there."""
        self.pop(one, None)


def ordered_names(names: Iterable[str] = ()) -> Ordered:
    """Return what stands for a frozen set of names: its order must not follow their hashes."""
    return Ordered(sorted(names))


def _words(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')}: {error!r}"


class HostSocket:
    """What is bound to an address of a simulated host."""

    def __init__(self, host: str, port: int) -> None:
        self._where = (host, port)

    def getsockname(self) -> tuple[str, int]:
        """Return the address."""
        return self._where


class HostTime:
    """What `time` is to production modules: the clocks of the host whose code runs."""

    @staticmethod
    def monotonic() -> float:
        """Return the seconds of the loop that runs now."""
        return asyncio.get_running_loop().time()

    @staticmethod
    def time() -> float:
        """Return the wall clock of its host."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HostLoop)
        return loop.process.wall_s()  # type: ignore[no-any-return]
