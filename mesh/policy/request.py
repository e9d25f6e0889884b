"""What is known of one request wherever it is: who, until when, how urgent.

Pure. Made at a door, or from a `Call` at the next hop; handed down to every
part that works for the request.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Priority(IntEnum):
    """Classes of urgency; lower goes first, `BATCH` is shed first."""

    CRITICAL = 0
    NORMAL = 1
    BATCH = 2


class Request(msgspec.Struct, frozen=True):
    """One request on its way.

    `deadline_s` is in this process's monotonic seconds (`time.monotonic`, which is
    also the event loop's clock). It never leaves the process: the wire carries the
    time left.
    """

    id: str
    deadline_s: float
    priority: Priority = Priority.NORMAL
    traceparent: str = ""
    attempt: int = 0

    def left_s(self, now_s: float) -> float:
        """Return the seconds left, 0.0 when none."""
        return max(0.0, self.deadline_s - now_s)
