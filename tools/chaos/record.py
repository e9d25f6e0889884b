"""Counts what became of the requests of one fault: lost, doubled, late.

Pure. The load tells it when each request began, what came of it, and how it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

LATE_FACTOR = 3.0  # a request is disturbed that takes three times as long as calm ones at worst …
LATE_S = 0.1  # … and this much longer


@dataclass(slots=True)
class Asked:
    """One request."""

    id: str
    kind: str
    began_s: float
    ended_s: float = 0.0
    error: str = ""
    retry_after_s: float | None = None
    pieces: list[int] = field(default_factory=list)
    heard_s: list[float] = field(default_factory=list)  # when each piece came, of every attempt
    wanted: int = 0
    answers: int = 0

    @property
    def took_s(self) -> float:
        """How long it took."""
        return self.ended_s - self.began_s

    @property
    def gap(self) -> tuple[float, float]:
        """The longest time without a piece: how long, and when it ended."""
        times = [self.began_s, *self.heard_s, self.ended_s]
        return max(((b - a, b) for a, b in pairwise(times)), default=(0.0, 0.0))

    @property
    def is_good(self) -> bool:
        """Whether it ended with its answer."""
        return not self.error and self.answers > 0 and self.missing == 0

    @property
    def missing(self) -> int:
        """Pieces that never came."""
        return len(set(range(self.wanted)) - set(self.pieces))

    @property
    def doubled(self) -> int:
        """Answers and pieces beyond the first of each, and pieces out of order."""
        again = len(self.pieces) - len(set(self.pieces))
        swapped = sum(a > b for a, b in pairwise(self.pieces))
        return again + swapped + max(0, self.answers - 1)


@dataclass(frozen=True, slots=True)
class Row:
    """What one fault did; times in milliseconds but `recover_s`."""

    fault: str
    requests: int
    failed: int
    doubled: int
    again: int
    p50_ms: float
    p99_ms: float
    pause_ms: float
    recover_s: float
    reasons: tuple[str, ...] = ()


def row_of(fault: str, asked: Sequence[Asked], fault_at_s: float, runs: Sequence[str]) -> Row:
    """Return what became of the requests.

    Args:
        fault: its name.
        asked: every request, ended.
        fault_at_s: when it began.
        runs: ids of items, once for each time that a role began with one.
    """
    ids = {one.id for one in asked}
    noted = [run for run in runs if run in ids]
    bad = [one for one in asked if not one.is_good]
    calls = sorted(one.took_s for one in asked if one.kind == "call" and one.is_good)
    reasons = sorted({f"{one.kind}: {one.error or 'incomplete'}" for one in bad})
    return Row(
        fault,
        requests=len(asked),
        failed=len(bad),
        doubled=sum(one.doubled for one in asked),
        again=len(noted) - len(set(noted)),
        p50_ms=_at(calls, 0.50) * 1000.0,
        p99_ms=_at(calls, 0.99) * 1000.0,
        pause_ms=_pause_s(asked) * 1000.0,
        recover_s=_recover_s(asked, fault_at_s),
        reasons=tuple(reasons),
    )


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))] if ordered else 0.0


def _pause_s(asked: Sequence[Asked]) -> float:
    """Return the longest time in which no call was answered."""
    ends = sorted(one.ended_s for one in asked if one.kind == "call" and one.is_good)
    return max((b - a for a, b in pairwise(ends)), default=0.0)


def _recover_s(asked: Sequence[Asked], fault_at_s: float) -> float:
    """Return how long after the fault the last request went on that it disturbed.

    A call goes on when it is answered, a stream when its next piece comes: how long a stream
    takes that begins anew is its own length.
    """
    last_s = fault_at_s
    for kind in {one.kind for one in asked}:
        mine = [one for one in asked if one.kind == kind]
        held = [_held(one) for one in mine]
        calm_s = max((took for took, until_s in held if until_s < fault_at_s), default=0.0)
        limit_s = max(LATE_FACTOR * calm_s, calm_s + LATE_S)
        for one, (took_s, until_s) in zip(mine, held, strict=True):
            if until_s > last_s and (took_s > limit_s or not one.is_good):
                # What a fault late in the request cost, not the request's own length.
                last_s = max(last_s, min(until_s, fault_at_s + took_s))
    return last_s - fault_at_s


def _held(one: Asked) -> tuple[float, float]:
    """Return the longest time for which its caller heard nothing, and when that ended."""
    if not one.is_good:
        return one.took_s, one.ended_s
    return one.gap if one.kind == "stream" else (one.took_s, one.ended_s)
