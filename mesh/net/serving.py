"""Runs the handlers of the calls that arrive on one connection.

Shell: each call is a task, owned here from its start to its end. It ends with an
answer or a failure; a caller who cancels, a deadline that passes or a connection
that is lost cancels it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from mesh.errors import Cancelled, DeadlineExceeded, MeshError, RoleError
from mesh.net.stream import Inbox, Reply, Way
from mesh.wire.connection import Connection
from mesh.wire.messages import Answer, Call, failure_from

log = logging.getLogger(__name__)

Handler = Callable[[Call, Reply], Awaitable[Answer]]


class _Served:
    """A call that is being served."""

    __slots__ = ("deadline_s", "inbox", "task")

    def __init__(self, deadline_s: float, task: asyncio.Task[None], inbox: Inbox | None) -> None:
        self.deadline_s = deadline_s
        self.task = task
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
        """Begin to serve a call; return its deadline in monotonic seconds."""
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
            served.task.cancel()
            self._stopping.add(served.task)
            served.task.add_done_callback(self._stopping.discard)

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

    async def _serve(self, stream: int, call: Call, reply: Reply) -> None:
        """Run one handler and send what comes of it."""
        try:
            answer = await self._find(call.to)(call, reply)
            held_ms = (time.monotonic() - reply.received_s) * 1000
            self._connection.send_answer(stream, answer, held_ms)
        except MeshError as error:
            self._fail(stream, error)
        except asyncio.CancelledError:
            self._fail(stream, Cancelled(f"{self._node} stopped serving {call.to}"))
            raise
        except Exception as error:
            log.exception("handler.failed", extra={"service": call.to, "id": call.request_id})
            self._fail(stream, RoleError(f"{call.to} failed: {type(error).__name__}: {error}"))
        finally:
            self._served.pop(stream, None)
            self._ended(stream)

    def _fail(self, stream: int, error: MeshError) -> None:
        self._connection.send_failure(stream, failure_from(error, self._node))
