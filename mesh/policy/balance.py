"""Which of several nodes gets a call: the one that should finish it first, or another rule.

Pure. The router keeps one `View` per role and node, told of every call; load
that a server reports rides on its answers. A door sees its own calls at once
and those of other doors by these reports.

    least-loaded  earliest estimated finish; near ties by lot, so that doors do not herd
    round-robin   in turn
    random        by weight
    ring          owner of the key (`mesh.ring`), then `least-loaded` plays no part
    prefix        owner of the conversation (`policy.conversation`), `least-loaded` without one
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

SCAN_MAX = (
    4  # up to this many nodes all are compared; beyond, two drawn by lot (power of two choices)
)
TIE_SHARE = 0.2  # estimates closer than this are noise
TIE_S = 0.0005  # and so are half milliseconds
SLOW_START_S = 10.0  # a newcomer's caches are cold: its share grows over this time
SLOW_START_SHARE = 0.1  # from this share of its weight
FADE_S = 60.0  # a measured time that is this old counts half
_FRESH = 0.1  # weight of a new sample in the averages: about the last ten calls


class View:
    """One node's service of one role, as this door sees it."""

    __slots__ = ("_load_at_s", "_load_s", "_since_s", "call_s", "in_flight", "unit_s")

    def __init__(self, since_s: float) -> None:
        self.in_flight = 0
        self.call_s = 0.0  # one call there and back without queueing; 0: not known yet
        self.unit_s = 0.0  # what one more item adds
        self._load_s = 0.0
        self._load_at_s = since_s
        self._since_s = since_s

    def answered(
        self, now_s: float, *, ran_ms: float, network_ms: float, batch_size: int, load_s: float
    ) -> None:
        """Learn from an answer."""
        call_s = (ran_ms + network_ms) / 1000.0
        unit_s = ran_ms / 1000.0 / max(1, batch_size)
        if self.call_s:
            call_s = self.call_s + _FRESH * (call_s - self.call_s)
            unit_s = self.unit_s + _FRESH * (unit_s - self.unit_s)
        self.call_s, self.unit_s = call_s, unit_s
        self._load_s, self._load_at_s = load_s, now_s

    def lagged(self, now_s: float, took_s: float) -> None:
        """Learn from a call that was given up after `took_s`, if that is longer than usual.

        The losers of hedges would else teach nothing, and a slow node look as fast as ever.
        """
        if self.call_s and took_s > self.call_s:
            self.call_s = took_s
            self._load_s = max(0.0, self._load_s - (now_s - self._load_at_s))
            self._load_at_s = now_s

    def finish_s(self, now_s: float, weight: float = 1.0, unknown_s: float = 0.0) -> float:
        """Return the estimated seconds until a call that leaves now is answered.

        A reported load is worked off as time passes; our own calls in flight may
        be part of it, so the larger of both counts, not the sum.

        Args:
            now_s: monotonic seconds.
            weight: the node's capacity relative to others, > 0.
            unknown_s: assumed of a node that has not answered yet.
        """
        # Half is forgotten now and then, so that a node that was slow is tried again.
        fading = 0.5 ** ((now_s - self._load_at_s) / FADE_S)
        call_s = self.call_s * fading if self.call_s else unknown_s
        return (self.waiting_s(now_s, unknown_s) + call_s) / (weight * self.share(now_s))

    def waiting_s(self, now_s: float, unknown_s: float = 0.0) -> float:
        """Return the estimated seconds of work before a call that leaves now."""
        reported_s = max(0.0, self._load_s - (now_s - self._load_at_s))
        return max(reported_s, self.in_flight * (self.unit_s or unknown_s))

    def share(self, now_s: float) -> float:
        """Return the slow start's part of the node's weight, in (0, 1]."""
        age = (now_s - self._since_s) / SLOW_START_S
        return min(1.0, SLOW_START_SHARE + (1.0 - SLOW_START_SHARE) * max(0.0, age))


def least_loaded(finish_s: Sequence[float], rng: Random) -> int:
    """Return the index of the least estimate, or by lot one that is as good."""
    assert finish_s
    indices: Sequence[int] = range(len(finish_s))
    if len(finish_s) > SCAN_MAX:
        indices = rng.sample(indices, 2)
    best = min(finish_s[index] for index in indices)
    limit = best * (1.0 + TIE_SHARE) + TIE_S
    tied = [index for index in indices if finish_s[index] <= limit]
    return tied[0] if len(tied) == 1 else rng.choice(tied)


def weighted(weights: Sequence[float], rng: Random) -> int:
    """Return an index by lot, each in proportion to its weight."""
    total = sum(weights)
    assert total > 0.0
    point = rng.random() * total
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0.0:
            return index
    return len(weights) - 1
