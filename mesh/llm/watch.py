"""Watches what a way round consists of, and says why it ended.

Shell: one task per thing watched, all of them cancelled together. Used by `llm.chain`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mesh.errors import ConnectionLost
from mesh.llm.links import Stream
from mesh.wire.messages import Answer


class Broken(Exception):
    """The way round is lost; `nodes` are to blame, if it is known."""

    def __init__(self, why: str, *nodes: str) -> None:
        super().__init__(why)
        self.nodes = nodes


class Slowed(Broken):
    """A node computes at a crawl; it is there, and the next plan reckons with it."""


class Tasks:
    """Tasks that are cancelled together; `names` says whom each one watches."""

    def __init__(self) -> None:
        self.names: dict[asyncio.Task[None], str] = {}

    def start(self, work: Any, name: str) -> None:
        """Run `work` until the block ends."""
        self.names[asyncio.create_task(work)] = name

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.names:
            task.cancel()
            task.add_done_callback(why_of)  # looked at: nothing is left to report


async def until_over(stream: Stream) -> None:
    """Read a stream that says nothing until it ends; raise why."""
    while True:
        part = await anext(stream, None)  # type: ignore[call-overload]
        if part is None or isinstance(part, Answer):
            raise ConnectionLost("the stage has ended")


async def until_ended(over: asyncio.Future[str]) -> None:
    """Wait until somebody says why it is over; raise that."""
    raise ConnectionLost(await over)


def settle(over: asyncio.Future[str], why: str) -> None:
    """Say why it is over; the first reason stands."""
    if not over.done():
        over.set_result(why)


def why_of(task: asyncio.Task[Any]) -> str:
    """Return why a task has ended."""
    error = None if task.cancelled() else task.exception()
    return str(error or "ended")
