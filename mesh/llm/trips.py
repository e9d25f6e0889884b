"""Keeps the mean times of steps on their way round, and the pauses that readers saw.

Pure. A step's way is computing at each part, hops between them, and waiting for a part that
is at work on another step. A stage knows whether a step found it at work, not since when it
had been there: so hops are measured by steps that waited nowhere, and what is left of the
others' time is waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMOOTH = 0.05  # weight of the newest step in mean times: about the last twenty


@dataclass(slots=True)
class Trip:
    """Mean times of a step's way round, ms, and their number."""

    trips: int = 0
    lone: int = 0  # of them, those that waited nowhere
    own_ms: float = 0.0  # the head's layers, before the way
    round_ms: float = 0.0  # from the head's layers until its output matrix
    compute_ms: float = 0.0  # of the stages behind the head
    wait_ms: float = 0.0
    hop_ms: float = 0.0  # one of them

    def note(
        self, spent_s: Sequence[float], round_s: float, waited_s: float, *, has_waited: bool
    ) -> None:
        """Add a step that came back.

        Args:
            spent_s: computing, the head's layers first.
            round_s: from when the head sent it until it was there again.
            waited_s: from then until the head took it.
            has_waited: a stage was at work when it came.
        """
        self.trips += 1
        hops, compute_s = len(spent_s), sum(spent_s[1:])
        left_ms = max(0.0, round_s - compute_s) * 1e3
        if not has_waited:
            self.lone += 1
            self.hop_ms += max(SMOOTH, 1 / self.lone) * (left_ms / hops - self.hop_ms)
        wait_ms = max(0.0, left_ms - hops * self.hop_ms) if has_waited else 0.0
        share = max(SMOOTH, 1 / self.trips)
        self.own_ms += share * (spent_s[0] * 1e3 - self.own_ms)
        self.round_ms += share * ((round_s + waited_s) * 1e3 - self.round_ms)
        self.compute_ms += share * (compute_s * 1e3 - self.compute_ms)
        self.wait_ms += share * (wait_ms + waited_s * 1e3 - self.wait_ms)

    def statistics(self) -> dict[str, float]:
        """Return the mean times."""
        names = ("own_ms", "round_ms", "compute_ms", "wait_ms", "hop_ms")
        return {name: round(getattr(self, name), 3) for name in names}


@dataclass(slots=True)
class Pauses:
    """How long answers that were being made stood still because the way was lost."""

    count: int = 0
    last_s: float = 0.0
    longest_s: float = 0.0
    since_s: float | None = None

    def begin(self, now_s: float) -> None:
        """The way is lost, and somebody was speaking; again before the end: the same pause."""
        if self.since_s is None:
            self.since_s = now_s

    def end(self, now_s: float) -> None:
        """A token came."""
        if self.since_s is not None:
            self.count += 1
            self.last_s = now_s - self.since_s
            self.longest_s = max(self.longest_s, self.last_s)
            self.since_s = None

    def forget(self) -> None:
        """Nobody waits any more."""
        self.since_s = None

    def statistics(self) -> dict[str, float]:
        """Return them in seconds."""
        last_s, longest_s = round(self.last_s, 3), round(self.longest_s, 3)
        return {"pauses": self.count, "last_pause_s": last_s, "longest_pause_s": longest_s}
