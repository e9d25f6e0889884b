"""Asks a mesh at a steady rate, whatever comes back, and writes down every answer.

Shell: open loop, through `mesh.client`. An id is asked until its answer has come whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from contextlib import aclosing

from mesh.client import Client
from mesh.errors import ConnectionLost, MeshError
from tools.chaos.record import Asked

DEADLINE_S = 15.0
PIECES = 20
DRAIN_S = DEADLINE_S + 5.0


class Load:
    """A steady stream of requests.

    Args:
        urls: doors, asked in this order.
        calls_s: whole answers per second.
        streams_s: streamed ones per second.
        prefix: begins every id.
        pipeline: for whole answers.
        deadline_s: of every request.
        is_named: whether the mesh is told the id, and so keeps the answer for who asks again.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        calls_s: float,
        streams_s: float,
        prefix: str,
        pipeline: str = "work",
        deadline_s: float = DEADLINE_S,
        is_named: bool = True,
    ) -> None:
        self._client = Client(urls, deadline_s=deadline_s)
        self._pipeline, self._is_named = pipeline, is_named
        self._rates = {"call": calls_s, "stream": streams_s}
        self._prefix = prefix
        self._can_ask_again = len(urls) > 1
        self.asked: list[Asked] = []

    async def run(self, until: asyncio.Event) -> None:
        """Ask until told to end, and then wait for what is still out."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._pace(kind, rate, until, group))
                for kind, rate in self._rates.items()
                if rate
            ]
            await asyncio.wait(tasks)
        await self._client.aclose()

    async def _pace(
        self, kind: str, rate: float, until: asyncio.Event, group: asyncio.TaskGroup
    ) -> None:
        due_s, number = time.monotonic(), 0
        while not until.is_set():
            one = Asked(f"{self._prefix}-{kind[0]}{number}", kind, due_s)
            self.asked.append(one)
            group.create_task(self._ask(one))
            number += 1
            due_s += 1.0 / rate
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await until.wait()

    async def _ask(self, one: Asked) -> None:
        """Ask, and where there is another door, ask again if this one breaks off."""
        try:
            while True:
                try:
                    await (self._call(one) if one.kind == "call" else self._stream(one))
                    return
                except ConnectionLost:
                    if not self._can_ask_again or time.monotonic() > one.began_s + DEADLINE_S:
                        raise
                    one.pieces.clear()  # a stream begins again at another door
        except MeshError as error:
            one.error = f"{error.code}: {error.message}"[:160]
            one.retry_after_s = error.retry_after_s
        finally:
            one.ended_s = time.monotonic()

    async def _call(self, one: Asked) -> None:
        reply = await self._client.ask(
            self._pipeline, request_id=one.id if self._is_named else "", id=one.id
        )
        if reply["id"] != one.id:
            one.error = f"the answer of another: {reply['id']}"
        one.answers += 1

    async def _stream(self, one: Asked) -> None:
        one.wanted = PIECES
        events = self._client.stream("tell", request_id=one.id, id=one.id, count=PIECES)
        async with aclosing(events) as parts:  # type: ignore[type-var]
            async for event in parts:
                if event.name == "token":
                    one.pieces += [int(word) for word in event.data["text"].split()]
                    one.heard_s.append(time.monotonic())
                elif event.name == "done":
                    one.answers += 1
                    told = [int(word) for word in event.data["told"].split()]
                    if told != list(range(PIECES)):
                        one.error = f"the whole answer has {len(told)} of {PIECES} pieces"
