"""The calls of ours that are in flight on one connection.

Shell: a call waits as a future or, if it wants pieces, as an inbox; or its caller is told.
It ends with the answer, a failure, its deadline, or the end of the connection.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable

import msgspec

from mesh.errors import DeadlineExceeded, MeshError, Overloaded
from mesh.net.stream import Inbox
from mesh.wire import events
from mesh.wire.connection import Connection
from mesh.wire.messages import Answer, Call, error_from

log = logging.getLogger(__name__)


class Answered(msgspec.Struct, frozen=True):
    """An answer, and how long it was on its way, both directions together."""

    answer: Answer
    network_ms: float


Tell = Callable[[Answered | MeshError], None]


class Told:
    """A call whose outcome is told, not awaited: a future's part without its turn of the loop.

    Args:
        tell: called once with the answer or the error, unless `cancel` comes first.
        give_up: ends the call of a stream.
    """

    __slots__ = ("_give_up", "_is_done", "_tell", "stream")

    def __init__(self, tell: Tell, give_up: Callable[[int], object]) -> None:
        self._tell = tell
        self._give_up = give_up
        self._is_done = False
        self.stream = 0

    def done(self) -> bool:
        """Whether it was told, or is not wanted any more."""
        return self._is_done

    def set_result(self, answered: Answered) -> None:
        """Tell the answer."""
        self._end(answered)

    def set_exception(self, error: MeshError) -> None:
        """Tell the error."""
        self._end(error)

    def cancel(self) -> None:
        """Give the call up."""
        if not self._is_done:
            self._is_done = True
            self._give_up(self.stream)

    def _end(self, outcome: Answered | MeshError) -> None:
        self._is_done = True
        try:
            self._tell(outcome)
        except Exception:
            # A fault of one listener: the connection is that of many.
            log.exception("answer.untold")


Waiter = asyncio.Future[Answered] | Told | Inbox


class _Waiting:
    """One call in flight."""

    __slots__ = ("deadline_s", "sent_s", "waiter")

    def __init__(self, sent_s: float, deadline_s: float, waiter: Waiter) -> None:
        self.sent_s = sent_s
        self.deadline_s = deadline_s
        self.waiter = waiter


class Calls:
    """Calls in flight.

    Args:
        connection: where they are sent.
        address: of the peer, for messages.
        ended: called with the stream of a call that was given up, to be written.
    """

    def __init__(self, connection: Connection, address: str, ended: Callable[[int], None]) -> None:
        self.failures = 0
        self._connection = connection
        self._address = address
        self._ended = ended
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, call: Call, waiter: Waiter) -> tuple[int, float]:
        """Send a call; return its stream and its deadline in monotonic seconds."""
        if len(self._waiting) >= self._connection.limits.calls_max:
            raise Overloaded(f"expected at most {len(self._waiting)} calls at once to one node")
        stream = self._connection.send_call(call)
        now_s = time.monotonic()
        deadline_s = now_s + call.deadline_ms / 1000
        self._waiting[stream] = _Waiting(now_s, deadline_s, waiter)
        return stream, deadline_s

    def answered(self, event: events.AnswerReceived, now_s: float) -> None:
        """Hand an answer to its caller."""
        waiting = self._waiting.pop(event.stream, None)
        if waiting is None:
            return
        waiter = waiting.waiter
        if isinstance(waiter, Inbox):
            waiter.put(event.answer)
            waiter.end()
        elif not waiter.done():
            took_ms = (now_s - waiting.sent_s) * 1000
            network_ms = min(max(0.0, took_ms - event.held_ms), took_ms)
            waiter.set_result(Answered(event.answer, network_ms))

    def failed(self, event: events.FailureReceived) -> None:
        """Hand a failure to its caller."""
        waiting = self._waiting.pop(event.stream, None)
        if waiting is not None:
            self._fail(waiting, error_from(event.failure))

    def inbox(self, stream: int) -> Inbox | None:
        """Return where the pieces of a call go, None if it is over or wants none."""
        waiting = self._waiting.get(stream)
        return waiting.waiter if waiting and isinstance(waiting.waiter, Inbox) else None

    def cancel(self, stream: int) -> _Waiting | None:
        """Give up a call and tell the peer; None if it was over."""
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            self._connection.cancel(stream)
            self._ended(stream)
        return waiting

    def sweep(self, now_s: float) -> float:
        """Fail what is past its deadline; return the next deadline, or infinity."""
        for stream in [each for each, it in self._waiting.items() if it.deadline_s <= now_s]:
            waiting = self.cancel(stream)
            assert waiting is not None
            self._fail(waiting, DeadlineExceeded(f"{self._address} did not answer in time"))
        return min((it.deadline_s for it in self._waiting.values()), default=float("inf"))

    def fail_all(self, error: MeshError) -> None:
        """Fail every call: the connection is gone."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            self._fail(each, copy.copy(error))  # each caller adds to its own what it knows

    def _fail(self, waiting: _Waiting, error: MeshError) -> None:
        self.failures += 1
        if isinstance(waiting.waiter, Inbox):
            waiting.waiter.end(error)
        elif not waiting.waiter.done():
            waiting.waiter.set_exception(error)
