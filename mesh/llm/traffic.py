"""Decides which lane a frame takes, what it must not overtake, and when a stage may compute it.

Pure. Every lane is a way round of its own: a connection and a thread at each node. On one lane
frames keep their order; between lanes they need none unless they touch the same slot. So:

1. A frame goes where frames that touch its slots are under way, else where fewest are.
2. It names, for each other lane, the newest frame under way that touches one of its slots.
3. A stage computes it when it has computed those, and while fewer than `abreast` others
   are computed.

A frame waits only for older ones, and the oldest waits for none: nothing stands still for ever.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mesh.llm.frames import Entry, Kind
from mesh.llm.step import Step


@dataclass(frozen=True, slots=True)
class Flight:
    """A frame under way; a step that the head has chosen, and is still at work on, has number 0.

    Attributes:
        step: that it makes; None: an order.
        kind: of the frame.
        lane: that it takes.
        slots: that it touches.
        sent_s: monotonic.
        own_us: what the head has computed for it.
    """

    step: Step | None
    kind: Kind
    lane: int
    slots: AbstractSet[int]
    sent_s: float = 0.0
    own_us: int = 0


class Traffic:
    """What the head knows of the frames of one way round."""

    def __init__(self, lanes: int = 1) -> None:
        assert lanes > 0
        self.lanes = lanes
        self._making: list[Flight] = []  # steps that have not been sent yet
        self._flights: dict[int, Flight] = {}  # by number, in order
        self._number = 0

    # --- choosing ----------------------------------------------------------------------

    def under_way(self, kind: Kind) -> int:
        """Return how many steps of a kind are at work anywhere."""
        return sum(each.kind is kind for each in (*self._making, *self._flights.values()))

    def is_making(self, kind: Kind) -> bool:
        """Return whether the head is at work on a step of that kind."""
        return any(each.kind is kind for each in self._making)

    def row_lane(self, preferred: int, lanes: int) -> int:
        """Return a lane of the first `lanes` that has no rows, the preferred one if it may be."""
        rows = {
            each.lane for each in (*self._making, *self._flights.values()) if each.kind is Kind.ROWS
        }
        free = [lane for lane in range(min(lanes, self.lanes)) if lane not in rows]
        return preferred if preferred in free else min(free, default=0)

    def lane(self, slots: AbstractSet[int]) -> int:
        """Return the lane of a frame that touches these slots and may take any."""
        counts = [0] * self.lanes
        for each in (*self._making, *self._flights.values()):
            if not slots.isdisjoint(each.slots):
                return each.lane
            counts[each.lane] += 1
        return counts.index(min(counts))

    def after(self, lane: int, slots: AbstractSet[int]) -> tuple[tuple[int, int], ...]:
        """Return the newest frame of each other lane that one with these slots must follow."""
        newest: dict[int, int] = {}
        for number, each in self._flights.items():
            if each.lane != lane and not slots.isdisjoint(each.slots):
                newest[each.lane] = number
        return tuple(newest.items())

    # --- what happens ------------------------------------------------------------------

    def make(self, flight: Flight) -> None:
        """Reckon with a step that the head begins."""
        self._making.append(flight)

    def made(self, flight: Flight) -> None:
        """Forget it: it has been sent, or failed."""
        self._making = [each for each in self._making if each is not flight]

    def send(self, flight: Flight) -> int:
        """Return the number of a frame that is sent now."""
        self._number += 1
        self._flights[self._number] = flight
        return self._number

    def back(self, number: int) -> Flight | None:
        """Return what has come round; None: it was not under way, or is back already."""
        return self._flights.pop(number, None)

    def flights(self) -> list[Flight]:
        """Return what has been sent and is not back, the oldest first."""
        return list(self._flights.values())


class Turns:
    """When frames are computed at one stage, whatever order lanes bring them in."""

    def __init__(self, lanes: int) -> None:
        self._done = [0] * lanes  # the newest step of each lane that was computed
        self.running = 0

    def may_begin(self, after: tuple[tuple[int, int], ...], abreast: int) -> bool:
        """Return whether a frame may be computed now."""
        return self.running < abreast and all(self._done[lane] >= step for lane, step in after)

    def begin(self) -> None:
        """One is computed."""
        self.running += 1

    def end(self, lane: int, step: int) -> None:
        """It has been computed, and sent on."""
        self.running -= 1
        self._done[lane] = step


def slots_of(entries: tuple[Entry, ...]) -> frozenset[int]:
    """Return the slots that entries touch."""
    return frozenset(entry.slot for entry in entries)
