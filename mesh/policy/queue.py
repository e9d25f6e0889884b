"""Who waits, and who is next: the urgent class, then the earliest deadline, then first come.

Pure. One `Queue` per role, inside its `BatchFormer`. It is bounded: who comes
when it is full is refused, unless someone less urgent can go in its place.

Rules:
1. Nothing is lost: each entry is taken, discarded by its owner, expired or evicted; once.
2. Within a class and for equal deadlines, entries leave in the order they came.
3. An entry whose deadline has passed is never taken.
"""

from __future__ import annotations

from enum import Enum
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from mesh.policy.request import Priority

Item = TypeVar("Item")

_CLASSES = len(Priority)
_SLACK = 64  # discarded entries are swept out of a heap once they are more than this and half of it


class State(Enum):
    """Where an entry is; it leaves WAITING once."""

    WAITING = "waiting"
    TAKEN = "taken"
    GONE = "gone"


# An enum's members are looked up by a function: six times per item on the way of every request.
_WAITING, _TAKEN, _GONE = State.WAITING, State.TAKEN, State.GONE


class Entry(Generic[Item]):
    """One item with what decides its place; a ticket for `discard`."""

    __slots__ = ("arrived_s", "cost", "deadline_s", "item", "priority", "state")

    def __init__(
        self, item: Item, cost: int, priority: int, deadline_s: float, arrived_s: float
    ) -> None:
        self.item = item
        self.cost = cost
        self.priority = priority
        self.deadline_s = deadline_s
        self.arrived_s = arrived_s
        self.state = _WAITING


class Queue(Generic[Item]):
    """A bounded queue of three classes.

    Args:
        items_max: how many may wait.
    """

    def __init__(self, items_max: int) -> None:
        assert items_max > 0
        self.items_max = items_max
        self.cost = 0
        self._count = 0
        self._counts = [0] * _CLASSES
        self._costs = [0] * _CLASSES
        self._sequence = 0
        # Keys are (deadline, sequence, entry); the sequence is unique, so entries never compare.
        self._heaps: list[list[tuple[float, int, Entry[Item]]]] = [[] for _ in range(_CLASSES)]

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether a push needs an eviction first."""
        return self._count >= self.items_max

    def push(
        self, item: Item, now_s: float, *, cost: int, priority: int, deadline_s: float
    ) -> Entry[Item]:
        """Add an item and return its entry; the queue must not be full."""
        assert self._count < self.items_max, "evict or refuse before pushing"
        entry = Entry(item, cost, priority, deadline_s, now_s)
        self._sequence += 1
        heappush(self._heaps[priority], (deadline_s, self._sequence, entry))
        self._count += 1
        self._counts[priority] += 1
        self._costs[priority] += cost
        self.cost += cost
        return entry

    def ahead(self, priority: int) -> tuple[int, int]:
        """Return how many entries, and what cost, go before one that comes now."""
        return sum(self._counts[: priority + 1]), sum(self._costs[: priority + 1])

    def discard(self, entry: Entry[Item]) -> bool:
        """Forget an entry whose owner went away; False when it has already left."""
        if entry.state is not _WAITING:
            return False
        self._leave(entry, _GONE)
        heap = self._heaps[entry.priority]
        if len(heap) > _SLACK and len(heap) > 2 * self._count:
            heap[:] = [key for key in heap if key[2].state is _WAITING]
            heapify(heap)
        return True

    def evict(self, priority: int) -> Entry[Item] | None:
        """Remove and return the last entry of the least urgent class below `priority`."""
        for heap in reversed(self._heaps[priority + 1 :]):
            waiting = [key for key in heap if key[2].state is _WAITING]
            if waiting:
                entry = max(waiting)[2]
                self._leave(entry, _GONE)
                return entry
        return None

    def peek(self) -> Entry[Item] | None:
        """Return who is next, expired or not."""
        for heap in self._heaps:
            while heap and heap[0][2].state is not _WAITING:
                heappop(heap)
            if heap:
                return heap[0][2]
        return None

    def pop(self) -> Entry[Item]:
        """Take who is next."""
        entry = self.peek()
        assert entry is not None, "pop from an empty queue"
        self._leave(entry, _TAKEN)
        heappop(self._heaps[entry.priority])
        return entry

    def pop_many(self, items_max: int, cost_max: int = 0) -> list[Entry[Item]]:
        """Take the next entries: at most `items_max`, and no second one beyond `cost_max`."""
        taken: list[Entry[Item]] = []
        cost = 0
        for heap in self._heaps:
            while heap and len(taken) < items_max:
                entry = heap[0][2]
                if entry.state is _WAITING:
                    cost += entry.cost
                    if cost_max and taken and cost > cost_max:
                        return taken
                    self._leave(entry, _TAKEN)
                    taken.append(entry)
                heappop(heap)
        return taken

    def expire(self, now_s: float) -> list[Entry[Item]]:
        """Remove and return what is past its deadline; it stands at the head of its class."""
        gone = []
        for heap in self._heaps:
            while heap and (heap[0][2].state is not _WAITING or heap[0][0] <= now_s):
                entry = heappop(heap)[2]
                if entry.state is _WAITING:
                    self._leave(entry, _GONE)
                    gone.append(entry)
        return gone

    def oldest_s(self) -> float | None:
        """Return when the entry that has waited longest came; a scan, for windows only."""
        return min(
            (key[2].arrived_s for heap in self._heaps for key in heap if key[2].state is _WAITING),
            default=None,
        )

    def latest_s(self) -> float:
        """Return the latest deadline of what waits; a scan, for overload only."""
        return max(
            (key[0] for heap in self._heaps for key in heap if key[2].state is _WAITING),
            default=0.0,
        )

    def check(self) -> None:
        """Assert that counts agree with what is there."""
        waiting = [k[2] for heap in self._heaps for k in heap if k[2].state is _WAITING]
        assert len(waiting) == self._count <= self.items_max
        assert sum(entry.cost for entry in waiting) == self.cost
        assert (self._count, self.cost) == self.ahead(_CLASSES - 1)

    def _leave(self, entry: Entry[Item], state: State) -> None:
        entry.state = state
        self._count -= 1
        self._counts[entry.priority] -= 1
        self._costs[entry.priority] -= entry.cost
        self.cost -= entry.cost
