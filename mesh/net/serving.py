"""Runs the handlers of the calls that arrive on one connection.

Shell: each call is a task, owned here from its start to its end; or, where its handler
can do without, what the handler began. It ends with an answer or a failure; a caller who
cancels, a deadline that passes or a connection that is lost cancels it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from mesh.errors import Cancelled, DeadlineExceeded, MeshError, RoleError
from mesh.net.stream import Inbox, Reply, Way
from mesh.wire.connection import Connection
from mesh.wire.messages import Answer, Call, failure_from

log = logging.getLogger(__name__)

Handler = Callable[[Call, Reply], Awaitable[Answer]]
"""Answers calls. One with a method `start` (`Starter`) is asked first whether it needs a task."""
Tell = Callable[[Answer | MeshError], None]


class Cancellable(Protocol):
    """A call or a request that has begun."""

    def cancel(self) -> None:
        """Give it up; nothing is told any more."""


Starter = Callable[[Call, Tell], Cancellable | None]
"""Begins to answer, and tells once how it ended, after it has returned; None: nothing has begun."""


class _Served:
    """A call that is being served."""

    __slots__ = ("deadline_s", "inbox", "work")

    def __init__(
        self, deadline_s: float, work: asyncio.Task[None] | Cancellable, inbox: Inbox | None
    ) -> None:
        self.deadline_s = deadline_s
        self.work = work
        self.inbox = inbox


class Serving:
    """The calls of one peer.

    Args:
        way: how replies send pieces.
        connection: where answers go.
        find: returns the handler of a service, or raises `NotFound`.
        node: this node's name, told with each failure.
        ended: called with a stream when its handler has ended and something is to be written.
    """

    def __init__(
        self,
        way: Way,
        connection: Connection,
        find: Callable[[str], Handler],
        node: str,
        ended: Callable[[int], None],
    ) -> None:
        self._way = way
        self._connection = connection
        self._find = find
        self._node = node
        self._ended = ended
        self._served: dict[int, _Served] = {}
        self._stopping: set[asyncio.Task[None]] = set()  # cancelled, not yet ended

    def start(self, stream: int, call: Call, caller: str, now_s: float) -> float:
        """Begin to serve a call; return its deadline in monotonic seconds, or infinity."""
        if not call.wants_pieces:
            try:
                started = self._start(stream, call, now_s)
            except Exception as error:  # noqa: BLE001 - a root: the caller must get an answer
                self._fail(stream, self._known(error, call))
                self._ended(stream)
                return float("inf")
            if started is not None:
                deadline_s = now_s + call.deadline_ms / 1000
                self._served[stream] = _Served(deadline_s, started, None)
                return deadline_s
        inbox = Inbox() if call.wants_pieces else None
        reply = Reply(self._way, stream, inbox, caller, now_s, call)
        task = asyncio.get_running_loop().create_task(self._serve(stream, call, reply))
        self._served[stream] = _Served(reply.deadline_s, task, inbox)
        return reply.deadline_s

    def inbox(self, stream: int) -> Inbox | None:
        """Return where pieces for a handler go, None if it has ended or wants none."""
        served = self._served.get(stream)
        return served.inbox if served else None

    def stop(self, stream: int) -> None:
        """Cancel a handler, which may not even have begun."""
        served = self._served.pop(stream, None)
        if served is not None:
            work = served.work
            work.cancel()
            if isinstance(work, asyncio.Task):
                self._stopping.add(work)
                work.add_done_callback(self._stopping.discard)

    def stop_all(self) -> None:
        """Cancel every handler."""
        for stream in list(self._served):
            self.stop(stream)

    async def wait_stopped(self) -> None:
        """Wait until every handler that was cancelled has ended."""
        await asyncio.gather(*self._stopping, return_exceptions=True)

    def sweep(self, now_s: float) -> float:
        """Fail what is past its deadline; return the next deadline, or infinity."""
        for stream in [each for each, it in self._served.items() if it.deadline_s <= now_s]:
            self._fail(stream, DeadlineExceeded(f"{self._node} did not finish in time"))
            self.stop(stream)
            self._ended(stream)
        return min((it.deadline_s for it in self._served.values()), default=float("inf"))

    def _start(self, stream: int, call: Call, now_s: float) -> Cancellable | None:
        """Begin a call without a task; None if its handler wants one."""
        starter: Starter | None = getattr(self._find(call.to), "start", None)
        return starter(call, partial(self._told, stream, call, now_s)) if starter else None

    def _told(
        self, stream: int, call: Call, received_s: float, outcome: Answer | MeshError
    ) -> None:
        """Send what came of a call that was begun without a task."""
        self._served.pop(stream, None)
        if isinstance(outcome, MeshError):
            self._fail(stream, outcome)
        else:
            held_ms = (time.monotonic() - received_s) * 1000
            try:
                self._connection.send_answer(stream, outcome, held_ms)
            except Exception as error:  # noqa: BLE001 - a root: the caller must get an answer
                self._fail(stream, self._known(error, call))
        self._ended(stream)

    async def _serve(self, stream: int, call: Call, reply: Reply) -> None:
        """Run one handler and send what comes of it."""
        try:
            answer = await self._find(call.to)(call, reply)
            held_ms = (time.monotonic() - reply.received_s) * 1000
            self._connection.send_answer(stream, answer, held_ms)
        except asyncio.CancelledError:
            self._fail(stream, Cancelled(f"{self._node} stopped serving {call.to}"))
            raise
        except Exception as error:  # noqa: BLE001 - a root: the caller must get an answer
            self._fail(stream, self._known(error, call))
        finally:
            self._served.pop(stream, None)
            self._ended(stream)

    def _known(self, error: Exception, call: Call) -> MeshError:
        """Return what the caller is told of an error; the log has all of one that is a fault."""
        if isinstance(error, MeshError):
            return error
        extra = {"service": call.to, "id": call.request_id}
        log.error("handler.failed", extra=extra, exc_info=error)
        return RoleError(f"{call.to} failed: {type(error).__name__}: {error}")

    def _fail(self, stream: int, error: MeshError) -> None:
        self._connection.send_failure(stream, failure_from(error, self._node))
