"""What runs together, and when: an idle lane takes at once what is there.

Pure. One `BatchFormer` per role; `flow.batcher` submits items, asks for a batch
whenever the lane is free, and wakes up at `wakeup_s()` if there is a window.

    submit --> [ waiting: class, deadline, order ] -- lane free --> take --> Taken(entries)

Rules, in order of authority:
1. A batch holds at most `items_max` items, and no second item beyond `cost_max`.
2. What is in it is decided when it leaves, not when items come.
3. With `wait_s` = 0 nothing waits while the lane is idle; else a batch that is not full
   leaves when its oldest item has waited that long.
4. Expired items never run, nor do items that would end too late while others would not:
   or an overload would keep the lane busy with work that is late for everybody.
5. Who cannot be served before its deadline is refused at once, and told when to come back;
   so is the least urgent class while the queue stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil, inf
from typing import Generic, TypeVar

from mesh.errors import DeadlineExceeded, Overloaded
from mesh.policy.cost import CostModel
from mesh.policy.limits import Standing
from mesh.policy.queue import Entry, Queue
from mesh.policy.request import Priority

Item = TypeVar("Item")

MARGIN = 1.25  # estimates err; work for who hears of it too late is lost for everybody
RETRY_AFTER_S_MIN = 1.0  # Retry-After is in whole seconds; 0 would invite the caller straight back


class Cause(Enum):
    """Why a batch left."""

    FULL = "full"
    IDLE = "idle"
    WINDOW = "window"


@dataclass(frozen=True, slots=True)
class Taken(Generic[Item]):
    """A batch that leaves now, in the order of its entries; `cost` is their sum."""

    entries: Sequence[Entry[Item]]
    cost: int
    cause: Cause


class BatchFormer(Generic[Item]):
    """Queue and window of one role.

    Args:
        items_max: most items of a batch, >= 1.
        cost_max: most cost of a batch, in the role's unit; 0: not limited.
        wait_s: how long an idle lane waits for a batch to fill.
        queue_max: most items that wait.
    """

    def __init__(
        self, *, items_max: int, cost_max: int = 0, wait_s: float = 0.0, queue_max: int = 1024
    ) -> None:
        assert items_max >= 1
        assert cost_max >= 0
        assert wait_s >= 0.0
        self.items_max = items_max
        self.cost_max = cost_max
        self.wait_s = wait_s
        self.model = CostModel()
        self._queue: Queue[Item] = Queue(queue_max)
        self._standing = Standing()
        self._size = 1  # of the last batch
        self._busy_until_s = 0.0  # when the batch that runs should end; estimated

    def __len__(self) -> int:
        return len(self._queue)

    def submit(
        self, item: Item, now_s: float, *, cost: int, priority: int, deadline_s: float
    ) -> tuple[Entry[Item], Entry[Item] | None]:
        """Queue an item; return its entry, and the one that had to leave for it, if any.

        Raises:
            DeadlineExceeded: its time is over.
            Overloaded: the queue is full, or the deadline cannot be met.
        """
        if deadline_s <= now_s:
            raise DeadlineExceeded("the deadline passed before the item was queued")
        victim = None
        if self._queue.is_full:
            victim = self._queue.evict(priority)
            if victim is None:
                raise self.full(now_s)
        if len(self._queue):
            self._check_in_time(now_s, cost, priority, deadline_s)
        entry = self._queue.push(item, now_s, cost=cost, priority=priority, deadline_s=deadline_s)
        return entry, victim

    def discard(self, entry: Entry[Item]) -> bool:
        """Forget an item whose caller went away; False when it has already left the queue."""
        return self._queue.discard(entry)

    def expire(self, now_s: float) -> list[Entry[Item]]:
        """Remove and return items whose deadline has passed. Call it before `take`."""
        return self._queue.expire(now_s)

    def give_up(self, now_s: float) -> list[Entry[Item]]:
        """Remove and return items that cannot end in time, if others can. Call it before `take`."""
        if len(self._queue) < 2 or not self.model.is_known:
            return []
        items = min(len(self._queue), self.items_max)
        ends_s = now_s + self.model.batch_s(self._queue.cost * items / len(self._queue))
        head = self._queue.peek()
        if head is None or head.deadline_s > ends_s or self._queue.latest_s() <= ends_s:
            return []
        return self._queue.expire(ends_s)

    def clear(self) -> list[Entry[Item]]:
        """Remove and return everything that waits."""
        return self._queue.expire(inf)

    def take(self, now_s: float) -> Taken[Item] | None:
        """Return the batch that leaves now, when the lane is free; None to wait for more."""
        head = self._queue.peek()
        if head is None:
            return None
        if self.wait_s and not self._is_due(now_s):
            return None
        return self._fill(now_s)

    def finished(self, cost: int, ran_s: float) -> None:
        """Learn how long a batch took."""
        self._busy_until_s = 0.0
        self.model.observe(cost, ran_s)

    def wakeup_s(self) -> float | None:
        """Return when the window of the oldest item ends; None without a window or items."""
        oldest_s = self._queue.oldest_s() if self.wait_s else None
        return None if oldest_s is None else oldest_s + self.wait_s

    def waiting_s(self, now_s: float) -> float:
        """Return the estimated seconds of work before an item that comes now."""
        waiting = self.model.work_s(
            len(self._queue), self._queue.cost, self.items_max, self.cost_max
        )
        return waiting + max(0.0, self._busy_until_s - now_s)

    def retry_after_s(self, now_s: float) -> float:
        """Return when it is worth to come back: once half of what waits has run."""
        return max(RETRY_AFTER_S_MIN, 0.5 * self.waiting_s(now_s))

    def full(self, now_s: float) -> Overloaded:
        """Return the error of a full queue."""
        return Overloaded(
            f"{len(self._queue)} items wait, which is the limit",
            retry_after_s=self.retry_after_s(now_s),
        )

    def check(self) -> None:
        """Assert every invariant."""
        self._queue.check()

    def _check_in_time(self, now_s: float, cost: int, priority: int, deadline_s: float) -> None:
        """Refuse what would be late; with nobody waiting, an item may always try."""
        if priority == Priority.BATCH and self._standing.is_standing:
            raise Overloaded(
                "the queue has stood for long; the least urgent items are refused until it moves",
                retry_after_s=self.retry_after_s(now_s),
            )
        model, busy_s = self.model, max(0.0, self._busy_until_s - now_s)
        # Every item a batch of its own, filled up to the limit: if even that is in time, which it
        # nearly always is, nothing need be estimated.
        most_cost = (self._queue.cost + cost) * (1 + self.items_max)
        most_s = busy_s + (len(self._queue) + 1) * model.base_s + model.unit_s * most_cost
        if now_s + most_s * MARGIN <= deadline_s:
            return
        work_s = busy_s + self._own_s(cost, priority)
        if now_s + work_s * MARGIN > deadline_s:
            raise Overloaded(
                "the work that waits would take longer than the deadline allows",
                retry_after_s=self.retry_after_s(now_s),
            )

    def _own_s(self, cost: int, priority: int) -> float:
        """Return the estimated seconds until an item that comes now has run, once the lane is free.

        Its batch goes on filling while it waits: it is taken to be as large as the last one.
        """
        items, ahead = self._queue.ahead(priority)
        size = min(self.items_max, max(self._size, items + 1))
        batch_cost = size * (ahead + cost) / (items + 1)
        batches = ceil((items + 1) / size)
        if self.cost_max and batch_cost > self.cost_max:
            batch_cost = self.cost_max
            batches = ceil((ahead + cost) / batch_cost)
        return batches * self.model.batch_s(batch_cost)

    def _is_due(self, now_s: float) -> bool:
        if len(self._queue) >= self.items_max:
            return True
        if self.cost_max and self._queue.cost >= self.cost_max:
            return True
        wakeup_s = self.wakeup_s()
        return wakeup_s is not None and now_s >= wakeup_s

    def _fill(self, now_s: float) -> Taken[Item]:
        entries = self._queue.pop_many(self.items_max, self.cost_max)
        cost = sum([entry.cost for entry in entries])
        left = len(self._queue)
        is_full = len(entries) == self.items_max and (left > 0 or self.items_max > 1)
        is_full = is_full or (self.cost_max > 0 and left > 0)
        self._size = len(entries)
        self._busy_until_s = now_s + self.model.batch_s(cost)
        if len(self._queue):
            self._standing.took(now_s - entries[-1].arrived_s, self.model.batch_s(cost), now_s)
        else:
            self._standing.emptied()
        cause = Cause.FULL if is_full else Cause.WINDOW if self.wait_s else Cause.IDLE
        return Taken(entries, cost, cause)
