"""Where a role computes: its own thread, the loop itself, or a process behind a thread.

Shell: one lane per role; `flow.batcher` gives it one batch at a time and is told
on the loop when it is done. A lane is free when its thread is, not when a caller
stops waiting: work that was started always holds its place until it ends.

    loop:    compute(items, done) ──queue──┐                ┌── done(Computed)
    thread:                                └─ role.run(…) ──┘  call_soon_threadsafe
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, Protocol

from mesh.errors import MeshError, RoleError, SetupError
from mesh.flow.process import ProcessRole
from mesh.roles.base import Role
from mesh.wire.messages import Fields

log = logging.getLogger(__name__)

JOIN_S = (
    2.0  # how long closing waits for a thread; one that computes on is left to end with the process
)


@dataclass(frozen=True, slots=True)
class Computed:
    """What became of a batch: one answer or error per item, in order, and when it ran."""

    answers: Sequence[Fields | MeshError]
    began_s: float
    ended_s: float


class Lane(Protocol):
    """What the batcher needs of a lane."""

    async def load(self) -> None:
        """Run `role.load()` away from the loop."""

    def compute(self, items: Sequence[Fields], done: Callable[[Computed], None]) -> None:
        """Run a batch; `done` is called on the loop. Never raises."""

    async def aclose(self) -> None:
        """Run `role.close()` and stop."""


def open_lane(kind: str, role: Role) -> Lane:
    """Return the lane that a topology names."""
    if kind == "thread":
        return ThreadLane(role)
    if kind == "inline":
        return InlineLane(role)
    if kind == "process":
        return ThreadLane(ProcessRole(role))
    what = f"expected 'thread', 'inline' or 'process', found {kind!r}"
    raise SetupError(f"roles.{role.context.role}.lane: {what}")


class ThreadLane:
    """One thread for one role, so that its libraries meet one thread only.

    A batch costs one wake-up each way: a queue into the thread, a callback out.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=f"lane-{role.context.role}", daemon=True)
        self._thread.start()

    async def load(self) -> None:
        """Run `role.load()` on the thread."""
        await self._call(self._role.load)

    def compute(self, items: Sequence[Fields], done: Callable[[Computed], None]) -> None:
        """Queue a batch for the thread."""

        def job() -> None:
            computed = run_batch(self._role, items)
            self._tell(done, computed)

        self._jobs.put(job)

    async def aclose(self) -> None:
        """Close the role on its thread, after what runs, and end the thread."""
        try:
            async with asyncio.timeout(JOIN_S):
                await self._call(self._role.close)
        except TimeoutError:
            log.warning("lane.left_running", extra={"role": self._role.context.role})
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    async def _call(self, function: Callable[[], None]) -> None:
        future: asyncio.Future[None] = self._loop.create_future()

        def finish(error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        def job() -> None:
            error: BaseException | None = None
            try:
                function()
            except BaseException as caught:  # noqa: BLE001 - handed over to the loop, which raises it
                error = caught
            self._tell(finish, error)

        self._jobs.put(job)
        await future

    def _tell(self, function: Callable[[Any], None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:
            log.debug("lane.outlived_loop", extra={"role": self._role.context.role})


class InlineLane:
    """The loop itself, for roles that finish in well under 100 µs."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._loop = asyncio.get_running_loop()

    async def load(self) -> None:
        """Run `role.load()` in a passing thread: it may read files for long."""
        await asyncio.to_thread(self._role.load)

    def compute(self, items: Sequence[Fields], done: Callable[[Computed], None]) -> None:
        """Run the batch here and now; told in the loop's next turn, which is others' turn too."""
        self._loop.call_soon(done, run_batch(self._role, items))

    async def aclose(self) -> None:
        """Close the role."""
        await asyncio.to_thread(self._role.close)


def run_batch(role: Role, items: Sequence[Fields]) -> Computed:
    """Run a batch such that no item fails for another's sake.

    When `run` raises, the items are run one by one. A role that must not run an
    item twice gets its items one by one from the start.
    """
    began_s = monotonic()
    answers: Sequence[Fields | MeshError]
    if len(items) > 1 and not role.idempotent:
        answers = [_run_one(role, item) for item in items]
    else:
        answers = _run_all(role, items)
    return Computed(answers, began_s, monotonic())


def _run_all(role: Role, items: Sequence[Fields]) -> Sequence[Fields | MeshError]:
    try:
        answers = role.run(items)
        if len(answers) != len(items):
            raise RoleError(f"gave {len(answers)} answers to {len(items)} items")
    except Exception as error:  # noqa: BLE001 - a role is foreign code: whatever it raises fails its item
        if len(items) > 1:
            return [_run_one(role, item) for item in items]
        return [_translate(role, error)]
    for answer in answers:
        if type(answer) is not dict:
            return [_checked(role, answer) for answer in answers]
    return answers  # type: ignore[return-value]  # every one is a dict


def _run_one(role: Role, item: Fields) -> Fields | MeshError:
    return _run_all(role, [item])[0]


def _checked(role: Role, answer: object) -> Fields | MeshError:
    if isinstance(answer, dict):
        return answer
    if isinstance(answer, Exception):
        return _translate(role, answer)
    return _translate(role, RoleError(f"gave {type(answer).__name__} where a dict was expected"))


def _translate(role: Role, error: Exception) -> MeshError:
    """Return the error as one of the tree; log it if it is the role's own."""
    name = role.context.role
    if isinstance(error, MeshError):
        error.role = error.role or name
        return error
    log.error("role.failed", extra={"role": name}, exc_info=error)
    translated = RoleError(f"role {name!r} failed: {type(error).__name__}: {error}", role=name)
    translated.__cause__ = error
    return translated
