"""When something is due next, by name.

Pure. A heap with one time per name: setting a name again moves its alarm.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection

Name = tuple[str, ...]


class Alarms:
    """Named times, earliest first; equal times in the order in which they were set."""

    def __init__(self) -> None:
        self._at: dict[Name, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Name]] = []
        self._order = 0

    def set(self, name: Name, at_s: float) -> None:
        """Ring at `at_s`, and no longer at the time set before."""
        self._order += 1
        self._at[name] = (at_s, self._order)
        heapq.heappush(self._heap, (at_s, self._order, name))

    def clear(self, name: Name) -> None:
        """Do not ring."""
        self._at.pop(name, None)

    def at_s(self, name: Name) -> float | None:
        """Return when `name` rings, or None."""
        found = self._at.get(name)
        return found[0] if found else None

    def next_s(self) -> float | None:
        """Return when the next alarm rings, or None while none is set."""
        while self._heap:
            at_s, order, name = self._heap[0]
            if self._at.get(name) == (at_s, order):
                return at_s
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now_s: float) -> Name | None:
        """Return the name of an alarm that is due, and forget it."""
        at_s = self.next_s()
        if at_s is None or at_s > now_s:
            return None
        name = heapq.heappop(self._heap)[2]
        del self._at[name]
        return name

    def shift(self, kinds: Collection[str], by_s: float) -> None:
        """Let every alarm whose name starts with one of `kinds` ring `by_s` later."""
        for name, (at_s, _) in list(self._at.items()):
            if name[0] in kinds:
                self.set(name, at_s + by_s)
