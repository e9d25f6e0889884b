"""One plain request: what its head means, and its way through the native door to its answer.

Shell: `api.front` reads plain requests off its connections and makes one `Work` of each. It
does what `api.guard` and `api.native` do for a request of aiohttp's, with their functions and
in their order, but with callbacks: where the flow needs no task, there is none.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Protocol

from multidict import CIMultiDict

from mesh.api import answer, intake
from mesh.api.guard import Guard
from mesh.api.head import Head
from mesh.api.native import Door, Taken, count_failure, take, told
from mesh.api.parts import Parts
from mesh.api.whole import spelled, whole
from mesh.errors import MeshError
from mesh.flow.pipeline import Outcome
from mesh.net.serving import Cancellable
from mesh.policy.request import Priority
from mesh.wire.messages import Fields


class Line(Protocol):
    """Where a request came from."""

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with the answer."""

    def answer(self, data: bytes) -> None:
        """Send the answer."""


class Plain:
    """A plain head with what it means; the same for every request that has it."""

    __slots__ = ("asked_ms", "door", "fields", "head", "priority", "request_id", "route",
                 "traceparent")  # fmt: skip

    def __init__(self, found: Head, door: Door) -> None:
        self.head = found
        self.route = f"/v1/{found.kind}/{{name}}"
        self.door = door
        fields = self.fields = CIMultiDict(found.fields)
        own = fields.get("X-Request-ID")
        self.request_id = "" if own is None else intake.request_id(own)
        self.priority: Priority = intake.priority_of(fields)
        self.asked_ms = intake.asked_ms_of(fields)
        self.traceparent = fields.get("traceparent", "")

    @property
    def is_kept(self) -> bool:
        """Whether other requests are likely to have the same head."""
        return not self.request_id and not self.traceparent


class Work:
    """One request, from its last byte to its answer.

    Args:
        connection: gets the answer.
        parts: of the node.
        guard: of its doors.
        plain: its head.
        began_s: when its head was here.
    """

    __slots__ = ("_began_s", "_body", "_connection", "_guard", "_id", "_is_in", "_parts",
                 "_plain", "_under_way", "_wrong")  # fmt: skip

    def __init__(
        self, connection: Line, parts: Parts, guard: Guard, plain: Plain, began_s: float
    ) -> None:
        self._connection = connection
        self._parts = parts
        self._guard = guard
        self._plain = plain
        self._began_s = began_s
        self._id = plain.request_id or intake.new_id()
        self._body: dict[str, Any] = {}
        self._wrong: MeshError | None = None
        self._is_in = False  # admitted, and not yet out
        self._under_way: Cancellable | asyncio.Task[Outcome] | None = None

    def read(self, raw: bytes) -> bool:
        """Read the body; False if the caller wants events, which are aiohttp's."""
        try:
            body = self._body = intake.parsed(raw)
        except MeshError as error:
            self._wrong = error  # told when its turn comes: a full door is told first
            return True
        has_wish = "stream" in body and body["stream"] is not False
        return not has_wish or "stream" in self._plain.door.own()

    def begin(self) -> None:
        """Do what the request asks for."""
        parts = self._parts
        parts.metrics.http_active += 1
        try:
            self._start(parts)
        except Exception as error:  # noqa: BLE001 - a root: the connection must get an answer
            self._fail(error)

    def cancel(self) -> None:
        """Give it up: the client is gone."""
        under_way = self._under_way
        if under_way is not None:
            under_way.cancel()
            if not isinstance(under_way, asyncio.Task):
                self._leave(499, "cancelled")

    def _start(self, parts: Parts) -> None:
        plain, door = self._plain, self._plain.door
        asked = intake.made(
            self._id,
            self._began_s,
            parts.settings.limits,
            door.deadline_s,
            plain.asked_ms,
            plain.priority,
            plain.traceparent,
        )
        parts.admission.admit(asked).__enter__()
        self._is_in = True
        if self._wrong is not None:
            raise self._wrong
        taken = take(door, self._body, asked)
        self._id = taken.asked.id
        fields = door.typed(self._body)
        self._under_way = door.start(fields, taken, self._told)
        if self._under_way is None:
            task = asyncio.get_running_loop().create_task(_run(door, fields, taken))
            task.add_done_callback(self._ended)
            self._under_way = task

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        if task.cancelled():
            self._leave(499, "cancelled")
            return
        error = task.exception()
        if error is None:
            self._told(task.result())
        elif isinstance(error, MeshError):
            self._told(error)
        else:
            assert isinstance(error, Exception)
            self._fail(error)

    def _told(self, outcome: Outcome | MeshError) -> None:
        parts, label = self._parts, self._plain.door.label
        if isinstance(outcome, MeshError):
            count_failure(parts, label, outcome)
            self._fail(outcome)
            return
        try:
            data = whole(told(parts, label, outcome), self._more())
        except Exception as error:  # noqa: BLE001 - a root: an answer that JSON cannot hold
            self._fail(error)
            return
        self._leave(200, "")
        self._connection.answer(data)

    def _fail(self, error: Exception) -> None:
        plain = self._plain
        known = (
            error
            if isinstance(error, MeshError)
            else self._guard.crashed(error, self._id, plain.head.path)
        )
        response = answer.failed(known, answer.error_body(known, self._id))
        data = spelled(response, self._more())
        self._leave(known.status, known.code)
        self._connection.answer(data)

    def _more(self) -> str:
        end = "Connection: close\r\n" if self._connection.is_last else ""
        return f"X-Request-ID: {self._id}\r\n{end}"

    def _leave(self, status: int, code: str) -> None:
        """Count what has ended."""
        parts, plain = self._parts, self._plain
        self._under_way = None  # it holds us: a ring that only the collector would find
        parts.metrics.http_active -= 1
        if self._is_in:
            self._is_in = False
            parts.admission.__exit__()
        took_s = monotonic() - self._began_s
        self._guard.note(plain.route, plain.head.path, "POST", self._id, status, code, took_s)


async def _run(door: Door, fields: Fields, taken: Taken) -> Outcome:
    return await door.run(fields, taken)
