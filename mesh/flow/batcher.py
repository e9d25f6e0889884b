"""Runs the items of one role in batches: hands them to its lane, and answers to their callers.

Shell: `policy.batch` decides what runs together; the lane computes. Nothing here
makes a task or a timer per item. While the lane computes, the next batch gathers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from mesh.errors import Draining, MeshError, Overloaded, RoleError
from mesh.flow.deadlines import Deadlines
from mesh.flow.lane import Computed, Lane
from mesh.policy.batch import BatchFormer, Cause, Taken
from mesh.policy.deadline import exceeded
from mesh.policy.queue import Entry
from mesh.policy.request import Request
from mesh.roles.base import Role
from mesh.wire.messages import Answer, Fields, Timing

log = logging.getLogger(__name__)

SAMPLES_MAX = 1024  # recent waits and runs that percentiles are taken from

Tell = Callable[[Answer | MeshError], None]


class Started:
    """One item whose answer is told, not awaited: a future's part without its turn of the loop.

    Args:
        batcher: that it was given to.
        tell: called once with the answer or the error, unless `cancel` comes first.
    """

    __slots__ = ("_batcher", "_is_done", "_tell", "entry", "watched")

    def __init__(self, batcher: Batcher, tell: Tell) -> None:
        self._batcher = batcher
        self._tell = tell
        self._is_done = False
        self.entry: Entry[_Job] | None = None
        self.watched: set[Any] = set()

    def done(self) -> bool:
        """Whether it was told, or is not wanted any more."""
        return self._is_done

    def set_result(self, answer: Answer) -> None:
        """Tell the answer."""
        self._end(answer)

    def set_exception(self, error: MeshError) -> None:
        """Tell the error; an item that still waits is dropped."""
        if self.entry is not None:
            self._batcher.drop(self.entry)
        self._end(error)

    def cancel(self) -> None:
        """Give the item up; it is dropped if it has not begun."""
        if not self._is_done:
            self._is_done = True
            self.watched.discard(self)
            entry, self.entry = self.entry, None
            if entry is not None:
                self._batcher.drop(entry)

    def _end(self, outcome: Answer | MeshError) -> None:
        self._is_done = True
        self.entry = None  # it holds us: a ring that only the collector would find
        self.watched.discard(self)
        try:
            self._tell(outcome)
        except Exception:
            # A fault of one listener: the other items of its batch are answered all the same.
            log.exception("answer.untold")


class _Job:
    __slots__ = ("future", "item")

    def __init__(self, item: Fields, future: asyncio.Future[Answer] | Started) -> None:
        self.item = item
        self.future = future


class Batcher:
    """The queue, the lane and the figures of one role on this node.

    Args:
        role: loaded by its lane before the first item.
        lane: where it computes; one batch at a time.
        former: what runs together.
        deadlines: shared by the node.
        clock: monotonic seconds, the loop's base.
    """

    def __init__(
        self,
        role: Role,
        lane: Lane,
        former: BatchFormer[_Job],
        deadlines: Deadlines,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._role = role
        self._lane = lane
        self._former = former
        self._deadlines = deadlines
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._has_fixed_cost = type(role).cost is Role.cost
        self._running: Taken[_Job] | None = None
        self._is_poked = False
        self._is_closed = False
        self._window: asyncio.TimerHandle | None = None
        self._causes: Counter[Cause] = Counter()
        self._sizes: Counter[int] = Counter()
        self._dropped: Counter[str] = Counter()
        self._queued_ms: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._ran_ms: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._busy_s = self._began_s = 0.0

    async def submit(self, item: Fields, request: Request) -> Answer:
        """Run one item in some batch and return its answer.

        Cancelling the caller drops the item if it has not begun.

        Raises:
            MeshError: what the role raised for this item, or why it never ran.
        """
        future = self._loop.create_future()
        entry = self._queue(_Job(item, future), request)
        watched = self._deadlines.watch(future, request.deadline_s)
        try:
            return await future
        except BaseException:
            self.drop(entry)
            raise
        finally:
            watched.discard(future)

    def start(self, item: Fields, request: Request, tell: Tell) -> Started:
        """Run one item as `submit` does, and tell its answer: without a task or a future.

        Raises:
            MeshError: the item was not taken; nothing will be told.
        """
        started = Started(self, tell)
        started.entry = self._queue(_Job(item, started), request)
        started.watched = self._deadlines.watch(started, request.deadline_s)
        return started

    def drop(self, entry: Entry[_Job]) -> None:
        """Forget an item whose caller is gone, if it has not begun."""
        if self._former.discard(entry):
            self._dropped["gone"] += 1

    @property
    def in_flight(self) -> int:
        """Items that wait or run."""
        return len(self._former) + (len(self._running.entries) if self._running else 0)

    @property
    def busy_s(self) -> float:
        """How long the lane has computed in all, with the batch that it is at."""
        return self._busy_s + (self._clock() - self._began_s if self._running else 0.0)

    def waiting_s(self) -> float:
        """Return the estimated seconds of work that an item would wait for now."""
        return self._former.waiting_s(self._clock())

    def statistics(self) -> dict[str, Any]:
        """Return the figures of this role's batches."""
        total = sum(self._sizes.values())
        items = sum(size * count for size, count in self._sizes.items())
        return {
            "queued": len(self._former),
            "running": len(self._running.entries) if self._running else 0,
            "waiting_s": round(self.waiting_s(), 6),
            "total_items": items,
            "total_batches": total,
            "avg_batch_size": round(items / total, 3) if total else 0.0,
            "timeout_batches": self._causes[Cause.WINDOW],
            "full_batches": self._causes[Cause.FULL],
            "batch_sizes": {str(size): self._sizes[size] for size in sorted(self._sizes)},
            "dropped": dict(self._dropped),
            "queued_ms": percentiles(self._queued_ms),
            "ran_ms": percentiles(self._ran_ms),
        }

    async def aclose(self) -> None:
        """Refuse what waits and stop the lane."""
        self._is_closed = True
        if self._window is not None:
            self._window.cancel()
        for entry in self._former.clear():
            self._fail(entry, Draining(f"role {self._role.context.role!r} is stopping"), "closed")
        await self._lane.aclose()

    def _queue(self, job: _Job, request: Request) -> Entry[_Job]:
        if self._is_closed:
            raise Draining(f"role {self._role.context.role!r} is stopping")
        try:
            entry, victim = self._former.submit(
                job,
                self._clock(),
                cost=1 if self._has_fixed_cost else self._cost(job.item),
                priority=request.priority,
                deadline_s=request.deadline_s,
            )
        except MeshError as error:
            self._dropped[error.code] += 1
            raise
        if victim is not None:
            self._fail(victim, Overloaded("a more urgent item took this one's place"), "evicted")
        if self._running is None and not self._is_poked:
            # Not at once: what else comes in this turn of the loop goes along.
            self._is_poked = True
            self._loop.call_soon(self._pump)
        return entry

    def _cost(self, item: Fields) -> int:
        try:
            return int(self._role.cost(item))
        except MeshError:
            raise
        except Exception as error:
            name = self._role.context.role
            raise RoleError(f"role {name!r} could not cost an item: {error}", role=name) from error

    def _pump(self) -> None:
        """Start the next batch if the lane is free and one is due."""
        self._is_poked = False
        if self._running is not None or self._is_closed:
            return
        now_s = self._clock()
        for entry in self._former.expire(now_s):
            self._fail(entry, exceeded("while the item was queued"), "expired")
        for entry in self._former.give_up(now_s):
            self._fail(entry, self._too_late(now_s), "given_up")
        taken = self._former.take(now_s)
        if taken is None:
            self._wait_window()
            return
        self._running, self._began_s = taken, now_s
        self._causes[taken.cause] += 1
        self._sizes[len(taken.entries)] += 1
        self._lane.compute([entry.item.item for entry in taken.entries], self._finished)

    def _too_late(self, now_s: float) -> Overloaded:
        return Overloaded(
            "the work before this item took longer than its deadline allows",
            retry_after_s=self._former.retry_after_s(now_s),
        )

    def _wait_window(self) -> None:
        if self._window is not None:
            self._window.cancel()
            self._window = None
        wakeup_s = self._former.wakeup_s()
        if wakeup_s is not None:
            self._window = self._loop.call_at(wakeup_s, self._pump)

    def _finished(self, computed: Computed) -> None:
        taken = self._running
        assert taken is not None
        self._running = None
        ran_s = computed.ended_s - computed.began_s
        self._former.finished(taken.cost, ran_s)
        self._ran_ms.append(ran_s * 1000.0)
        self._busy_s += ran_s
        self._answer(taken.entries, computed, ran_s * 1000.0)
        self._pump()

    def _answer(self, entries: Sequence[Entry[_Job]], computed: Computed, ran_ms: float) -> None:
        size, load = len(entries), self.waiting_s()
        for entry, answer in zip(entries, computed.answers, strict=True):
            queued_ms = max(0.0, computed.began_s - entry.arrived_s) * 1000.0
            self._queued_ms.append(queued_ms)
            future = entry.item.future
            if future.done():  # its caller is gone, or its deadline has passed
                continue
            if isinstance(answer, MeshError):
                future.set_exception(answer)
            else:
                future.set_result(Answer(answer, Timing(queued_ms, ran_ms, size), load))

    def _fail(self, entry: Entry[_Job], error: MeshError, why: str) -> None:
        self._dropped[why] += 1
        if not entry.item.future.done():
            entry.item.future.set_exception(error)


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99 of recent samples, {} when there are none."""
    if not samples:
        return {}
    ordered = sorted(samples)
    last = len(ordered) - 1
    return {f"p{p}": round(ordered[round(last * p / 100)], 3) for p in (50, 95, 99)}
